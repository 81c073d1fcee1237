"""`prepare` beside a bare pool of processes that decodes, crops, hashes and writes the same files.

    python benchmarks/prepare.py [--cells 2000] [--rounds 2] [--results F.json]

SYNTHETIC cells of 450 x 450 pixels as BMP. Both work part by part with one process a core, in
turns, and images/s are counted from the first part that is done to the last, so that starting
processes counts for neither. The pool writes Parquet with the same rows; the search for near
duplicates, which `prepare` does afterwards, is not counted. `prepare` makes 16 parts of few images,
parts of 256 of many: with 10,661 cells it spends less on each.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
import tempfile
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import ray
from results import Result, finish, ratios

from leuk_ray.cluster import ray_cluster
from leuk_ray.datasets import layouts
from leuk_ray.datasets.decoding import prepare_cell
from leuk_ray.datasets.images import StorageSettings
from leuk_ray.datasets.layouts import LayoutOptions
from leuk_ray.datasets.prepare import prepare
from leuk_ray.datasets.prepared import ROWS_PER_GROUP, image_schema
from leuk_ray.datasets.synthetic import SyntheticSpec, write_c_nmc

CORES = os.cpu_count() or 1
STORAGE = StorageSettings()
_ROWS_PER_PART = 64


def write_part(job: tuple[list[dict], Path]) -> int:
    """What a process of the bare pool does; returns the number of images."""
    rows, path = job
    schema = image_schema(STORAGE.size)
    with pq.ParquetWriter(path, schema, compression="lz4") as writer:
        for start in range(0, len(rows), ROWS_PER_GROUP):
            cells = [prepare_cell(row, STORAGE) for row in rows[start : start + ROWS_PER_GROUP]]
            writer.write_table(pa.Table.from_pylist(cells, schema=schema))
    return len(rows)


def rate(done: list[tuple[float, int]]) -> float:
    """Images/s from the first part to the last; (when, images done so far)."""
    (first, before), (last, after) = done[0], done[-1]
    return (after - before) / (last - first)


def bare(source: Path, scratch: Path) -> float:
    rows = layouts.read_layout("c-nmc", source, LayoutOptions()).table().to_pylist()
    folder = Path(tempfile.mkdtemp(dir=scratch))
    jobs = [
        (rows[start : start + _ROWS_PER_PART], folder / f"{start}.parquet")
        for start in range(0, len(rows), _ROWS_PER_PART)
    ]
    done: list[tuple[float, int]] = []
    with multiprocessing.get_context("spawn").Pool(CORES) as pool:
        for images in pool.imap_unordered(write_part, jobs):
            done.append((time.monotonic(), images + (done[-1][1] if done else 0)))
    return rate(done)


def ours(source: Path, scratch: Path) -> float:
    done: list[tuple[float, int]] = []

    def progress(images: int, total: int) -> None:
        del total
        if images:
            done.append((time.monotonic(), images))

    target = Path(tempfile.mkdtemp(dir=scratch)) / "dataset"
    prepare(source, target, "c-nmc", STORAGE, progress)
    return rate(done)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cells", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--results", type=Path)
    options = parser.parse_args()
    own, pool = [], []
    with tempfile.TemporaryDirectory(prefix="leuk_ray-prepare-") as folder:
        scratch = Path(folder)
        write_c_nmc(scratch / "cells", SyntheticSpec(cells=options.cells, subjects=40))
        for _ in range(options.rounds):
            pool.append(bare(scratch / "cells", scratch))
            ray_cluster.connect()
            own.append(ours(scratch / "cells", scratch))
            ray.shutdown()  # the pool has the cores for itself
            print(f"pool {pool[-1]:.1f}, prepare {own[-1]:.1f} images/s", file=sys.stderr)
    finish(
        [
            ratios("prepare, of a bare pool of processes", own, pool, 0.9),
            Result("prepare", own, unit="images/s"),
        ],
        options.results,
    )


if __name__ == "__main__":
    main()
