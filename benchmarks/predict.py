"""`predict` on a pool of actors beside a bare pool of processes, the same decoder and engine.

    python benchmarks/predict.py --bundle lite.bundle [--images 1500] [--results F.json]

SYNTHETIC cells of 450 x 450 pixels as PNG files. Both score with one process a core, one thread
each, in turns; images/s are counted from the first part that is done to the last, so that starting
processes and loading the bundle count for neither.
"""

from __future__ import annotations

import argparse
import io
import json
import multiprocessing
import os
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path

from PIL import Image
from results import finish, ratios

from leuk_ray.cluster import ray_cluster
from leuk_ray.datasets.synthetic import SyntheticSpec, draw_cells, render
from leuk_ray.inference.classifier import Classifier
from leuk_ray.inference.files import NamedFile, find_images
from leuk_ray.workflows.pool import answer_on_pool

_DIFFERENT = 50
_CHUNK = 64
_here: list[Classifier] = []


def write_images(folder: Path, num: int) -> None:
    for i, cell in enumerate(draw_cells(SyntheticSpec(cells=_DIFFERENT, subjects=5))):
        out = io.BytesIO()
        Image.fromarray(render(cell)).save(out, "PNG")
        for copy in range(i, num, _DIFFERENT):
            (folder / f"{copy}.png").write_bytes(out.getvalue())


def load(bundle: str) -> None:
    import torch

    torch.set_num_threads(1)
    _here.append(Classifier.load(Path(bundle)))


def answer(files: list[NamedFile]) -> int:
    return len(_here[0].predict(files))


def rate(sizes: Iterable[int]) -> float:
    """Images a second from the first part to the last."""
    times, counts = [], []
    for size in sizes:
        times.append(time.monotonic())
        counts.append(size)
    return sum(counts[1:]) / (times[-1] - times[0])


def bare(bundle: str, files: list[NamedFile], processes: int) -> float:
    chunks = [files[i : i + _CHUNK] for i in range(0, len(files), _CHUNK)]
    with multiprocessing.get_context("spawn").Pool(processes, load, (bundle,)) as pool:
        return rate(pool.imap_unordered(answer, chunks))


def ours(bundle: str, files: list[NamedFile], processes: int) -> float:
    parts = answer_on_pool(Path(bundle), files, range(len(files)), actors=processes)
    return rate(len(part) for part in parts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bundle", required=True)
    parser.add_argument("--images", type=int, default=1500)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--results", type=Path)
    arguments = parser.parse_args()
    processes = os.cpu_count() or 1
    ray_cluster.connect(num_workers=processes)
    rows: list[dict] = []
    with tempfile.TemporaryDirectory() as folder:
        write_images(Path(folder), arguments.images)
        files = [image.named for image in find_images([Path(folder)]).files]
        for _ in range(arguments.repeats):
            for name, run in (("bare pool", bare), ("predict", ours)):
                found = run(arguments.bundle, files, processes)
                rows.append({"name": name, "images_per_second": found})
                print(f"{name:10} {found:7.1f} images/s", flush=True)
    pool, own = (
        [row["images_per_second"] for row in rows if row["name"] == name]
        for name in ("bare pool", "predict")
    )
    if arguments.out:
        arguments.out.write_text(json.dumps(rows, indent=2) + "\n")
    finish([ratios("predict, of a bare pool of processes", own, pool, 0.9)], arguments.results)


if __name__ == "__main__":
    main()
