"""An experiment from its settings to its report.

experiment.yaml  environment.json  runs.jsonl  runs/NAME/  baselines/  report/
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from leuk_ray.datasets.prepared import PreparedDataset
from leuk_ray.experiments.baselines import outcomes_of_baselines
from leuk_ray.experiments.check import check_data, check_networks
from leuk_ray.experiments.plan import make_plan
from leuk_ray.experiments.report import ExperimentContext, ExperimentReport, write_experiment_report
from leuk_ray.experiments.results import outcomes_of_runs, outcomes_of_votes
from leuk_ray.experiments.settings import ExperimentSettings, ScaleName
from leuk_ray.runs.executor import Executor
from leuk_ray.runs.placement import Resources
from leuk_ray.runs.root import RunsRoot
from leuk_ray.runs.table import RunTable
from leuk_ray.utils.errors import ConfigError
from leuk_ray.utils.progress import note
from leuk_ray.utils.settings import Settings


class Started(Settings):
    """What an experiment's folder belongs to: experiment.yaml."""

    experiment: ExperimentSettings
    scale: ScaleName
    values: dict[str, Any]


def run_experiment(
    experiment: ExperimentSettings,
    dataset: PreparedDataset,
    out: Path,
    *,
    scale: ScaleName,
    connect: Callable[[], None],
    values: Mapping[str, Any] | None = None,
    only: Sequence[str] = (),
    weights: Path | None = None,
    resources: Resources | None = None,
    resume: bool = False,
    show_images: bool = True,
) -> ExperimentReport:
    """Train every run that has not ended, and write the report.

    Runs that have ended are never repeated; a failed one is tried again with --resume, and
    stops no other.

    Args:
        experiment, scale: what to run, and how large.
        dataset: what it runs on.
        out: folder of the experiment; on a cluster, on storage that all nodes see.
        connect: joins or starts Ray; called when everything has been checked.
        values: settings of all runs, by full path.
        only: models to train; all where empty. What was trained before stays in the report.
        weights: folder of `weights fetch`, in place of ImageNet weights from the hub.
        resources: what one run takes.
        resume: go on with the experiment that lies there.
        show_images: False keeps every picture of a cell out of the report.

    Raises:
        UserError: what cannot work, before any run starts.
    """
    out = out.absolute()
    if scale not in experiment.scales:
        raise ConfigError(f"--scale {scale}: {experiment.name} has {', '.join(experiment.scales)}")
    given = dict(values or {})
    size = experiment.scales[scale]
    asked = make_plan(experiment, size, dataset.cells, given, only, weights)
    started = Started(experiment=experiment, scale=scale, values=given)
    root = RunsRoot(out, "experiment", started, dataset)
    resuming = root.check(resume=resume)
    table = RunTable(out / "runs.jsonl")
    reported = [*only, *_trained_before(experiment, table)] if only else ()
    plan = make_plan(experiment, size, dataset.cells, given, reported, weights)
    recipes = {place: spec.resolved for place, spec in plan.specs.items()}
    splits = check_data(experiment, dataset, recipes.values())
    check_networks({place.of: recipes[place] for place in asked.specs})
    connect()
    executor = Executor(out, dataset, resources or Resources(), splits, evaluated=True)
    if not resuming:
        root.start()
    executor.run_all(asked.specs.values(), f"experiment {experiment.name}")
    note("experiment: writing the report")
    records = table.records()
    found = outcomes_of_runs(out, plan, records)
    found |= outcomes_of_votes(out, experiment, found)
    found |= outcomes_of_baselines(out, experiment, plan, dataset, splits)
    context = ExperimentContext(
        out, experiment, scale, dataset, plan, splits, records, found, show_images
    )  # fmt: skip
    return write_experiment_report(context)


def _trained_before(experiment: ExperimentSettings, table: RunTable) -> list[str]:
    """Models that have runs in the table, which the report still contains."""
    names = {name.partition(".")[0] for name in table.records()}
    return [name for name in experiment.models if name in names]
