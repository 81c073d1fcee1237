"""Which pictures a network trained on real cells answers, and which it leaves alone, by kind.

Trains a recipe on each grouped fold, calibrates the bundle as `leuk-ray calibrate` does, and puts
pictures of every kind through the one scoring path: the held-out subjects' cells, which should be
answered, and what is no single cell of that stain, which should not. Prints counts with exact 95%
intervals, the reasons, and writes JSON. The abstain band is off: only the scope is asked here.

    leuk-ray prepare C-NMC cells.dataset --layout c-nmc
    python benchmarks/scope.py cells.dataset --images C-NMC --fields BCCD --work W --out scope.json

With --work, bundles that are there already are not trained again.
"""

from __future__ import annotations

import io
import json
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import click
import numpy as np
import torch
from PIL import Image, ImageDraw
from scipy import ndimage

from leuk_ray.bundles.bundle import write_bundle
from leuk_ray.bundles.manifest import ModelManifest
from leuk_ray.datasets.images import decode
from leuk_ray.datasets.loaders import ReaderLoader
from leuk_ray.datasets.prepared import PreparedDataset
from leuk_ray.datasets.splits import rows_with_role, split_cells
from leuk_ray.evaluation.proportions import clopper_pearson
from leuk_ray.inference.classifier import Classifier
from leuk_ray.io.storage import write_table
from leuk_ray.models.zoo import build
from leuk_ray.recipes.recipe import Recipe, load_recipe
from leuk_ray.runs.target import EvaluationTarget
from leuk_ray.training.cells import EpochPlanner, TrainingCells
from leuk_ray.training.learner import Learner
from leuk_ray.training.loop import train
from leuk_ray.training.state import TrainingState
from leuk_ray.workflows.calibrate import calibrate

SIDE = 450  # of a C-NMC picture
LUMA = np.asarray([0.299, 0.587, 0.114])
HELD_OUT = "held-out cells"


def train_fold(recipe: Recipe, dataset: PreparedDataset, run: Path) -> None:
    """A run's folder as far as `calibrate` reads it: the split, and the best epoch's bundle."""
    split = split_cells(dataset.cells, recipe.split)
    loader = ReaderLoader(dataset.reader(), torch.device("cpu"))
    torch.manual_seed(recipe.seed)
    model = build(recipe.model, load_weights=True)
    best: dict = {"selection": -np.inf}

    def report(metrics: dict, _save: Callable) -> None:
        if metrics["selection"] > best["selection"]:
            weights = {name: value.clone() for name, value in model.state_dict().items()}
            best.update(selection=metrics["selection"], weights=weights)

    cells = TrainingCells.of(dataset, split)
    learner = Learner(model, recipe.training, recipe.augment.fill)
    planner = EpochPlanner(cells, recipe.training, recipe.seed)
    train(learner, TrainingState(), planner, loader, loader, recipe.augment, report)
    model.load_state_dict(best["weights"])
    manifest = ModelManifest(
        model=recipe.model,
        storage=dataset.storage,
        synthetic=dataset.synthetic,
        protocol=recipe.split.protocol,
        dataset_fingerprint=dataset.manifest["fingerprint"],
        recipe=recipe.name,
        seed=recipe.seed,
    )
    run.mkdir(parents=True)
    write_table(run / "split.parquet", split)
    write_bundle(run / "bundle", manifest, model.eval())


def turned(pixels: np.ndarray, degrees: float) -> np.ndarray:
    """Hue turned around the grey axis, brightness kept."""
    angle = np.radians(degrees)
    axis = np.full(3, 1 / np.sqrt(3))
    cross = np.cross(np.eye(3), axis)
    turn = np.cos(angle) * np.eye(3) + np.sin(angle) * cross
    turn += (1 - np.cos(angle)) * np.outer(axis, axis)
    made = pixels @ turn.T
    made += ((pixels - made) @ LUMA)[..., None]
    return np.clip(made, 0, 255).astype(np.uint8)


def smear_cells(field: np.ndarray) -> Iterator[np.ndarray]:
    """White cells of a smear cut along their outline onto black, as large as C-NMC's cells."""
    red, green, blue = (ndimage.gaussian_filter(field[..., i].astype(float), 2) for i in range(3))
    nucleus = ndimage.binary_opening((blue - green > 45) & (red - green < 70), iterations=3)
    labels, num = ndimage.label(nucleus)
    for index in range(1, num + 1):
        mask = labels == index
        if mask.sum() < 1500:
            continue
        mask = ndimage.binary_fill_holes(ndimage.binary_dilation(mask, iterations=6))
        rows, columns = ndimage.find_objects(mask.astype(np.uint8))[0]
        if rows.start == 0 or columns.start == 0:
            continue
        if rows.stop == field.shape[0] or columns.stop == field.shape[1]:
            continue
        cut = Image.fromarray(np.where(mask[..., None], field, 0)[rows, columns].astype(np.uint8))
        scale = 190 / max(cut.size)
        size = tuple(round(scale * side) for side in cut.size)
        yield centred(np.asarray(cut.resize(size, Image.Resampling.NEAREST)))


def smear_discs(field: np.ndarray, generator: np.random.Generator) -> Iterator[np.ndarray]:
    """Round pieces of a smear on black, as large as C-NMC's cells."""
    radius = 95
    inside = np.hypot(*(np.mgrid[-radius:radius, -radius:radius] + 0.5)) < radius
    for _ in range(2):
        row, column = (int(generator.integers(0, side - 2 * radius)) for side in field.shape[:2])
        cut = field[row : row + 2 * radius, column : column + 2 * radius]
        yield centred(np.where(inside[..., None], cut, 0).astype(np.uint8))


def centred(cut: np.ndarray) -> np.ndarray:
    """On black, (SIDE, SIDE, 3)."""
    canvas = np.zeros((SIDE, SIDE, 3), np.uint8)
    top, left = (SIDE - cut.shape[0]) // 2, (SIDE - cut.shape[1]) // 2
    canvas[top : top + cut.shape[0], left : left + cut.shape[1]] = cut
    return canvas


def moved(cell: np.ndarray, columns: int) -> np.ndarray:
    return ndimage.shift(cell, (0, columns, 0), order=0)


def half(cell: np.ndarray, side: int) -> np.ndarray:
    """One side of a cell, cut through its middle."""
    made = cell.copy()
    axis, end = divmod(side % 4, 2)
    middle = int(np.median(np.nonzero(cell.any(axis=2))[axis]))
    made.swapaxes(0, axis)[slice(middle, None) if end else slice(None, middle)] = 0
    return made


def pair(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Two cells side by side, touching, both within the centre that is looked at."""
    widths = [np.ptp(np.nonzero(cell.any(axis=(0, 2)))[0]) / 2 for cell in (first, second)]
    left, right = (round(width * 0.95) for width in widths[::-1])
    return np.maximum(moved(first, -left), moved(second, right))


def drawn(num: int, seed: int) -> dict[str, list[np.ndarray]]:
    """Pictures without a cell."""
    generator = np.random.default_rng(seed)
    side = np.mgrid[:SIDE, :SIDE] - SIDE / 2
    disc = (np.hypot(*side) < 90)[..., None]
    blank, noise, text = [], [], []
    for number in range(num):
        level = generator.integers(0, 256, 3)
        flat = np.broadcast_to(level if number else np.zeros(3), (SIDE, SIDE, 3))
        spread = generator.normal(0, 0.5, (SIDE, SIDE, 3))
        blank.append(np.clip(flat + spread, 0, 255).astype(np.uint8))
        grain = int(generator.integers(1, 12))
        coarse = generator.integers(0, 256, (SIDE // grain + 1, SIDE // grain + 1, 3))
        picture = coarse.repeat(grain, 0).repeat(grain, 1)[:SIDE, :SIDE].astype(np.uint8)
        noise.append(picture * disc if number % 2 else picture)
        dark = number % 2
        page = Image.new("RGB", (SIDE, SIDE), "black" if dark else "white")
        words = " ".join(map(str, generator.integers(0, 99999, 8)))
        pen = ImageDraw.Draw(page)
        for line in range(90, 360, 30):
            pen.text((90, line), words, fill="white" if dark else "black", font_size=24)
        text.append(np.asarray(page))
    return {"blank": blank, "noise": noise, "text": text}


def pictures(cells: list[np.ndarray], fields: list[np.ndarray], seed: int) -> dict[str, list]:
    """Pictures by kind."""
    generator = np.random.default_rng(seed)
    return {
        HELD_OUT: cells,
        "fields of a smear": fields,
        **drawn(30, seed),
        "smear cells on black": [cell for field in fields for cell in smear_cells(field)],
        "smear discs on black": [
            disc for field in fields for disc in smear_discs(field, generator)
        ],
        "two cells": [pair(*two) for two in zip(cells, cells[1:] + cells[:1], strict=True)],
        "half a cell": [half(cell, number) for number, cell in enumerate(cells)],
        "blurred": [ndimage.gaussian_filter(cell, (5, 5, 0)) for cell in cells],
        "hue turned by 90 degrees": [turned(cell, 90) for cell in cells],
        "hue turned by -90 degrees": [turned(cell, -90) for cell in cells],
    }


def ask(classifier: Classifier, shown: list[np.ndarray]) -> list[tuple[str, ...]]:
    """The reasons of each picture; none where it is answered."""
    reasons: list[tuple[str, ...]] = []
    for start in range(0, len(shown), 16):
        part = shown[start : start + 16]
        cells = [classifier.read("picture", encode(picture)) for picture in part]
        scores = classifier.score(np.stack([cell.pixels for cell in cells]))
        reasons += [classifier.answer(cell, scores, i).reasons for i, cell in enumerate(cells)]
    return reasons


def encode(picture: np.ndarray) -> bytes:
    out = io.BytesIO()
    Image.fromarray(picture).save(out, "BMP")
    return out.getvalue()


def files_of(folder: Path) -> dict[str, Path]:
    return {f.stem: f for f in sorted(folder.rglob("*")) if f.suffix.lower() in (".bmp", ".jpg")}


@click.command()
@click.argument("data", type=click.Path(path_type=Path))
@click.option("--images", type=click.Path(path_type=Path), required=True, help="Its C-NMC files.")
@click.option("--fields", type=click.Path(path_type=Path), required=True, help="Smear fields.")
@click.option("--work", type=click.Path(path_type=Path), required=True, help="For the bundles.")
@click.option("--out", type=click.Path(path_type=Path), required=True)
@click.option("--recipe", "name", default="lite", show_default=True)
@click.option("--folds", default=5, show_default=True)
@click.option("--epochs", default=6, show_default=True)
def main(
    data: Path,
    images: Path,
    fields: Path,
    work: Path,
    out: Path,
    name: str,
    folds: int,
    epochs: int,
) -> None:
    """Count answers by kind of picture, over grouped folds."""
    dataset = PreparedDataset.open(data)
    smears = [decode(path.read_bytes()) for path in files_of(fields).values()]
    files = files_of(images)
    told: dict[str, list[tuple[str, ...]]] = {}
    for fold in range(folds):
        changes = [f"folds={folds}", f"fold={fold}", f"epochs={epochs}"]
        # `calibrate` wants 20 validation cells, and there are few cells.
        recipe = load_recipe(name, [*changes, "fractions=[0.6, 0.2, 0.2]"])
        run = work / f"fold{fold}"
        if not run.is_dir():
            train_fold(recipe, dataset, run)
        calibrated = work / f"fold{fold}.calibrated"
        if not calibrated.is_dir():
            calibrate(EvaluationTarget(run / "bundle", run), dataset, calibrated, abstain_share=0)
        split = split_cells(dataset.cells, recipe.split)
        rows = rows_with_role(dataset.cells, split, ("test",))
        uids = [dataset.cells["uid"][row].as_py() for row in rows.tolist()]
        cells = [decode(files[uid].read_bytes()) for uid in uids]
        classifier = Classifier.load(calibrated)
        for kind, shown in pictures(cells, smears, fold).items():
            told.setdefault(kind, []).extend(ask(classifier, shown))
        print(f"fold {fold}: {len(cells)} held-out cells", flush=True)
    lines = []
    print("| pictures | right | of | share | 95% interval | reasons |")
    print("|---|---|---|---|---|---|")
    for kind, found in told.items():
        answered = sum(not reasons for reasons in found)
        right = answered if kind == HELD_OUT else len(found) - answered
        low, high = clopper_pearson(right, len(found)) or (0.0, 1.0)
        counts = Counter(reason for reasons in found for reason in reasons)
        lines.append({"kind": kind, "right": right, "of": len(found), "low": low, "high": high,
                      "reasons": dict(counts)})  # fmt: skip
        why = ", ".join(f"{reason} {num}" for reason, num in counts.most_common())
        print(f"| {kind} | {right} | {len(found)} | {right / len(found):.1%} | "
              f"{low:.3f} to {high:.3f} | {why} |")  # fmt: skip
    out.write_text(json.dumps(lines, indent=2) + "\n")


if __name__ == "__main__":
    main()
