"""`prepare` and a streamed epoch as the number of SYNTHETIC cells grows: time and memory.

    python benchmarks/prepare_scale.py                      a whole C-NMC's worth of 450 px cells
    python benchmarks/prepare_scale.py --cells 10000 100000 1000000 --side 32

Each number of cells goes through `prepare` (decoding, then near duplicates, slides and groups) and
one shuffled epoch through Ray Data in windows of 4,096. With --side the images are noise of that
side, else rendered cells in files of 608 kB. Memory is watched all the while: what grows with the
number of cells beyond their metadata shows. Times are fitted by t = a n^b; b = 1 is linear.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import psutil
import ray
import torch
from PIL import Image
from results import Result, finish

from leuk_ray.cluster import ray_cluster
from leuk_ray.datasets.images import StorageSettings
from leuk_ray.datasets.loaders import StreamLoader
from leuk_ray.datasets.plan import plan_epoch
from leuk_ray.datasets.prepare import prepare
from leuk_ray.datasets.prepared import PreparedDataset
from leuk_ray.datasets.synthetic import SyntheticSpec, write_c_nmc

CELLS_PER_SUBJECT = 150
BATCH_SIZE, WINDOW = 64, 4096
_SECONDS = 0.2


class Watch:
    """Peak memory of this process and of Ray's workers, MB, while a block runs."""

    def __init__(self) -> None:
        self.driver = self.worker = self.store = 0.0
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._poll)

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _poll(self) -> None:
        me = psutil.Process()
        total = ray.cluster_resources()["object_store_memory"]
        while not self._done.wait(_SECONDS):
            self.driver = max(self.driver, _own(me))
            free = ray.available_resources().get("object_store_memory", total)
            self.store = max(self.store, (total - free) / 2**20)
            for process in me.children(recursive=True):
                try:
                    if process.name().startswith("ray::"):
                        self.worker = max(self.worker, _own(process))
                except psutil.NoSuchProcess:
                    continue


def _own(process: psutil.Process) -> float:
    """Resident memory that is not the shared object store."""
    memory = process.memory_info()
    return (memory.rss - memory.shared) / 2**20


def write_cells(folder: Path, num: int, side: int | None) -> str:
    """Make the files; returns their layout."""
    if side is None:
        write_c_nmc(folder, SyntheticSpec(cells=num, subjects=73, seed=5))
        return "c-nmc"
    generator = np.random.default_rng(num)
    for row in range(num):
        subject = row // CELLS_PER_SUBJECT
        place = folder / ("ALL", "healthy")[subject % 2] / f"S{subject}"
        if row % CELLS_PER_SUBJECT == 0:
            place.mkdir(parents=True)
        noise = generator.integers(0, 256, (side, side, 3), np.uint8)
        Image.fromarray(noise).save(place / f"{row}.bmp")
    return "folders"


def stream(dataset: PreparedDataset) -> int:
    """One shuffled epoch; returns the number of images that came."""
    rows = np.arange(len(dataset.cells))
    plan = plan_epoch(
        rows, rows % 2, seed=0, epoch=1, balance="none", batch_size=BATCH_SIZE, window=WINDOW
    )
    loader = StreamLoader(dataset.reader(), torch.device("cpu"), WINDOW)
    return sum(
        len(pixels) for pixels in loader.iter_batches(np.split(plan.rows, plan.bounds[1:-1]))
    )


def measure(num: int, side: int | None, scratch: Path) -> dict[str, float]:
    """Seconds and peaks of memory, MB, of every stage."""
    layout = write_cells(scratch / "cells", num, side)
    facts: dict[str, float] = {}
    decoded: list[float] = []

    def progress(done: int, total: int) -> None:
        if done == total:
            decoded.append(time.monotonic())

    @contextmanager
    def watched(stage: str) -> Iterator[None]:
        started = time.monotonic()
        with Watch() as watch:
            yield
        facts[f"{stage}: time"] = time.monotonic() - started
        for name in ("driver", "worker", "store"):
            facts[f"{stage}: peak memory, {name}"] = getattr(watch, name)

    storage = StorageSettings() if side is None else StorageSettings(size=side, crop="full")
    started = time.monotonic()
    with watched("prepare"):
        counts = prepare(scratch / "cells", scratch / "dataset", layout, storage, progress)[
            "counts"
        ]
    assert counts["rows"] + counts["rejected"] == num
    facts["prepare: of it decoding"] = decoded[0] - started
    with watched("stream"):
        assert stream(PreparedDataset.open(str(scratch / "dataset"))) == num
    shutil.rmtree(scratch)
    return facts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cells", type=int, nargs="+", default=[2_665, 10_661])
    parser.add_argument("--side", type=int, help="noise of this side instead of rendered cells")
    parser.add_argument("--results", type=Path)
    options = parser.parse_args()
    found = []
    with tempfile.TemporaryDirectory(prefix="leuk_ray-scale-") as scratch:
        for num in options.cells:
            ray_cluster.connect()
            found.append(measure(num, options.side, Path(scratch) / str(num)))
            ray.shutdown()  # every size starts with fresh processes
            print(f"{num:9,} cells: {found[-1]}", file=sys.stderr)
    results = []
    for name in found[0]:
        values = [facts[name] for facts in found]
        results.append(Result(name, values, unit="MB" if "memory" in name else "s"))
        if "memory" not in name and len(values) > 1:
            (exponent, _) = np.polyfit(np.log(options.cells), np.log(values), 1)
            results.append(Result(f"{name}, exponent", [float(exponent)], 1.15, "", "less"))
    finish(results, options.results)


if __name__ == "__main__":
    main()
