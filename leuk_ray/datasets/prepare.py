"""Image files to a prepared dataset, on Ray Data.

Each task decodes one part of the catalogue, writes that part's Parquet file and returns its
metadata: pixels never pass through the object store, so memory stays bounded by the tasks
that run at once.
"""

from __future__ import annotations

import hashlib
import stat
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import imagehash
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import ray.data
from PIL import Image

from leuk_ray import images
from leuk_ray.datasets import layouts
from leuk_ray.datasets.groups import assign_groups
from leuk_ray.datasets.layouts import LayoutOptions
from leuk_ray.datasets.layouts.all_idb import FIELDS
from leuk_ray.datasets.near_duplicates import find_near_duplicates
from leuk_ray.datasets.prepared import (
    CLASSES,
    METADATA_SCHEMA,
    ROWS_PER_GROUP,
    SCHEMA_VERSION,
    PreparedDataset,
    count_roles,
    fingerprint,
    image_schema,
)
from leuk_ray.datasets.slides import find_slides
from leuk_ray.errors import UserError
from leuk_ray.images import BadImageError, StorageSettings
from leuk_ray.locations import Location, filesystem, join
from leuk_ray.storage import directory_by_rename, read_json, refuse_existing, write_json

ROWS_PER_PART = 256
_NO_OPTIONS = LayoutOptions()
_RESULT_SCHEMA = pa.schema([*METADATA_SCHEMA, ("path", pa.string()), ("reason", pa.string())])
_REJECTED_SCHEMA = pa.schema(
    [("path", pa.string()), ("reason", pa.string()), ("detail", pa.string())]
)


def prepare(
    source: Path,
    target: Location,
    layout: str,
    storage: StorageSettings,
    progress: Callable[[int, int], None] = lambda done, total: None,
    options: LayoutOptions = _NO_OPTIONS,
) -> dict:
    """Decode every image of `source` into the dataset `target`; Ray must be initialised.

    Args:
        source: folder of image files, or the file that lists them.
        target: dataset folder to make; it appears only when complete. In an object store the
            images are written where they stay, since tasks of other machines write them, and
            dataset.json last.
        layout: a name in `layouts.LAYOUTS`.
        storage: crop and size of the stored pixels.
        progress: called with (images done, images in all).
        options: what names alone do not say.

    Returns:
        The content of dataset.json. counts: files = rows + rejected.

    Raises:
        UserError: nothing to read, target exists, or no image could be decoded.
    """
    refuse_existing(target, "dataset")
    catalogue = layouts.read_layout(layout, source, options)
    table = catalogue.table()
    if FIELDS in table["source"].to_pylist() and storage.crop != "full":
        raise UserError(f"--crop {storage.crop}: {source} holds whole fields; use --crop full")
    target = target.absolute() if isinstance(target, Path) else target
    with directory_by_rename(target) as partial:
        place = partial if isinstance(target, Path) else target
        (partial / "images").mkdir()
        results = _decode_all(table, join(place, "images"), storage, progress)
        rows = results.filter(results["reason"].is_null()).select(METADATA_SCHEMA.names)
        if not len(rows):
            raise UserError(f"{source}: none of {len(table)} images could be decoded")
        rejected = [asdict(item) for item in catalogue.rejected] + _rejections(results)
        files = len(table) + len(catalogue.rejected)
        assert len(rows) + len(rejected) == files, "an image was lost"
        stored = PreparedDataset(place, {"storage": storage.model_dump()})
        near = find_near_duplicates(rows, stored.reader())
        slides = find_slides(rows, stored.reader(), _decoder(results))
        groups = assign_groups(rows, _pairs(near), _pairs(slides))
        facts = _facts(source, layout, storage, rows, groups, len(rejected))
        pq.write_table(groups, partial / "groups.parquet")
        pq.write_table(near, partial / "near_duplicates.parquet")
        pq.write_table(slides, partial / "slides.parquet")
        rejected_table = pa.Table.from_pylist(rejected, schema=_REJECTED_SCHEMA)
        pq.write_table(rejected_table, partial / "rejected.parquet")
        write_json(partial / "dataset.json", facts)
    return facts


def _decode_all(
    table: pa.Table,
    target: Location,
    storage: StorageSettings,
    progress: Callable[[int, int], None],
) -> pa.Table:
    """One block, one task and one file a part; metadata comes back as parts finish."""
    per_part = min(ROWS_PER_PART, max(32, len(table) // 16))
    parts = []
    for number, start in enumerate(range(0, len(table), per_part)):
        rows = table.slice(start, per_part)
        path = str(join(target, f"part-{number:05d}.parquet"))
        parts.append(rows.append_column("part", pa.array([path] * len(rows))))
    dataset = ray.data.from_arrow(parts).map_batches(
        _prepare_part,  # pyright: ignore[reportArgumentType]
        batch_size=None,
        batch_format="pyarrow",
        fn_kwargs={"storage": storage.model_dump()},
    )
    dataset.context.raise_original_map_exception = True  # a full disk is told as one
    results: list[pa.Table] = []
    done = 0
    progress(0, len(table))
    for batch in dataset.iter_batches(batch_size=None, batch_format="pyarrow"):
        results.append(pa.table(batch).cast(_RESULT_SCHEMA))
        done += len(batch)
        progress(done, len(table))
    return pa.concat_tables(results).sort_by("uid")


def _prepare_part(rows: pa.Table, storage: dict) -> pa.Table:
    settings = StorageSettings(**storage)
    schema = image_schema(settings.size)
    files, path = filesystem(rows["part"][0].as_py())
    results = []
    with pq.ParquetWriter(path, schema, compression="lz4", filesystem=files) as writer:
        pending: list[dict] = []
        for row in rows.to_pylist():
            try:
                cell = prepare_cell(row, settings)
            except BadImageError as error:
                results.append({**row, "reason": f"{error.reason}|{error.detail}"})
                continue
            results.append({**cell, "path": row["path"]})
            pending.append(cell)
            if len(pending) == ROWS_PER_GROUP:
                writer.write_table(pa.Table.from_pylist(pending, schema=schema))
                pending.clear()
        if pending:
            writer.write_table(pa.Table.from_pylist(pending, schema=schema))
    return pa.Table.from_pylist(results, schema=_RESULT_SCHEMA)


def prepare_cell(row: dict, settings: StorageSettings) -> dict:
    """One row of the catalogue to one row of the dataset; raises BadImageError."""
    data = _read(Path(row["path"]))
    pixels = images.decode(data)
    height, width = pixels.shape[:2]
    if row["side"] is not None and (width, height) != (row["side"], row["side"]):
        wanted = f"{row['side']} x {row['side']}"
        raise BadImageError("size", f"is {width} x {height}, the layout promises {wanted}")
    return {
        **row,
        "image": images.to_storage(pixels, settings).tobytes(),
        "sha256": hashlib.sha256(data).hexdigest(),
        "pixels_sha256": _pixels_sha256(pixels),
        "phash": str(imagehash.phash(Image.fromarray(pixels))),
        "width": width,
        "height": height,
        "format": images.file_format(data),
        "file_bytes": len(data),
    }


def _read(path: Path) -> bytes:
    """The file, or as much of it as shows that it is too large."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise BadImageError("unreadable", "is a pipe, a device or a folder, not a file")
        with path.open("rb") as stream:
            return stream.read(images.MAX_BYTES + 1)
    except OSError as error:
        raise BadImageError("unreadable", error.strerror or str(error)) from error


def _pixels_sha256(pixels: np.ndarray) -> str:
    """Identity of an image whatever file holds it: the shape, then the pixels."""
    digest = hashlib.sha256(repr(pixels.shape).encode())
    digest.update(np.ascontiguousarray(pixels).data)
    return digest.hexdigest()


def _decoder(results: pa.Table) -> Callable[[str], np.ndarray]:
    path = dict(zip(results["uid"].to_pylist(), results["path"].to_pylist(), strict=True))
    return lambda uid: images.decode(Path(path[uid]).read_bytes())


def _pairs(table: pa.Table) -> list[tuple[str, str]]:
    return list(zip(table["uid_a"].to_pylist(), table["uid_b"].to_pylist(), strict=True))


def _rejections(results: pa.Table) -> list[dict[str, str]]:
    rejected = results.filter(results["reason"].is_valid())
    out = []
    for row in rejected.select(["path", "reason"]).to_pylist():
        reason, _, detail = row["reason"].partition("|")
        out.append({"path": row["path"], "reason": reason, "detail": detail})
    return out


def _facts(
    source: Path, layout: str, storage: StorageSettings, rows: pa.Table, groups: pa.Table, bad: int
) -> dict:
    labels = rows["label"].to_pylist()
    facts = {
        "schema_version": SCHEMA_VERSION,
        "layout": layout,
        "classes": list(CLASSES),
        "storage": storage.model_dump(),
        "counts": {
            "files": len(rows) + bad,
            "rows": len(rows),
            "rejected": bad,
            "ALL": labels.count(1),
            "healthy": labels.count(0),
            "unlabelled": labels.count(None),
            "subjects": len(set(rows["subject"].to_pylist()) - {None}),
            "groups": len(set(groups["group"].to_pylist())),
            "roles": count_roles(groups),
        },
        "fingerprint": fingerprint(rows["sha256"].to_pylist()),
        "synthetic": False,
    }
    marker = source / layouts.SYNTHETIC_MARKER
    if marker.exists():
        made = read_json(marker)
        facts |= {"synthetic": True} | {
            name: made.get(name) for name in ("best_auc", "subject_share")
        }
    return facts
