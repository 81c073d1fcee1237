"""Classical baselines on the splits of an experiment's runs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pyarrow as pa

from leuk_ray.datasets.leakage import find_leakage
from leuk_ray.datasets.prepared import PreparedDataset
from leuk_ray.experiments.plan import Plan, RunKey
from leuk_ray.experiments.results import Outcomes, evaluate_predictions
from leuk_ray.experiments.settings import ExperimentSettings
from leuk_ray.runs.spec import split_key
from leuk_ray.workflows.baselines import BaselineFit, score_baselines


def outcomes_of_baselines(
    root: Path,
    experiment: ExperimentSettings,
    plan: Plan,
    dataset: PreparedDataset,
    splits: Mapping[str, pa.Table],
) -> Outcomes:
    """Fit and evaluate each baseline wherever a network trains on cells as they are.

    Scores are kept in `root/baselines`; see `score_baselines`.
    """
    wanted = {
        RunKey(name, place.data, place.protocol, place.repeat): splits[split_key(spec.resolved)]
        for place, spec in plan.specs.items()
        for name in experiment.baselines
        if place.protocol in experiment.baseline_protocols
    }
    fits = {
        place.name: BaselineFit(place.of, split, place.repeat - 1)  # pyright: ignore[reportArgumentType]
        for place, split in wanted.items()
    }
    scores = score_baselines(root / "baselines", fits, dataset)
    found: Outcomes = {}
    for place, split in wanted.items():
        scored = scores[place.name]
        if isinstance(scored, str):
            found[place] = f"failed: {scored}"
            continue
        leakage = find_leakage(split, dataset.cells)
        found[place] = evaluate_predictions(scored, leakage.leaky, leakage.no_intervals)
    return found
