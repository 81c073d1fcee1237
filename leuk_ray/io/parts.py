"""A job's results, part by part, so that a killed job goes on where it was."""

from __future__ import annotations

from collections.abc import Mapping

import pyarrow as pa

from leuk_ray.io.locations import Location, join, name_of, parent
from leuk_ray.io.storage import (
    exists,
    list_files,
    make_folder,
    read_json,
    read_table,
    remove,
    write_json,
    write_table,
)
from leuk_ray.utils.errors import UserError

_JOB = "job.json"
_DIFFERS = {
    "bundle": "another bundle",
    "images": "other images, or these have changed since (place, size or time)",
    "settings": "other settings",
}


class Parts:
    """Rows of a job's items in OUT.parts/, each part a table with the items' numbers."""

    def __init__(
        self, out: Location, job: Mapping[str, str], schema: pa.Schema, resume: bool
    ) -> None:
        """Begin, or go on with what a killed job left.

        Args:
            out: what the job writes when all parts are there.
            job: what makes two jobs the same: digests of bundle, images, settings.
            schema: of a part; `number` is the item that a row is for.
            resume: go on where parts of the same job lie.

        Raises:
            UserError: parts of another job are there, or `resume` was not asked for.
        """
        self.folder = join(parent(out), name_of(out) + ".parts")
        self._schema = schema
        if not exists(join(self.folder, _JOB)):
            make_folder(self.folder)
            write_json(join(self.folder, _JOB), dict(job))
        elif not resume:
            raise UserError(
                f"{self.folder}: holds what a job that was stopped had done; add --resume to go on "
                "from there, or remove it"
            )
        elif (begun := read_json(join(self.folder, _JOB))) != job:
            differing = [name for name in job if begun.get(name) != job[name]]
            raise UserError(
                f"{self.folder}: was begun with {_DIFFERS[(differing or [*job])[0]]}; remove it to "
                "start anew, or name another --out"
            )

    def missing(self, total: int) -> list[int]:
        """Numbers of the items, of `total`, that no part holds."""
        done = set(self._rows()["number"].to_pylist())
        return [number for number in range(total) if number not in done]

    def add(self, part: pa.Table) -> None:
        """Keep a part; what was kept survives a kill."""
        first = part["number"][0].as_py()
        write_table(join(self.folder, f"{first:09d}.parquet"), part)

    def table(self, total: int) -> pa.Table:
        """Return all rows, by number; asserts that there is one for each of `total`."""
        rows = self._rows().sort_by("number")
        assert rows["number"].to_pylist() == list(range(total)), "items in and rows out differ"
        return rows

    def remove(self) -> None:
        """Remove all parts."""
        remove(self.folder)

    def _rows(self) -> pa.Table:
        # What the parts' own folders hold, such as crops, is no part.
        names = [n for n in list_files(self.folder) if n.endswith(".parquet") and "/" not in n]
        tables = [read_table(join(self.folder, name)) for name in names]
        return pa.concat_tables([self._schema.empty_table(), *tables])
