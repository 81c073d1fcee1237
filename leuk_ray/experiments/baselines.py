"""Classical baselines on the splits of an experiment's runs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa

from leuk_ray.baselines import score_baseline
from leuk_ray.datasets.leakage import find_leakage
from leuk_ray.datasets.prepared import PreparedDataset
from leuk_ray.datasets.splits import rows_with_role
from leuk_ray.errors import UserError
from leuk_ray.experiments.plan import Place, Plan
from leuk_ray.experiments.results import Outcomes, judge_predictions
from leuk_ray.experiments.settings import ExperimentSettings
from leuk_ray.inference.calibration import probability
from leuk_ray.progress import bar
from leuk_ray.runs.spec import split_key
from leuk_ray.storage import read_table, write_table


def outcomes_of_baselines(
    root: Path,
    experiment: ExperimentSettings,
    plan: Plan,
    dataset: PreparedDataset,
    splits: Mapping[str, pa.Table],
) -> Outcomes:
    """Fit and judge each baseline wherever a network trains on cells as they are.

    Scores are kept in `root/baselines`, and what is there is not scored again.
    """
    wanted = {
        Place(name, place.data, place.protocol, place.repeat): splits[split_key(spec.resolved)]
        for place, spec in plan.specs.items()
        for name in experiment.baselines
        if place.protocol in experiment.baseline_protocols
    }
    (root / "baselines").mkdir(exist_ok=True)
    found: Outcomes = {}
    with bar("baselines", "split") as progress:
        for done, (place, split) in enumerate(wanted.items(), 1):
            file = root / "baselines" / f"{place.name}.parquet"
            try:
                if not file.exists():
                    write_table(file, _score(place, dataset, split))
                leakage = find_leakage(split, dataset.cells)
                found[place] = judge_predictions(
                    read_table(file), leakage.leaky, leakage.no_intervals
                )
            except UserError as error:
                found[place] = f"failed: {error}"
            progress(done, len(wanted))
    return found


def _score(place: Place, dataset: PreparedDataset, split: pa.Table) -> pa.Table:
    """Test cells: uid, group, label, probability."""
    scored = score_baseline(place.of, dataset, split, place.repeat - 1)  # pyright: ignore[reportArgumentType]
    test = np.isin(scored.rows, rows_with_role(dataset.cells, split, ("test",)))
    cells = dataset.cells.take(pa.array(scored.rows[test])).select(["uid", "group", "label"])
    return cells.append_column("probability", pa.array(probability(scored.logits[test], 1.0)))
