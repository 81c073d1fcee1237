"""What came out of the runs of an experiment: each place's outcome on its test cells."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from leuk_ray.evaluation.intervals import FloatArray, GroupResamples, Interval
from leuk_ray.evaluation.metric_intervals import metric_samples
from leuk_ray.evaluation.metrics import Evaluation, evaluate, losses
from leuk_ray.evaluation.report import BOOTSTRAP
from leuk_ray.evaluation.report_model import Report
from leuk_ray.experiments.plan import Plan, RunKey
from leuk_ray.experiments.settings import ExperimentSettings, Vote
from leuk_ray.io.storage import read_table
from leuk_ray.models.ensemble import vote
from leuk_ray.models.summary import summarise
from leuk_ray.runs.table import RunRecord
from leuk_ray.utils.wording import worst

THRESHOLD = 0.5
_SCORED = ["uid", "group", "label", "probability"]


@dataclass(frozen=True)
class Outcome:
    """How one run or vote did on the test cells of its split.

    metrics: of the test cells. intervals: of groups, by metric.
    roles: cells by role, as `splits.describe` counts them.
    costs: parameters, flops, images_per_second, epochs, as far as there are such.
    stopped: why the training ended.
    leaky: whether its split lets patients cross; None where that cannot be known.
    tested: the test cells, ordered by uid and copy: uid, group, label, probability.
    no_intervals: a reason to give no interval over groups.
    """

    metrics: Evaluation
    intervals: Mapping[str, Interval]
    roles: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    costs: dict[str, float] = field(default_factory=dict)
    stopped: str = ""
    leaky: bool | None = False
    tested: pa.Table | None = None
    no_intervals: str = ""


Outcomes = dict[RunKey, Outcome | str]  # or the reason why there is none


def outcomes_of_runs(root: Path, plan: Plan, records: Mapping[str, RunRecord]) -> Outcomes:
    """Read each run's report; a failed run has its reason instead."""
    found: Outcomes = {}
    networks: dict[str, dict[str, float]] = {}
    for place, spec in plan.specs.items():
        record = records.get(spec.name)
        if record is None or not record.done:
            found[place] = "not run" if record is None else f"failed: {record.reason}"
            continue
        model = spec.resolved.model
        key = model.model_dump_json()
        if key not in networks:
            summary = summarise(model)
            networks[key] = {name: summary[name] for name in ("parameters", "flops")}
        report = _report_of(root, spec.name)
        if report.tested is None:
            found[place] = "no test cell was scored"
            continue
        rate = record.metrics.get("images_per_second")
        costs = networks[key] | {"epochs": len(record.curve)}
        found[place] = Outcome(
            report.tested,
            report.intervals,
            report.run.roles,
            costs if rate is None else costs | {"images_per_second": rate},
            record.reason,
            report.run.leaky,
            tested_cells(root, place),
            report.run.no_intervals,
        )
    return found


def outcomes_of_votes(root: Path, experiment: ExperimentSettings, runs: Outcomes) -> Outcomes:
    """Let the members of each ensemble vote wherever all of them were trained on one split."""
    found: Outcomes = {}
    for name, ensemble in experiment.votes.items():
        places = [place for place in runs if place.of == ensemble.members[0]]
        for first in places:
            members = [
                RunKey(member, first.data, first.protocol, first.repeat)
                for member in ensemble.members
            ]
            place = RunKey(name, first.data, first.protocol, first.repeat)
            failed = [m.of for m in members if not isinstance(runs.get(m), Outcome)]
            if failed:
                found[place] = f"no vote without {', '.join(failed)}"
            else:
                found[place] = _voted(root, ensemble, members)
    return found


def evaluate_predictions(
    predictions: pa.Table, leaky: bool | None = False, withheld: str = ""
) -> Outcome:
    """Metrics and intervals of scored test cells: uid, label, group, probability.

    Args:
        predictions: the cells.
        leaky: of their split; see `leakage.Leakage`.
        withheld: a reason to give no interval.
    """
    resampled = _resampled(predictions, withheld)
    intervals = _intervals(resampled, _samples(resampled, predictions))
    metrics = evaluate(predictions["label"], predictions["probability"], THRESHOLD)
    return Outcome(metrics, intervals, leaky=leaky, tested=predictions, no_intervals=withheld)


def pool_folds(outcomes: Sequence[Outcome]) -> Outcome | None:
    """Pool the test cells of repeats that test different groups; None where they do not.

    So the folds of a cross-validation are read: the interval is over all groups tested.

    Args:
        outcomes: of the repeats.
    """
    known = [outcome.tested for outcome in outcomes if outcome.tested is not None]
    if len(known) < 2 or len(known) < len(outcomes):
        return None
    groups = [set(table["group"].to_pylist()) for table in known]
    if len(set.union(*groups)) < sum(map(len, groups)):
        return None
    cells = pa.concat_tables([table.select(_SCORED) for table in known]).sort_by("uid")
    leaky = worst([outcome.leaky for outcome in outcomes])
    withheld = next((one.no_intervals for one in outcomes if one.no_intervals), "")
    return evaluate_predictions(cells, leaky, withheld)


def intervals_over_patients(outcomes: Sequence[Outcome]) -> dict[str, Interval] | None:
    """95% intervals of means over repeats that test the same cells; None where they re-split.

    Such repeats differ by their seed and training cells alone, so their spread says nothing of
    other patients. Whole groups are left out in turn, the same in all repeats, and each metric is
    averaged over the repeats.

    Args:
        outcomes: of the repeats.
    """
    tables = [outcome.tested for outcome in outcomes]
    known = [table for table in tables if table is not None]
    if len(known) < 2 or len(known) < len(tables):
        return None
    keys = [name for name in ("uid", "copy") if name in known[0].column_names]
    if any(not table.select(keys).equals(known[0].select(keys)) for table in known):
        return None
    resampled = _resampled(known[0], outcomes[0].no_intervals)
    each = [_samples(resampled, table) for table in known]
    means = {name: np.mean([samples[name] for samples in each], axis=0) for name in each[0]}
    return _intervals(resampled, means)


def _resampled(cells: pa.Table, withheld: str) -> GroupResamples:
    label = cells["label"].to_numpy().astype(np.int64)
    return GroupResamples.sample(label, cells["group"].to_pylist(), **BOOTSTRAP, withheld=withheld)


def _samples(resampled: GroupResamples, cells: pa.Table) -> dict[str, FloatArray]:
    """Each metric in each resample: (R,) values by name."""
    label = cells["label"].to_numpy().astype(np.int64)
    stated = cells["probability"].to_numpy()
    loss = resampled.sums(losses(label, stated)) / resampled.sums(np.ones(len(label)))
    return metric_samples(resampled, label, stated, THRESHOLD) | {"nll": loss}


def _intervals(resampled: GroupResamples, samples: Mapping[str, FloatArray]) -> dict[str, Interval]:
    """Of every metric; the loss has no upper end, so its interval is of percentiles."""
    return {
        name: resampled.percentile_interval(values) if name == "nll" else resampled.interval(values)
        for name, values in samples.items()
    }


def tested_cells(root: Path, place: RunKey) -> pa.Table:
    """Say what a run's report scored of its test cells, ordered by uid and copy."""
    table = read_table(root / "runs" / place.name / "report" / "predictions.parquet")
    table = table.filter(pc.field("role") == "test")
    keys = [name for name in ("uid", "copy") if name in table.column_names]
    return table.sort_by([(name, "ascending") for name in keys])


def _voted(root: Path, ensemble: Vote, members: list[RunKey]) -> Outcome:
    tables = [tested_cells(root, member) for member in members]
    keys = [name for name in ("uid", "copy") if name in tables[0].column_names]
    for one, other in itertools.pairwise(tables):
        assert one.select(keys).equals(other.select(keys)), "members were tested on other cells"
    stated = np.stack([table["probability"].to_numpy() for table in tables])
    reports = [_report_of(root, member.name) for member in members]
    thresholds = [one.threshold for one in reports if one.threshold is not None]
    share = vote(torch.from_numpy(stated)[:, :, None], thresholds, ensemble.rule)[:, 0].numpy()
    place = tables[0].column_names.index("probability")
    voted = tables[0].set_column(place, "probability", pa.array(share))
    run = reports[0].run  # all members were trained on one split
    return evaluate_predictions(voted, run.leaky, run.no_intervals)


def _report_of(root: Path, name: str) -> Report:
    return Report.read(root / "runs" / name / "report")
