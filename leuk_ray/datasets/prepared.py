"""A prepared dataset: Parquet with raw pixels, one row a cell.

    dataset.json             what it is, counts, fingerprint (see `identity`)
    images/*.parquet         image_schema; `image` holds raw uint8 pixels, height x width x 3
    groups.parquet           uid, group, status, duplicate_id
    columns.parquet          uid, kept.NAME: columns kept for results by their values, if any
    near_duplicates.parquet  uid_a, uid_b, correlation
    slides.parquet           uid_a, uid_b, kind (crop, overlap), correlation
    rejected.parquet         path, kind (rejected, skipped), reason, detail of every other file
    audit.json               written by `audit`

Row groups are small (ROWS_PER_GROUP), so that a shuffled batch can be read without
decompressing a whole file.
"""

from __future__ import annotations

import hashlib
import json
from collections import OrderedDict
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from leuk_ray.datasets.classes import BINARY, ClassSet
from leuk_ray.datasets.columns import as_column, as_pixels
from leuk_ray.datasets.identity import DatasetIdentity
from leuk_ray.datasets.images import StorageSettings
from leuk_ray.io.locations import Location, filesystem, join, parse, reason
from leuk_ray.io.storage import list_files, read_json, read_table
from leuk_ray.utils.errors import DataError, StorageError, UserError

if TYPE_CHECKING:
    import pandas as pd

SCHEMA_VERSION = 3  # 3: any number of classes; 2 had ALL and healthy alone, and is still read
# Columns of groups.parquet: as older datasets name them -> as they are named now.
_RENAMED = {"role": "status", "picture": "duplicate_id"}
ROWS_PER_GROUP = 8
KEPT_COLUMNS = "columns.parquet"
_OPEN_FILES = 64
_FILES_AT_ONCE = 8

METADATA_SCHEMA = pa.schema(
    [
        ("uid", pa.string()),
        ("label", pa.int8()),
        ("subject", pa.string()),
        ("source", pa.string()),
        ("source_image", pa.string()),
        ("official_split", pa.string()),
        ("site", pa.string()),
        ("stain", pa.string()),
        ("sha256", pa.string()),
        ("pixels_sha256", pa.string()),
        ("phash", pa.string()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("format", pa.string()),
        ("file_bytes", pa.int64()),
    ]
)
# Of a million cells every worker holds these: what `prepare` alone compares stays in the files.
CELL_COLUMNS = [name for name in METADATA_SCHEMA.names if name not in ("sha256", "phash")]


def image_schema(size: int) -> pa.Schema:
    """Add the pixels of a (size, size, 3) uint8 image to METADATA_SCHEMA."""
    return METADATA_SCHEMA.insert(1, pa.field("image", pa.binary(size * size * 3)))


@contextmanager
def _undamaged(place: Location) -> Generator[None]:
    """Name the file of a dataset that is missing, cut off or altered.

    Raises:
        UserError: what is wrong with it.
    """
    try:
        yield
    except UserError:
        raise
    except FileNotFoundError as error:
        raise _damaged(place, "is missing") from error
    except (pa.ArrowException, OSError, KeyError, TypeError, ValueError) as error:
        if isinstance(error, OSError) and error.errno:
            raise StorageError(f"{place}: cannot be read ({reason(error)})") from error
        raise _damaged(place, "is cut off or was altered") from error


def _from_two_classes(manifest: dict[str, Any]) -> dict[str, Any]:
    """dataset.json of schema version 2, which knew ALL and healthy alone, as it is now."""
    counts = dict(manifest.get("counts", {}))
    counts["classes"] = {name: counts.pop(name, 0) for name in BINARY.names}
    named = {"classes": BINARY.names, "positive": BINARY.positive, "ordered": False}
    return manifest | named | {"counts": counts, "schema_version": SCHEMA_VERSION}


def _damaged(place: Location, what: str) -> UserError:
    return DataError(f"{place}: {what}; copy the dataset again, or prepare the images again")


@dataclass(frozen=True)
class PreparedDataset:
    """An opened dataset. Rows are numbered by sorted uid; every module speaks of them so.

    location: absolute local path, or s3:// or gs:// address.
    manifest: the content of dataset.json.
    """

    location: Location
    manifest: dict[str, Any]

    @classmethod
    def open(cls, location: Location) -> PreparedDataset:
        """Open a dataset.

        Raises:
            UserError: there is none, it cannot be read, or it has another schema version.
        """
        place = parse(str(location))
        try:
            manifest = read_json(join(place, "dataset.json"))
        except (FileNotFoundError, NotADirectoryError) as error:
            raise DataError(
                f"{location}: is no prepared dataset (no dataset.json); "
                "make one with `leuk-ray prepare`"
            ) from error
        if isinstance(manifest, dict) and manifest.get("schema_version") == 2:
            manifest = _from_two_classes(manifest)
        version = manifest.get("schema_version") if isinstance(manifest, dict) else None
        if version != SCHEMA_VERSION:
            raise DataError(
                f"{location}: schema version {version}, this leuk_ray reads {SCHEMA_VERSION}; "
                "prepare the images again"
            )
        with _undamaged(join(place, "dataset.json")):
            if "roles" in manifest["counts"]:  # as older versions named them
                manifest["counts"]["statuses"] = manifest["counts"].pop("roles")
            StorageSettings(**manifest["storage"])
            ClassSet.of_manifest(manifest)
            if not (
                isinstance(manifest["fingerprint"], str) and isinstance(manifest["synthetic"], bool)
            ):
                raise TypeError
        return cls(place.absolute() if isinstance(place, Path) else place, manifest)

    def to_pandas(self) -> pd.DataFrame:
        """Return the cells without pixels, a row each: uid, label, subject, group and so on."""
        return self.cells.to_pandas()

    def __repr__(self) -> str:
        counts = self.manifest["counts"]
        classes = ", ".join(f"{number} {name}" for name, number in counts["classes"].items())
        synthetic = " SYNTHETIC" * self.synthetic
        return f"<{self.location}: {counts['rows']}{synthetic} cells ({classes})>"

    @cached_property
    def classes(self) -> ClassSet:
        """What the labels mean."""
        return ClassSet.of_manifest(self.manifest)

    @property
    def storage(self) -> StorageSettings:
        """How the files became these pixels."""
        return StorageSettings(**self.manifest["storage"])

    @property
    def synthetic(self) -> bool:
        """Whether the images were rendered."""
        return bool(self.manifest["synthetic"])

    @cached_property
    def cells(self) -> pa.Table:
        """CELL_COLUMNS, group, status, duplicate_id, kept columns; a row a cell, by uid."""
        cells = self._index.select(CELL_COLUMNS)
        place = join(self.location, "groups.parquet")
        with _undamaged(place):
            groups = self.read_table("groups.parquet").sort_by("uid")
            if not groups["uid"].equals(cells["uid"]):
                raise _damaged(place, "names other cells than the files in images")
            groups = groups.rename_columns(
                [_RENAMED.get(name, name) for name in groups.schema.names]
            )
            for name in ("group", "status", "duplicate_id"):
                cells = cells.append_column(name, groups[name])
        if self.manifest.get("kept_columns"):
            place = join(self.location, KEPT_COLUMNS)
            with _undamaged(place):
                kept = self.read_table(KEPT_COLUMNS).sort_by("uid")
                if not kept["uid"].equals(cells["uid"]):
                    raise _damaged(place, "names other cells than the files in images")
                for name in kept.column_names[1:]:
                    cells = cells.append_column(name, kept[name])
        return cells

    @cached_property
    def identity(self) -> DatasetIdentity:
        """What the rows are now, so that labels changed by hand are another dataset."""
        return DatasetIdentity.of(self.cells, self.storage, self.classes)

    @cached_property
    def near_duplicates(self) -> pa.Table:
        """Pairs that show the same picture: uid_a, uid_b, correlation."""
        return self.read_table("near_duplicates.parquet")

    @cached_property
    def slides(self) -> pa.Table:
        """Pairs of images from one slide: uid_a, uid_b, kind (crop, overlap), correlation."""
        return self.read_table("slides.parquet")

    def read_table(self, name: str) -> pa.Table:
        """Read one of the small tables beside the images."""
        place = join(self.location, name)
        with _undamaged(place):
            return read_table(place)

    def reader(self) -> PixelReader:
        """Make a reader of this dataset's pixels, for one thread."""
        parts = self._index["part"].to_numpy().astype(np.int32)
        offsets = self._index["offset"].to_numpy().astype(np.int32)
        return PixelReader(self.location, self.storage.size, self._parts, parts, offsets)

    def pixels_key(self) -> str:
        """Return a hexadecimal hash that identifies these stored pixels in this order.

        The files' sizes and times are in it: images that were prepared anew, perhaps by another
        version, have the old fingerprint.
        """
        files, _ = filesystem(self.location)
        infos = files.get_file_info(self._parts)
        key = {name: self.manifest[name] for name in ("fingerprint", "schema_version", "storage")}
        key["parts"] = [(info.base_name, info.size, info.mtime_ns) for info in infos]
        return hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:32]

    @cached_property
    def _parts(self) -> list[str]:
        folder = join(self.location, "images")
        _, root = filesystem(folder)
        return [f"{root}/{name}" for name in list_files(folder) if name.endswith(".parquet")]

    @cached_property
    def _index(self) -> pa.Table:
        """Metadata with the part and the row in it where each cell's pixels lie."""
        files, _ = filesystem(self.location)

        def read(part: int) -> pa.Table:
            path = self._parts[part]
            with _undamaged(path), pq.ParquetFile(files.open_input_file(path)) as file:
                table = file.read(columns=CELL_COLUMNS, use_threads=False).select(CELL_COLUMNS)
            rows = np.arange(len(table), dtype=np.int32)
            table = table.append_column("part", pa.array(np.full_like(rows, part)))
            return table.append_column("offset", pa.array(rows))

        # Many files, much waiting.
        with ThreadPoolExecutor(_FILES_AT_ONCE) as threads:
            tables = list(threads.map(read, range(len(self._parts))))
        folder = join(self.location, "images")
        if not tables:
            raise _damaged(folder, "holds no file")
        table = pa.concat_tables(tables).sort_by("uid").combine_chunks()
        wanted = self.manifest.get("counts", {}).get("rows", len(table))
        if len(table) != wanted:
            raise _damaged(folder, f"holds {len(table)} of {wanted} cells, files are missing")
        return table


class PixelReader:
    """Reads pixels of any rows, in any order, from the small row groups of the Parquet files.

    Picklable and cheap to send: it opens files where it runs.
    """

    def __init__(
        self, location: Location, size: int, paths: list[str], part: np.ndarray, offset: np.ndarray
    ) -> None:
        self.location = location
        self.size = size
        self.paths = paths
        self.part = part
        self.offset = offset
        self._files: OrderedDict[int, pq.ParquetFile] = OrderedDict()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_files": OrderedDict()}

    def __len__(self) -> int:
        return len(self.part)

    def read(self, rows: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
        """Pixels of `rows`, in their order: (len(rows), size, size, 3) uint8, `out` if given."""
        if out is None:
            out = np.empty((len(rows), self.size, self.size, 3), np.uint8)
        part, offset = self.part[rows], self.offset[rows]
        row_group = offset // ROWS_PER_GROUP
        order = np.lexsort((row_group, part))
        starts = np.flatnonzero(
            np.diff(part[order], prepend=-1) | np.diff(row_group[order], prepend=-1)
        )
        for places in np.split(order, starts[1:]):
            if len(places):
                first = places[0]
                pixels = self._row_group(int(part[first]), int(row_group[first]))
                out[places] = pixels[offset[places] % ROWS_PER_GROUP]
        return out

    def _row_group(self, part: int, row_group: int) -> np.ndarray:
        with _undamaged(self.paths[part]):
            file = self._file(part)
            column = file.read_row_group(row_group, columns=["image"], use_threads=False)
            return as_pixels(column["image"].combine_chunks(), self.size)

    def _file(self, part: int) -> pq.ParquetFile:
        if part not in self._files:
            files, _ = filesystem(self.location)
            self._files[part] = pq.ParquetFile(files.open_input_file(self.paths[part]))
            if len(self._files) > _OPEN_FILES:
                self._files.popitem(last=False)[1].close()
        self._files.move_to_end(part)
        return self._files[part]


def read_block(block: pa.Table, reader: PixelReader) -> pa.Table:
    """Add the pixels of a block of `row` as `image`.

    What a task of Ray Data runs stands here, since its process imports the module: without torch.
    """
    return block.append_column("image", as_column(reader.read(block["row"].to_numpy())))


def count_statuses(cells: pa.Table) -> dict[str, int]:
    """Count the rows of each status (keep, duplicate, conflict)."""
    counts = cells["status"].value_counts()
    return {item["values"].as_py(): item["counts"].as_py() for item in counts}
