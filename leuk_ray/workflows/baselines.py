"""Classical baselines on many splits, side by side on Ray; a cross-validation beside them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import ray

from leuk_ray.datasets.prepared import PixelReader, PreparedDataset
from leuk_ray.datasets.splits import rows_with_role
from leuk_ray.evaluation.baselines import (
    BASELINES,
    BaselineName,
    Features,
    measure,
    score_baseline,
)
from leuk_ray.evaluation.beside_baselines import BesideBaseline, beside_baseline
from leuk_ray.evaluation.calibration import probability
from leuk_ray.evaluation.class_report import binary_view
from leuk_ray.io.storage import read_table, write_table
from leuk_ray.utils.errors import UserError
from leuk_ray.utils.progress import bar

_ROWS_PER_TASK = 64
_BOOTSTRAP: dict[str, Any] = {"seed": 0, "resamples": 2000}
_TITLES: dict[BaselineName, str] = {
    "area": "cell area alone, logistic regression",
    "texture-svm": "colour and texture, SVM",
}


@dataclass(frozen=True)
class BaselineFit:
    """A baseline on the training cells of a split; `seed` as in `score_baseline`."""

    name: BaselineName
    split: pa.Table
    seed: int


def score_baselines(
    folder: Path, wanted: Mapping[str, BaselineFit], dataset: PreparedDataset
) -> dict[str, pa.Table | str]:
    """Score the test cells of each fit: uid, group, label, logit, probability of the positive.

    Cells are measured once for all splits, and splits are fitted side by side; Ray must be
    initialised. Scores are kept as `folder/NAME.parquet`, and what is there is not scored again.

    Args:
        folder: of the scores; local or shared.
        wanted: by name.
        dataset: of the splits; some class is positive.

    Returns:
        By name the scores, or in words why there are none.
    """
    folder.mkdir(exist_ok=True)
    missing = {
        name: fit for name, fit in wanted.items() if not (folder / f"{name}.parquet").exists()
    }
    failed: dict[str, str] = {}
    for name, scored in _score_all(missing, dataset).items():
        if isinstance(scored, str):
            failed[name] = scored
        else:
            write_table(folder / f"{name}.parquet", scored)
    return {
        name: failed[name] if name in failed else read_table(folder / f"{name}.parquet")
        for name in wanted
    }


def beside_baselines(
    folder: Path,
    dataset: PreparedDataset,
    splits: Sequence[pa.Table],
    seeds: Sequence[int],
    pooled: pa.Table,
    withheld: str,
) -> tuple[list[BesideBaseline], list[str]]:
    """Compare a cross-validation with each baseline over the same folds and seeds.

    A baseline's log-odds are averaged over the seeds, as the network's are.

    Args:
        folder: of the baselines' scores; see `score_baselines`.
        dataset: of the cells; some class is positive.
        splits: of the folds.
        seeds: of the cross-validation.
        pooled: its out-of-fold scores, one row a cell.
        withheld: a reason to give no interval.

    Returns:
        The comparisons; and why others are missing, a sentence each.
    """
    fits = {
        f"{name}.seed{seed}.fold{fold}": BaselineFit(name, split, seed)
        for name in BASELINES
        for seed in seeds
        for fold, split in enumerate(splits)
    }
    scores = score_baselines(folder, fits, dataset)
    network, names = binary_view(pooled, dataset.classes), dataset.classes.binary_names
    found, missing = [], []
    for name in BASELINES:
        own = [scores[key] for key, fit in fits.items() if fit.name == name]
        if failed := [one for one in own if isinstance(one, str)]:
            missing.append(f"Not compared with {_TITLES[name]}: {failed[0]}.")
            continue
        table = pa.concat_tables([one for one in own if isinstance(one, pa.Table)])
        mean = table.group_by(["uid", "group", "label"]).aggregate([("logit", "mean")])
        stated = pa.array(probability(mean["logit_mean"].to_numpy(), 1.0))
        mean = mean.append_column("probability", stated)
        found.append(
            beside_baseline(_TITLES[name], mean, network, names, withheld=withheld, **_BOOTSTRAP)
        )
    return found, missing


def _score_all(
    wanted: Mapping[str, BaselineFit], dataset: PreparedDataset
) -> dict[str, pa.Table | str]:
    if not wanted:
        return {}
    features = _measure_all(list(wanted.values()), dataset)
    cells = ray.put(binary_view(dataset.cells, dataset.classes))
    tasks = [_score.remote(fit, cells, features[fit.name]) for fit in wanted.values()]
    return dict(zip(wanted, _gather(tasks, "baselines: fitting", "split"), strict=True))


def _measure_all(wanted: Sequence[BaselineFit], dataset: PreparedDataset) -> dict[str, Any]:
    """Return references to the features of each baseline, of all rows that a split gives a role."""
    names: list[BaselineName] = list(dict.fromkeys(fit.name for fit in wanted))
    used = [
        rows_with_role(dataset.cells, fit.split, ("train", "validation", "test")) for fit in wanted
    ]
    rows, reader = np.unique(np.concatenate(used)), ray.put(dataset.reader())
    parts = np.split(rows, range(_ROWS_PER_TASK, len(rows), _ROWS_PER_TASK))
    tasks = [_measure.remote(names, reader, part) for part in parts]
    measured = zip(*_gather(tasks, "baselines: measuring", "part"), strict=True)
    return {
        name: ray.put(Features(rows, np.concatenate([part.values for part in of_name])))
        for name, of_name in zip(names, measured, strict=True)
    }


def _gather(tasks: Sequence[ray.ObjectRef[Any]], title: str, unit: str) -> list[Any]:
    with bar(title, unit) as progress:
        pending = list(tasks)
        while pending:
            _, pending = ray.wait(pending)
            progress(len(tasks) - len(pending), len(tasks))
    return ray.get(list(tasks))


@ray.remote
def _measure(
    names: Sequence[BaselineName], reader: PixelReader, rows: np.ndarray
) -> list[Features]:
    return measure(names, reader, rows)


@ray.remote
def _score(fit: BaselineFit, cells: pa.Table, features: Features) -> pa.Table | str:
    try:
        scored = score_baseline(fit.name, cells, fit.split, fit.seed, features)
    except UserError as error:
        return str(error)
    test = np.isin(scored.rows, rows_with_role(cells, fit.split, ("test",)))
    chosen = cells.take(pa.array(scored.rows[test])).select(["uid", "group", "label"])
    logit = scored.logits[test]
    chosen = chosen.append_column("logit", pa.array(logit))
    return chosen.append_column("probability", pa.array(probability(logit, 1.0)))
