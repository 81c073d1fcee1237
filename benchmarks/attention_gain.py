"""What attention gains where the signal is local: SYNTHETIC cells that differ in two pale spots.

For every seed one set of training, validation and test cells, of different subjects, and on it
every variant, from the same backbone weights, with the recipe `lite`. Prints AUC on the test
cells, the paired difference to no attention with its t interval over the seeds, parameters and
FLOPs; writes a row a training (OUT/rows.jsonl, which lets a stopped run go on) and
OUT/summary.json.

    python benchmarks/attention_gain.py --out attention_gain
"""

from __future__ import annotations

import copy
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path

import click
import numpy as np
import torch
from scipy import stats
from sklearn.metrics import roc_auc_score

from leuk_ray.datasets.images import StorageSettings, to_storage
from leuk_ray.datasets.plan import uid_keys
from leuk_ray.datasets.synthetic import SyntheticSpec, draw_cells, render
from leuk_ray.models.summary import summarise
from leuk_ray.models.zoo import build
from leuk_ray.recipes.recipe import load_recipe
from leuk_ray.training.cells import EpochPlanner, TrainingCells
from leuk_ray.training.learner import Learner
from leuk_ray.training.loop import train
from leuk_ray.training.state import TrainingState
from leuk_ray.training.validation import score_rows

BASE = "none"
PAIR, OTHERS = (BASE, "multi"), ("channel_spatial", "weighted_average")
VARIANTS = (BASE, *OTHERS, "multi")
VALIDATION_CELLS, TEST_CELLS = 80, 800
CELLS_PER_SUBJECT = 10


class Cells:
    """Training, validation and test cells of one seed in memory, three sets of subjects."""

    def __init__(self, seed: int, num_train: int, size: int, best_auc: float) -> None:
        pixels, labels, uids, parts = [], [], [], []
        for number, count in enumerate((num_train, VALIDATION_CELLS, TEST_CELLS)):
            subjects = count // CELLS_PER_SUBJECT
            spec = SyntheticSpec(count, subjects, 3 * seed + number, best_auc, "nucleoli")
            cells = draw_cells(spec)
            first = len(labels)
            pixels += [to_storage(render(cell), StorageSettings(size=size)) for cell in cells]
            labels += [cell.label for cell in cells]
            uids += [f"{number}/{cell.uid}" for cell in cells]
            parts.append(np.arange(first, len(labels)))
        self.pixels = torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2)
        self.labels = np.asarray(labels)
        train_rows, validation, self.test = parts
        self.training = TrainingCells(uids, self.labels, uid_keys(uids), train_rows, validation)

    def iter_batches(self, batches) -> Iterator[torch.Tensor]:
        """As a loader of the training loop."""
        yield from (self.pixels[torch.from_numpy(rows)] for rows in batches)


def train_one(cells: Cells, variant: str, seed: int, settings: list[str]) -> dict:
    """Train one variant and score the test cells with its best epoch, as `leuk-ray train` does."""
    recipe = load_recipe("lite", [*settings, f"attention={variant}", f"seed={seed}"])
    torch.manual_seed(seed)
    core = build(recipe.model, load_weights=True)
    learner, state = Learner(core, recipe.training, recipe.augment.fill), TrainingState()
    best: tuple[float, int, dict] = (-np.inf, 0, {})

    def report(metrics: dict, _save: object) -> None:
        nonlocal best
        if metrics["selection"] > best[0]:
            weights = copy.deepcopy(learner.eval_model.state_dict())
            best = metrics["selection"], metrics["epoch"], weights

    started = time.perf_counter()
    planner = EpochPlanner(cells.training, recipe.training, seed)
    train(learner, state, planner, cells, cells, recipe.augment, report)
    learner.eval_model.load_state_dict(best[2])
    logits = score_rows(learner.eval_model, cells.test, cells, recipe.training.batch_size)
    return {
        "variant": variant,
        "seed": seed,
        "auc": float(roc_auc_score(cells.labels[cells.test], logits)),
        "epochs_done": state.epoch,
        "best_epoch": best[1],
        "validation_auc": state.history[best[1] - 1]["validation_auc"],
        "seconds": round(time.perf_counter() - started, 1),
    }


def missing_rows(rows: list[dict], seeds: int, asked: dict) -> Iterator[dict]:
    """Train what has no row yet; the comparison that matters first, lest a study be cut short."""
    done = {(row["variant"], row["seed"]) for row in rows}
    for variants in (PAIR, OTHERS):
        for seed in range(seeds):
            missing = [variant for variant in variants if (variant, seed) not in done]
            if not missing:
                continue
            cells = Cells(seed, asked["train_cells"], asked["size"], asked["best_auc"])
            settings = [f"epochs={asked['epochs']}", f"input_size={asked['size']}"]
            for variant in missing:
                yield asked | train_one(cells, variant, seed, settings)


def summarise_rows(rows: list[dict], size: int) -> list[dict]:
    """Mean AUC of each variant, and its paired difference to none with a 95% t interval.

    Of a study that was stopped, each variant speaks of the seeds it shares with none.
    """
    auc = {(row["variant"], row["seed"]): row["auc"] for row in rows}
    summary = []
    for variant in VARIANTS:
        seeds = sorted(seed for name, seed in auc if name == variant and (BASE, seed) in auc)
        if len(seeds) < 2:
            continue
        network = summarise(
            load_recipe("lite", [f"input_size={size}", f"attention={variant}"]).model
        )
        values = np.asarray([auc[variant, seed] for seed in seeds])
        line = {
            "variant": variant,
            "seeds": seeds,
            "auc_mean": float(values.mean()),
            "auc_sd": float(values.std(ddof=1)),
            "parameters": network["parameters"],
            "flops": network["flops"],
        }
        if variant != BASE:
            gains = values - np.asarray([auc[BASE, seed] for seed in seeds])
            error = stats.sem(gains)
            low, high = stats.t.interval(0.95, len(gains) - 1, gains.mean(), error)
            line |= {"gain": float(gains.mean()), "low": float(low), "high": float(high)}
        summary.append(line)
    return summary


def print_table(summary: list[dict], best_auc: float) -> None:
    print(f"SYNTHETIC cells, signal in the nucleoli, best AUC {best_auc}")
    print(f"{'variant':18}seeds    AUC     SD    gain  {'95% interval':18}{'params':>11} MFLOPs")
    for line in summary:
        row = f"{line['variant']:18}{len(line['seeds']):5}"
        row += f"{line['auc_mean']:7.3f}{line['auc_sd']:7.3f}"
        gain = " " * 28
        if "gain" in line:
            gain = f"{line['gain']:+8.3f}  {line['low']:+.3f} to {line['high']:+.3f}  "
        print(f"{row}{gain}{line['parameters']:11,} {line['flops'] / 1e6:.0f}")


@click.command()
@click.option("--out", type=click.Path(path_type=Path), required=True)
@click.option("--seeds", default=8, show_default=True, type=click.IntRange(2))
@click.option("--train-cells", default=300, show_default=True)
@click.option("--epochs", default=8, show_default=True)
@click.option("--size", default=128, show_default=True)
@click.option("--best-auc", default=0.95, show_default=True)
def main(out: Path, seeds: int, train_cells: int, epochs: int, size: int, best_auc: float) -> None:
    """Measure what attention gains on cells whose signal is local."""
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", torch.get_num_threads())))
    out.mkdir(parents=True, exist_ok=True)
    file = out / "rows.jsonl"
    rows = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    asked = {
        "train_cells": train_cells, "epochs": epochs, "size": size, "best_auc": best_auc
    }  # fmt: skip
    if any({key: row[key] for key in asked} != asked for row in rows):
        raise click.UsageError(f"{file} holds rows of other settings; name another --out")
    try:
        for row in missing_rows(rows, seeds, asked):
            rows.append(row)
            with file.open("a") as stream:
                stream.write(json.dumps(row) + "\n")
            print(json.dumps(row), flush=True)
    except KeyboardInterrupt:
        print("stopped; what there is:")
    summary = summarise_rows(rows, size)
    (out / "summary.json").write_text(json.dumps(asked | {"variants": summary}, indent=2) + "\n")
    print_table(summary, best_auc)


if __name__ == "__main__":
    main()
