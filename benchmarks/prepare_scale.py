"""Prepare a whole C-NMC's worth of SYNTHETIC cells and watch the memory: on demand.

    python benchmarks/prepare_scale.py [--cells 10661] [--source FOLDER_MADE_BY_SYNTH]

450 x 450 BMP files of 608 kB each go through `prepare`, a quarter of them first, so that memory
which grows with their number shows. Prints a table and one JSON line.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import threading
import time
from pathlib import Path

import psutil
import ray

from leuk_ray import cluster
from leuk_ray.datasets.prepare import prepare
from leuk_ray.datasets.synthetic import SyntheticSpec, write_c_nmc
from leuk_ray.images import StorageSettings

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


def measure(source: Path, target: Path) -> dict:
    started = time.monotonic()
    first_done: list[float] = []

    def progress(done: int, total: int) -> None:
        if done == total:
            first_done.append(time.monotonic() - started)

    with Watch() as watch:
        counts = prepare(source, target, "c-nmc", StorageSettings(), progress)["counts"]
    seconds = time.monotonic() - started
    assert counts["files"] == counts["rows"] + counts["rejected"]
    return {
        "images": counts["files"],
        "rows": counts["rows"],
        "rejected": counts["rejected"],
        "decoding_images_per_s": round(counts["files"] / first_done[0], 1),
        "images_per_s": round(counts["files"] / seconds, 1),
        "driver_mb": round(watch.driver),
        "worker_mb": round(watch.worker),
        "object_store_mb": round(watch.store, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cells", type=int, default=10_661)
    parser.add_argument("--source", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="leuk_ray-scale-") as temporary:
        place = Path(temporary)
        source = arguments.source or place / "cells"
        if arguments.source is None:
            write_c_nmc(source, SyntheticSpec(cells=arguments.cells, subjects=73, seed=5))
        fourth = place / "fourth"
        for path in sorted(source.rglob("*.bmp"))[::4]:
            link = fourth / path.relative_to(source)
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(path.resolve())
        cluster.connect()
        rows = [measure(fourth, place / "a.dataset"), measure(source, place / "b.dataset")]
    for name in rows[0]:
        print(f"{name:24}" + "".join(f"{row[name]:>12}" for row in rows))
    print(json.dumps(rows))


if __name__ == "__main__":
    main()
