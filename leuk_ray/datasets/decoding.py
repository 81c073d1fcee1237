"""What a task of `prepare` does: image files to one Parquet file, and what is known of each.

The task's process imports this module, so it has neither Ray nor SciPy's larger parts.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import imagehash
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image, ImageOps

from leuk_ray.datasets import images
from leuk_ray.datasets.images import BadImageError, StorageSettings, cell_mask
from leuk_ray.datasets.layouts.all_idb import CELLS, FIELDS
from leuk_ray.datasets.prepared import METADATA_SCHEMA, ROWS_PER_GROUP, image_schema
from leuk_ray.io.locations import Location, filesystem, join

THUMB = 32  # side of a thumbnail
ON_SLIDES = (FIELDS, CELLS)
REDUCED = 4  # pixels of a side in one of `reduced_grey`
RESULT_SCHEMA = pa.schema(
    [
        *METADATA_SCHEMA,
        ("row", pa.int32()),
        ("thumb", pa.binary(THUMB**2)),
        ("converted", pa.bool_()),
        ("reduced", pa.binary()),
        ("reason", pa.string()),
        ("detail", pa.string()),
    ]
)


def part_name(number: int) -> str:
    """Name a part's Parquet file."""
    return f"part-{number:05d}.parquet"


def prepare_part(
    rows: pa.Table, target: Location, rows_per_part: int, settings: StorageSettings
) -> pa.Table:
    """Decode a part of the catalogue and write its Parquet file.

    Args:
        rows: CATALOGUE_SCHEMA and `row`, one row an image.
        target: folder of the files, local or in an object store.
        rows_per_part: of which the number of the part follows.
        settings: crop and size of the stored pixels.

    Returns:
        RESULT_SCHEMA, no pixels: `reason` and `detail` tell why an image was rejected.
    """
    schema = image_schema(settings.size)
    number = rows["row"][0].as_py() // rows_per_part
    files, path = filesystem(join(target, part_name(number)))
    results = []
    with pq.ParquetWriter(path, schema, compression="lz4", filesystem=files) as writer:
        pending: list[dict[str, Any]] = []
        for row in rows.to_pylist():
            try:
                cell = prepare_cell(row, settings)
            except BadImageError as error:
                results.append({**row, "reason": error.reason, "detail": error.detail})
                continue
            results.append({name: value for name, value in cell.items() if name != "image"})
            pending.append(cell)
            if len(pending) == ROWS_PER_GROUP:
                writer.write_table(pa.Table.from_pylist(pending, schema=schema))
                pending.clear()
        if pending:
            writer.write_table(pa.Table.from_pylist(pending, schema=schema))
    return pa.Table.from_pylist(results, schema=RESULT_SCHEMA)


def prepare_cell(row: dict[str, Any], settings: StorageSettings) -> dict[str, Any]:
    """Make of a row of the catalogue one of the dataset, with `thumb`, `converted` and `reduced`.

    Raises:
        BadImageError: a file that is no usable image.
    """
    data = images.file_bytes(Path(row["path"]))
    picture = images.decode_picture(data)
    pixels = picture.pixels
    height, width = pixels.shape[:2]
    if row["side"] is not None and (width, height) != (row["side"], row["side"]):
        wanted = f"{row['side']} x {row['side']}"
        raise BadImageError("size", f"is {width} x {height}, the layout promises {wanted}")
    stored = images.to_storage(pixels, settings)
    return {
        **row,
        "image": stored.tobytes(),
        "thumb": thumbnail(stored).tobytes(),
        "sha256": hashlib.sha256(data).hexdigest(),
        "pixels_sha256": _pixels_sha256(pixels),
        "phash": str(imagehash.phash(Image.fromarray(pixels))),
        "width": width,
        "height": height,
        "format": picture.format,
        "file_bytes": len(data),
        "converted": picture.converted,
        "reduced": reduced_grey(pixels).tobytes() if row["source"] in ON_SLIDES else None,
    }


def thumbnail(image: np.ndarray) -> np.ndarray:
    """Shrink a picture around its cell's centre to grey levels: (S, S, 3) to (THUMB, THUMB) uint8.

    The cell is what is not black; the whole picture where nothing is.
    """
    cell = cell_mask(image)
    side = len(image)
    y, x = _centre(cell) if cell.any() else (side / 2, side / 2)
    wide = ImageOps.expand(Image.fromarray(image).convert("L"), side // 2)
    box = (x, y, min(x + side, wide.width), min(y + side, wide.height))
    return np.asarray(wide.resize((THUMB, THUMB), Image.Resampling.BILINEAR, box))


def reduced_grey(pixels: np.ndarray) -> np.ndarray:
    """Shrink a file to grey levels at 1/REDUCED of its size, rounded up: what `slides` compares."""
    return np.asarray(Image.fromarray(pixels).convert("L").reduce(REDUCED))


def _centre(cell: np.ndarray) -> tuple[float, float]:
    """Return the mean row and column of a mask."""
    number, steps = cell.sum(), np.arange(len(cell))
    return float(cell.sum(axis=1) @ steps / number), float(cell.sum(axis=0) @ steps / number)


def _pixels_sha256(pixels: np.ndarray) -> str:
    """Identity of an image whatever file holds it: the shape, then the pixels."""
    digest = hashlib.sha256(repr(pixels.shape).encode())
    digest.update(np.ascontiguousarray(pixels).data)
    return digest.hexdigest()
