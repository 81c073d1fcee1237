"""Classical baselines on the splits of an experiment's runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import ray

from leuk_ray.datasets.leakage import find_leakage
from leuk_ray.datasets.prepared import PixelReader, PreparedDataset
from leuk_ray.datasets.splits import rows_with_role
from leuk_ray.evaluation.baselines import BaselineName, Features, measure, score_baseline
from leuk_ray.evaluation.calibration import probability
from leuk_ray.experiments.plan import Plan, RunKey
from leuk_ray.experiments.results import Outcomes, evaluate_predictions
from leuk_ray.experiments.settings import ExperimentSettings
from leuk_ray.io.storage import read_table, write_table
from leuk_ray.runs.spec import split_key
from leuk_ray.utils.errors import UserError
from leuk_ray.utils.progress import bar

_ROWS_PER_TASK = 64


def outcomes_of_baselines(
    root: Path,
    experiment: ExperimentSettings,
    plan: Plan,
    dataset: PreparedDataset,
    splits: Mapping[str, pa.Table],
) -> Outcomes:
    """Fit and evaluate each baseline wherever a network trains on cells as they are.

    Cells are measured once for all splits, and splits are fitted side by side; Ray must be
    initialised. Scores are kept in `root/baselines`, and what is there is not scored again.
    """
    wanted = {
        RunKey(name, place.data, place.protocol, place.repeat): splits[split_key(spec.resolved)]
        for place, spec in plan.specs.items()
        for name in experiment.baselines
        if place.protocol in experiment.baseline_protocols
    }
    folder = root / "baselines"
    folder.mkdir(exist_ok=True)
    missing = {
        place: split
        for place, split in wanted.items()
        if not (folder / f"{place.name}.parquet").exists()
    }
    failed: dict[RunKey, str] = {}
    for place, scored in _score_all(missing, dataset).items():
        if isinstance(scored, str):
            failed[place] = scored
        else:
            write_table(folder / f"{place.name}.parquet", scored)
    found: Outcomes = {}
    for place, split in wanted.items():
        if place in failed:
            found[place] = f"failed: {failed[place]}"
            continue
        leakage = find_leakage(split, dataset.cells)
        scores = read_table(folder / f"{place.name}.parquet")
        found[place] = evaluate_predictions(scores, leakage.leaky, leakage.no_intervals)
    return found


def _score_all(
    wanted: Mapping[RunKey, pa.Table], dataset: PreparedDataset
) -> dict[RunKey, pa.Table | str]:
    """The test cells of each split as `_score` gives them, on all CPUs of the cluster."""
    if not wanted:
        return {}
    features = _measure_all(wanted, dataset)
    cells = ray.put(dataset.cells)
    tasks = [
        _score.remote(place, cells, split, features[place.of]) for place, split in wanted.items()
    ]
    return dict(zip(wanted, _gather(tasks, "baselines: fitting", "split"), strict=True))


def _measure_all(wanted: Mapping[RunKey, pa.Table], dataset: PreparedDataset) -> dict[str, Any]:
    """References to the features of each baseline, of all rows that a split gives a role."""
    names: list[Any] = list(dict.fromkeys(place.of for place in wanted))
    used = [
        rows_with_role(dataset.cells, split, ("train", "validation", "test"))
        for split in wanted.values()
    ]
    rows, reader = np.unique(np.concatenate(used)), ray.put(dataset.reader())
    parts = np.split(rows, range(_ROWS_PER_TASK, len(rows), _ROWS_PER_TASK))
    tasks = [_measure.remote(names, reader, part) for part in parts]
    measured = zip(*_gather(tasks, "baselines: measuring", "part"), strict=True)
    return {
        name: ray.put(Features(rows, np.concatenate([part.values for part in of_name])))
        for name, of_name in zip(names, measured, strict=True)
    }


def _gather(tasks: Sequence[ray.ObjectRef], title: str, unit: str) -> list[Any]:
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
def _score(place: RunKey, cells: pa.Table, split: pa.Table, features: Features) -> pa.Table | str:
    """Test cells: uid, group, label, probability; or why they cannot be scored."""
    try:
        scored = score_baseline(place.of, cells, split, place.repeat - 1, features)  # pyright: ignore[reportArgumentType]
    except UserError as error:
        return str(error)
    test = np.isin(scored.rows, rows_with_role(cells, split, ("test",)))
    chosen = cells.take(pa.array(scored.rows[test])).select(["uid", "group", "label"])
    return chosen.append_column("probability", pa.array(probability(scored.logits[test], 1.0)))
