"""Training, cross-validation, evaluation and search.

What imports PyTorch is imported when it is needed: while Ray starts, or after mistakes are found.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from leuk_ray.api.places import opened, place
from leuk_ray.api.results import CalibratedBundle, EvaluationResult, SweepResult, TrainedRun
from leuk_ray.datasets.prepared import PreparedDataset
from leuk_ray.io.locations import Location, join
from leuk_ray.io.storage import refuse_existing
from leuk_ray.recipes.recipe import Recipe, load_recipe
from leuk_ray.utils.errors import ConfigError
from leuk_ray.utils.extras import require

if TYPE_CHECKING:
    from leuk_ray.cluster.ray_cluster import Workers

Data = Location | PreparedDataset
Overrides = Mapping[str, object] | Sequence[str]  # {"lr": 5e-4}, or ["lr=5e-4"]


def train(
    recipe: str | Path | Recipe,
    data: Data,
    out: Location,
    *,
    settings: Overrides = (),
    workers: Workers = 1,
    gpus: bool = False,
    resume: bool = False,
    show_images: bool = True,
    mlflow: str | None = None,
    address: str | None = None,
) -> TrainedRun:
    """Train a recipe, evaluate its best checkpoint on the test cells, and write a bundle.

    Args:
        recipe: name of a shipped one, path of a YAML file, or a loaded one.
        data: a prepared dataset.
        out: folder of the run.
        settings: of the recipe, other than it says; see `leuk-ray recipes --settings`.
        workers: number of workers, or (fewest, most) for elastic training.
        gpus: one for each worker.
        resume: continue the run in `out`.
        show_images: show cells in the report.
        mlflow: also log to this MLflow server or store.
        address: Ray cluster to join; by default Ray starts here.

    Raises:
        UserError: what cannot work is refused before any worker starts.
    """
    resolved, dataset, run = _resolved(recipe, settings), opened(data), place(out)

    from leuk_ray.cluster import ray_cluster

    ray_cluster.connect(address, workers, meanwhile="leuk_ray.models.zoo")

    from leuk_ray.workflows.train import train_and_evaluate

    report = train_and_evaluate(
        resolved,
        dataset,
        run,
        workers=workers,
        gpus=gpus,
        resume=resume,
        show_images=show_images,
        mlflow=mlflow,
    )
    return TrainedRun(join(run, "report"), report, run)


def evaluate(
    model: Location | TrainedRun,
    data: Data,
    out: Location,
    *,
    role: Literal["validation", "test"] = "test",
    seen: bool = False,
    workers: int | None = None,
    gpus: bool = False,
    show_images: bool = True,
    address: str | None = None,
) -> EvaluationResult:
    """Score a run's test cells, or a bundle on another dataset, and write a report.

    A bundle alone is evaluated on cells of patients that did not train, validate or calibrate it
    or its members.

    Args:
        model: a run or a bundle.
        data: a prepared dataset.
        out: folder of the report.
        role: of the cells to score.
        seen: score cells that made the bundle as well; the report is marked TRAINED-ON-THESE or
            the like.
        workers: on Ray; 0 scores in this process, as do by default up to 500 cells.
        gpus: one for each worker.
        show_images: show cells in the report.
        address: Ray cluster to join.

    Raises:
        UserError: no such model or dataset, no cells to score, or `out` is there.
    """
    from leuk_ray.runs.target import EvaluationTarget
    from leuk_ray.utils.progress import bar
    from leuk_ray.workflows.evaluate import evaluate as evaluate_target
    from leuk_ray.workflows.pool import Pool

    target = EvaluationTarget.at(model.run if isinstance(model, TrainedRun) else place(model))
    dataset, folder = opened(data), place(out)
    with bar("evaluate: scoring", "cell") as progress:
        report = evaluate_target(
            target,
            dataset,
            folder,
            roles=(role,),
            seen=seen,
            pool=Pool(workers, gpus, address),
            show_images=show_images,
            progress=progress,
        )
    return EvaluationResult(folder, report)


def calibrate(
    model: Location | TrainedRun,
    data: Data,
    out: Location,
    *,
    abstain: float | None = None,
    coverage: float | None = None,
    misses: str | Path | None = None,
) -> CalibratedBundle:
    """Write a copy of a bundle with calibrated probabilities, a rule when to abstain, and scope.

    Args:
        model: a run or a bundle.
        data: the run's dataset, or another one for a bundle: cells that it has not seen.
        out: folder of the copy.
        abstain: share of cells to abstain on, 0 to 0.9; by default 0.05.
        coverage: between 0 and 1: answer with prediction sets instead, which hold the class of a
            new patient's cell with this probability.
        misses: detect.json of `leuk-ray detect --boxes`: intervals of the blast percentage then
            carry the cells that the detector misses.

    Raises:
        UserError: too few cells or patients, one class alone, another dataset than the run's, or
            `out` is there.
    """
    folder = place(out)
    refuse_existing(folder, "bundle")
    dataset = opened(data)

    from leuk_ray.runs.target import EvaluationTarget
    from leuk_ray.utils.progress import bar
    from leuk_ray.workflows.calibrate import calibrate as calibrate_bundle

    with bar("calibrate: scoring", "cell") as progress:
        summary = calibrate_bundle(
            EvaluationTarget.at(model.run if isinstance(model, TrainedRun) else place(model)),
            dataset,
            folder,
            abstain_share=abstain,
            coverage=coverage,
            misses=None if misses is None else Path(misses),
            progress=progress,
        )
    return CalibratedBundle(folder, summary)


def crossval(
    recipe: str | Path | Recipe,
    data: Data,
    out: Location,
    *,
    folds: int = 5,
    seeds: int = 1,
    settings: Overrides = (),
    workers: int = 1,
    gpus: bool = False,
    resume: bool = False,
    show_images: bool = True,
    bundle: Location | None = None,
    coverage: float | None = None,
    address: str | None = None,
) -> EvaluationResult:
    """Train a recipe once for each fold and report on the pooled out-of-fold scores.

    Args:
        recipe: name of a shipped one, path of a YAML file, or a loaded one.
        data: a prepared dataset.
        out: folder of the cross-validation, local or shared.
        folds: 2 or more.
        seeds: trainings of each fold; their log-odds are averaged.
        settings: of the recipe, other than it says.
        workers: of each run.
        gpus: one for each worker.
        resume: continue the cross-validation in `out`.
        show_images: show cells in the report.
        bundle: folder for an ensemble of all runs' networks, calibrated on out-of-fold scores.
        coverage: of the ensemble's prediction sets.
        address: Ray cluster to join; by default Ray starts here.

    Raises:
        UserError: what cannot work, before any run starts; or a run failed.
    """
    resolved, folder = _resolved(recipe, settings), _local(out, "a table of runs")

    from leuk_ray.cluster import ray_cluster
    from leuk_ray.runs.placement import Resources
    from leuk_ray.workflows.crossval import crossval as crossvalidate

    report = crossvalidate(
        resolved,
        opened(data),
        folder,
        folds=folds,
        seeds=seeds,
        connect=lambda: ray_cluster.connect(address, workers + 1 if workers > 1 else 0),
        resources=Resources(workers=workers, gpus=float(gpus)),
        resume=resume,
        show_images=show_images,
        bundle=None if bundle is None else place(bundle),
        coverage=coverage,
    )
    return EvaluationResult(folder / "report", report)


def tune(
    sweep: str | Path,
    data: Data,
    out: Location,
    *,
    settings: Overrides = (),
    resume: bool = False,
    address: str | None = None,
) -> SweepResult:
    """Search settings of a recipe; leave the best bundles, and evaluate the winner once.

    Args:
        sweep: name of a shipped one, or path of a YAML file.
        data: a prepared dataset.
        out: folder of the sweep, local or shared.
        settings: of the sweep, other than it says.
        resume: continue the sweep in `out`.
        address: Ray cluster to join; by default Ray starts here.

    Raises:
        UserError: what cannot work, before any run starts; or all runs failed.
    """
    require("tune", "tune")

    from leuk_ray.tuning.settings import load_sweep

    folder = _local(out, "a sweep's table")
    wanted, dataset = load_sweep(str(sweep), _texts(settings)), opened(data)

    from leuk_ray.cluster import ray_cluster
    from leuk_ray.tuning.sweep import run_sweep

    workers = wanted.resources.workers
    ray_cluster.connect(address, workers + 1 if workers > 1 else 0)
    return SweepResult(folder, run_sweep(wanted, dataset, folder, resume=resume))


def _local(out: Location, table: str) -> Path:
    folder = place(out)
    if not isinstance(folder, Path):
        raise ConfigError(f"{out}: {table} is appended to; give a local or shared folder")
    return folder


def _texts(settings: Overrides) -> Sequence[str]:
    """As `key=value`, which recipes and sweeps take."""
    if isinstance(settings, Mapping):
        return [f"{name}={json.dumps(value)}" for name, value in settings.items()]
    return settings


def _resolved(recipe: str | Path | Recipe, settings: Overrides) -> Recipe:
    if not isinstance(recipe, Recipe):
        return load_recipe(str(recipe), _texts(settings))
    if settings:
        raise ConfigError("settings: are for a recipe by name; load_recipe(NAME, settings) does it")
    return recipe
