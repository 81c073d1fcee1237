"""Cells found in the BCCD fields, also changed ones; fields a second beside a bare process pool.

    python benchmarks/fields.py --real DATA                          recall and precision, a minute
    python benchmarks/fields.py --bundle lite.bundle [--fields 500]  fields/s

DATA holds bccd/images and bccd/boxes.csv. The detector's parameters were chosen on synthetic fields
and on the files with even positions; both halves are printed. A refused field's cells are missed.
Fields/s are counted as in predict.py, on SYNTHETIC fields of 1296 x 972 pixels.
"""

from __future__ import annotations

import argparse
import io
import multiprocessing
import os
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image
from predict import rate
from results import finish, ratios
from scipy.ndimage import gaussian_filter
from skimage.color import hsv2rgb, rgb2hsv

from leuk_ray.cluster import ray_cluster
from leuk_ray.datasets.images import decode
from leuk_ray.datasets.synthetic import SyntheticSpec, draw_cells
from leuk_ray.datasets.synthetic_fields import WIDTH, render_field
from leuk_ray.fields.annotated import AnnotatedCell, read_annotated
from leuk_ray.fields.field import FieldSettings, examine
from leuk_ray.fields.matching import match
from leuk_ray.fields.stain import shrink
from leuk_ray.inference.classifier import Classifier
from leuk_ray.inference.files import find_images
from leuk_ray.workflows.fields import work
from leuk_ray.workflows.predict_fields import answer_field

_CHUNK = 8
_DIFFERENT = 10
_BLUR_UM = 1.0
_PER_UM = 11.5  # of BCCD, about
_here: list[Classifier] = []

Change = Callable[[np.ndarray], np.ndarray]


def _hue(degrees: float) -> Change:
    def change(pixels: np.ndarray) -> np.ndarray:
        hsv = rgb2hsv(pixels)
        hsv[..., 0] = (hsv[..., 0] + degrees / 360) % 1
        return np.rint(255 * hsv2rgb(hsv)).astype(np.uint8)

    return change


def _gain(factor: float) -> Change:
    return lambda pixels: np.clip(factor * pixels.astype(float), 0, 255).astype(np.uint8)


def _double(pixels: np.ndarray) -> np.ndarray:
    height, width = pixels.shape[:2]
    size = (2 * width, 2 * height)
    return np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC))


def _jpeg(pixels: np.ndarray) -> np.ndarray:
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "JPEG", quality=40)
    return decode(out.getvalue())


def _blurred(pixels: np.ndarray) -> np.ndarray:
    sigma = _BLUR_UM * _PER_UM
    return gaussian_filter(pixels, (sigma, sigma, 0))


CHANGES: dict[str, tuple[Change, float]] = {
    "as they are": (lambda pixels: pixels, 1),
    "half size": (lambda pixels: shrink(pixels, 0.5), 0.5),
    "double size": (_double, 2),
    "hue +10 degrees": (_hue(10), 1),
    "hue -10 degrees": (_hue(-10), 1),
    "brightness +20%": (_gain(1.2), 1),
    "brightness -20%": (_gain(0.8), 1),
    "JPEG quality 40": (_jpeg, 1),
    "brightness x 1.7": (_gain(1.7), 1),
    "blurred by 1 um": (_blurred, 1),
}


def recall(data: Path) -> None:
    annotated = read_annotated(data / "boxes.csv", ["WBC"])
    files = sorted((data / "images").iterdir())
    print("| fields | recall, even | precision, even | recall, odd | precision, odd | refused |")
    print("|---|---|---|---|---|---|")
    for name, (change, factor) in CHANGES.items():
        row, refused, missed = [], Counter(), []
        boxes = {
            file: [AnnotatedCell(tuple(factor * v for v in cell.box)) for cell in cells]
            for file, cells in annotated.items()
        }
        for start in (0, 1):
            found = {}
            for file in files[start::2]:
                field = examine(file.name, change(decode(file.read_bytes())), FieldSettings())
                found[file.name] = field.cells
                refused.update(field.reasons)
            counts = match(found, {file: boxes.get(file, []) for file in found})
            row += [f"{counts.found} of {counts.cells}", f"{counts.found} of {counts.detections}"]
            missed += [f"missed {place}" for place in counts.missed]
            missed += [f"wrong {place}" for place in counts.wrong]
        why = ", ".join(f"{number} {reason}" for reason, number in refused.items()) or "none"
        print(f"| {name} | {' | '.join(row)} | {why} |", flush=True)
        if name == "as they are":
            shown = missed
    print("as they are:", *shown, sep="\n  ")


def load(bundle: str) -> None:
    import torch

    torch.set_num_threads(1)
    _here.append(Classifier.load(Path(bundle)))


def answer(files: list[Path]) -> int:
    for file in files:
        answer_field(_here[0], file.name, file.read_bytes(), FieldSettings())
    return len(files)


def bare(bundle: str, files: list[Path], processes: int) -> float:
    chunks = [files[i : i + _CHUNK] for i in range(0, len(files), _CHUNK)]
    with multiprocessing.get_context("spawn").Pool(processes, load, (bundle,)) as pool:
        return rate(pool.imap_unordered(answer, chunks))


def ours(bundle: str, files: list[Path], processes: int) -> float:
    found = find_images([files[0].parent]).files
    arguments = {"settings": {}, "bundle": Path(bundle)}
    parts = work(found, range(len(found)), arguments, workers=processes)
    return rate(len(part) for part in parts)


def write_fields(folder: Path, num: int) -> None:
    cells = draw_cells(SyntheticSpec(cells=5 * _DIFFERENT, subjects=_DIFFERENT))
    for i in range(_DIFFERENT):
        pixels, _ = render_field(cells[5 * i : 5 * i + 5], 0, i)
        out = io.BytesIO()
        Image.fromarray(pixels[:, :WIDTH]).save(out, "JPEG", quality=92)
        for copy in range(i, num, _DIFFERENT):
            (folder / f"{copy}.jpg").write_bytes(out.getvalue())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--real", type=Path)
    parser.add_argument("--bundle")
    parser.add_argument("--fields", type=int, default=500)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--results", type=Path)
    arguments = parser.parse_args()
    if arguments.real:
        recall(arguments.real / "bccd")
    if not arguments.bundle:
        return
    processes = os.cpu_count() or 1
    ray_cluster.connect(num_workers=processes)
    rates: dict[str, list[float]] = {"bare pool": [], "predict": []}
    with tempfile.TemporaryDirectory() as folder:
        write_fields(Path(folder), arguments.fields)
        files = sorted(Path(folder).iterdir())
        for _ in range(arguments.repeats):
            for name, run in (("bare pool", bare), ("predict", ours)):
                rates[name].append(run(arguments.bundle, files, processes))
                print(f"{name:10} {rates[name][-1]:7.2f} fields/s", flush=True)
    row = ratios(
        "predict --fields, of a bare pool of processes", rates["predict"], rates["bare pool"], 0.9
    )
    finish([row], arguments.results)


if __name__ == "__main__":
    main()
