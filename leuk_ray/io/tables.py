"""Tables for people: CSV or Parquet, by the name of the file."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv

from leuk_ray.io.locations import Location, name_of
from leuk_ray.io.storage import write_bytes, write_table


def write_rows(out: Location, table: pa.Table) -> None:
    """Write a table, .csv or .parquet.

    In CSV a quote stands before text, also of the header, that spreadsheets take for a formula.
    """
    if name_of(out).endswith(".csv"):
        for place, field in enumerate(table.schema):
            if pa.types.is_string(field.type):
                table = table.set_column(place, field, _no_formula(table[place]))
        names = pa.chunked_array([pa.array(table.column_names, pa.string())])
        table = table.rename_columns(_no_formula(names).to_pylist())
        stream = pa.BufferOutputStream()
        pacsv.write_csv(table, stream)
        write_bytes(out, stream.getvalue())
    else:
        write_table(out, table)


def _no_formula(text: pa.ChunkedArray) -> pa.ChunkedArray:
    return pc.replace_substring_regex(text, r"^([=+\-@\t\r])", r"'\1")  # pyright: ignore
