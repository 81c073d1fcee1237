"""How pixels could be stored: encoding, container, compression, rows a row group.

    python benchmarks/storage.py [FOLDER] [--size 300] [--crop center] [--images 512] [--rounds 3]

Images of FOLDER (any format that `prepare` takes), or SYNTHETIC C-NMC cells without it, become
storage pixels and are written in every form: kB an image, and images/s of one thread writing,
reading in order, and reading single images in random order, each into one uint8 array. Contestants
take turns; the median of the rounds. Files are warm in the page cache.
"""

from __future__ import annotations

import argparse
import io
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from leuk_ray.datasets import images
from leuk_ray.datasets.columns import as_column, as_pixels
from leuk_ray.datasets.images import StorageSettings
from leuk_ray.datasets.synthetic import SyntheticSpec, write_c_nmc

ROWS_PER_FILE = 256  # as in a part of a large dataset


@dataclass(frozen=True)
class Form:
    """One way to store images: write(pixels, folder), read(folder, rows) -> pixels a stretch."""

    name: str
    write: Callable[[np.ndarray, Path], None]
    read: Callable[[Path, np.ndarray], Iterator[np.ndarray]]


def parquet(size: int, compression: str, rows_per_group: int) -> Form:
    def write(pixels: np.ndarray, folder: Path) -> None:
        for start in range(0, len(pixels), ROWS_PER_FILE):
            table = pa.table({"image": as_column(pixels[start : start + ROWS_PER_FILE])})
            path = folder / f"{start}.parquet"
            pq.write_table(table, path, rows_per_group, compression=compression)

    def read(folder: Path, rows: np.ndarray) -> Iterator[np.ndarray]:
        files = {
            start: pq.ParquetFile(folder / f"{start}.parquet")
            for start in np.unique(rows // ROWS_PER_FILE * ROWS_PER_FILE).tolist()
        }
        for stretch in _stretches(rows, rows_per_group):
            first = int(stretch[0])
            file = files[first // ROWS_PER_FILE * ROWS_PER_FILE]
            group = first % ROWS_PER_FILE // rows_per_group
            column = file.read_row_group(group, columns=["image"], use_threads=False)["image"]
            yield as_pixels(column, size)[stretch % rows_per_group]

    return Form(f"raw, Parquet, {compression}, {rows_per_group} rows a group", write, read)


def ipc(size: int, compression: str | None, rows_per_batch: int) -> Form:
    def write(pixels: np.ndarray, folder: Path) -> None:
        table = pa.table({"image": as_column(pixels)})
        options = pa.ipc.IpcWriteOptions(compression=compression)
        with pa.ipc.new_file(folder / "images.arrow", table.schema, options=options) as writer:
            writer.write_table(table, rows_per_batch)

    def read(folder: Path, rows: np.ndarray) -> Iterator[np.ndarray]:
        file = pa.ipc.open_file(pa.memory_map(str(folder / "images.arrow")))
        for stretch in _stretches(rows, rows_per_batch):
            batch = file.get_batch(int(stretch[0]) // rows_per_batch)
            yield as_pixels(batch["image"], size)[stretch % rows_per_batch]

    name = f"raw, Arrow IPC mapped, {compression or 'none'}, {rows_per_batch} rows a batch"
    return Form(name, write, read)


def encoded(file_format: str, **options: object) -> Form:
    """Files of their own, decoded by Pillow: lossless formats."""

    def write(pixels: np.ndarray, folder: Path) -> None:
        for row, image in enumerate(pixels):
            Image.fromarray(image).save(folder / f"{row}", file_format, **options)

    def read(folder: Path, rows: np.ndarray) -> Iterator[np.ndarray]:
        for row in rows.tolist():
            data = (folder / f"{row}").read_bytes()
            yield np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))[None]

    return Form(f"{file_format} files", write, read)


def _stretches(rows: np.ndarray, length: int) -> Iterator[np.ndarray]:
    """Neighbours of one block stay together when they follow each other."""
    return iter(np.split(rows, np.flatnonzero(np.diff(rows // length)) + 1))


def forms(size: int) -> list[Form]:
    return [
        *(parquet(size, "lz4", rows) for rows in (1, 4, 8, 16, 64)),
        parquet(size, "zstd", 8),
        parquet(size, "none", 8),
        ipc(size, None, 8),
        ipc(size, "lz4", 8),
        encoded("BMP"),
        encoded("PNG"),
        encoded("WEBP", lossless=True),
    ]


def measure(form: Form, pixels: np.ndarray, order: np.ndarray, scratch: Path) -> dict[str, float]:
    """kB an image and images/s; checks that the pixels come back."""
    folder = Path(tempfile.mkdtemp(dir=scratch))
    started = time.perf_counter()
    form.write(pixels, folder)
    rates = {"write": len(pixels) / (time.perf_counter() - started)}
    total = sum(path.stat().st_size for path in folder.iterdir())
    for name, rows in (("in order", np.arange(len(pixels))), ("shuffled", order)):
        out = np.empty_like(pixels[: len(rows)])
        started, place = time.perf_counter(), 0
        for read in form.read(folder, rows):
            out[place : place + len(read)] = read
            place += len(read)
        rates[name] = len(rows) / (time.perf_counter() - started)
        assert np.array_equal(out, pixels[rows]), f"{form.name}: other pixels"
    for path in folder.iterdir():
        path.unlink()
    return {"kB": total / len(pixels) / 1000, **rates}


def load(folder: Path, storage: StorageSettings, num: int) -> np.ndarray:
    """Storage pixels of the folder's images, by turns until there are `num`."""
    files = sorted(path for path in folder.rglob("*") if path.suffix in (".bmp", ".jpg", ".png"))
    each = [images.read(path.read_bytes(), storage) for path in files[:num]]
    return np.stack([each[i % len(each)] for i in range(num)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, nargs="?")
    parser.add_argument("--size", type=int, default=300)
    parser.add_argument("--crop", choices=("center", "tight", "full"), default="center")
    parser.add_argument("--images", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="leuk_ray-storage-") as temporary:
        scratch = Path(temporary)
        if not options.folder:
            write_c_nmc(scratch / "cells", SyntheticSpec(cells=options.images, subjects=16))
        storage = StorageSettings(size=options.size, crop=options.crop)
        pixels = load(options.folder or scratch / "cells", storage, options.images)
        order = np.random.default_rng(0).permutation(len(pixels))
        found: dict[str, list[dict[str, float]]] = {}
        for turn in range(options.rounds):
            for form in forms(options.size):
                found.setdefault(form.name, []).append(measure(form, pixels, order, scratch))
            print(f"round {turn + 1} of {options.rounds}", file=sys.stderr)
    print(
        "| form | kB an image | written/s | read in order/s | shuffled/s |\n|---|---|---|---|---|"
    )
    for name, rounds in found.items():
        figures = (statistics.median(r[key] for r in rounds) for key in rounds[0])
        print(f"| {name} | {' | '.join(f'{figure:,.0f}' for figure in figures)} |")


if __name__ == "__main__":
    main()
