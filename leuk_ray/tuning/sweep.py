"""A sweep from its settings to the best bundles, evaluated once on the test cells.

sweep.yaml  environment.json  runs.jsonl  runs/NAME/  tensorboard/  top/1..k/  winner/  report/
"""

from __future__ import annotations

import shutil
from pathlib import Path

import pyarrow as pa

from leuk_ray.datasets.prepared import PreparedDataset
from leuk_ray.datasets.splits import rows_with_role
from leuk_ray.io.storage import directory_by_rename
from leuk_ray.models.zoo import build
from leuk_ray.recipes.recipe import with_values
from leuk_ray.runs.executor import Executor
from leuk_ray.runs.root import RunsRoot
from leuk_ray.runs.spec import RunSpec, make_splits, split_key
from leuk_ray.runs.table import RunRecord, RunTable
from leuk_ray.runs.target import EvaluationTarget
from leuk_ray.tuning.hparams import write_hparams
from leuk_ray.tuning.leaderboard import LeaderboardRow, configuration, rank
from leuk_ray.tuning.report import SweepReport, write_sweep_report
from leuk_ray.tuning.schedulers import make_scheduler
from leuk_ray.tuning.searchers import Tpe, listed, run_name
from leuk_ray.tuning.settings import SweepSettings
from leuk_ray.utils.errors import ConfigError, UserError
from leuk_ray.utils.progress import note
from leuk_ray.workflows.evaluate import evaluate


def run_sweep(
    sweep: SweepSettings, dataset: PreparedDataset, out: Path, *, resume: bool = False
) -> SweepReport:
    """Search, train the finalists with the other seeds, evaluate the winner, write the report.

    Ray must be initialised. Runs that have ended are never repeated; a failed one is tried
    again with --resume, save by `optuna`, which has learnt from the failure.

    Args:
        sweep: its settings.
        dataset: what all runs train on.
        out: folder of the sweep; on a cluster, on storage that all nodes see.
        resume: go on with the sweep that lies there; its runs may take other resources now, but
            for the number of workers.

    Returns:
        The content of report/report.json.

    Raises:
        UserError: what cannot work, before any run starts; or all runs failed.
    """
    out = out.absolute()
    root = RunsRoot(out, "sweep", sweep, dataset, same_results)
    resuming = root.check(resume=resume)
    splits = make_splits(dataset, [sweep.base()])
    _check_metric(sweep, splits[split_key(sweep.base())], dataset)
    _check_networks(sweep)
    executor = Executor(
        out,
        dataset,
        sweep.resources,
        splits,
        evaluated=False,
        on_record=lambda record: _after(record, sweep, out),
    )
    if not resuming:
        root.start()
    _search(sweep, executor)
    _finals(sweep, executor)
    leaderboard = rank(executor.table.records().values(), len(sweep.seeds))
    if not leaderboard:
        raise UserError(_all_failed(out, executor.table))
    _keep_top(leaderboard[: sweep.top], out)
    _evaluate_winner(leaderboard[0].best, dataset, out)
    return write_sweep_report(out, sweep, dataset, executor.table.records(), leaderboard)


def _search(sweep: SweepSettings, executor: Executor) -> None:
    """Train configurations with the first seed."""
    earlier = [record for record in executor.table.records().values() if record.name.isdigit()]
    scheduler = make_scheduler(sweep, [record for record in earlier if record.done])
    population = sweep.scheduler.kind == "pbt"
    specs = listed(sweep)
    if specs is not None:
        executor.run_all(specs, "tune", scheduler, checkpoints=population)
        return
    left = (sweep.trials or 0) - len(earlier)
    if left > 0:
        executor.run(Tpe(sweep, earlier), "tune", left, scheduler, checkpoints=population)


def _finals(sweep: SweepSettings, executor: Executor) -> None:
    """Train the best configurations with the other seeds, each to its end."""
    searched = [record for record in executor.table.records().values() if record.name.isdigit()]
    base = sweep.base()
    specs = [
        RunSpec(run_name(int(row.best), seed), base, row.overrides | {"seed": seed})
        for row in rank(searched, 1)[: sweep.finalists]
        for seed in sweep.seeds[1:]
    ]
    executor.run_all(specs, "finals")


def _after(record: RunRecord, sweep: SweepSettings, out: Path) -> None:
    """Log a run for TensorBoard, and remove the weights that no place among the best needs."""
    write_hparams(out / "tensorboard", record)
    records = RunTable(out / "runs.jsonl").records()
    leaderboard = rank(records.values(), len(sweep.seeds))[: max(sweep.top, sweep.finalists)]
    kept = {configuration(row.overrides) for row in leaderboard}
    for other in records.values():
        if configuration(other.overrides) not in kept:
            for part in ("bundle", "checkpoints"):
                shutil.rmtree(out / "runs" / other.name / part, ignore_errors=True)


def _keep_top(leaderboard: list[LeaderboardRow], out: Path) -> None:
    with directory_by_rename(out / "top") as partial:
        for place, row in enumerate(leaderboard, 1):
            shutil.copytree(out / "runs" / row.best / "bundle", partial / str(place))


def _evaluate_winner(name: str, dataset: PreparedDataset, out: Path) -> None:
    """Evaluate a run into `out/winner`, unless its report, and no other run's, lies there."""
    folder, run = out / "winner", out / "runs" / name
    marker = folder / "run.txt"
    if marker.exists() and marker.read_text() == name:
        return
    note("tune: the winner meets the test cells, once")
    target = EvaluationTarget(run / "bundle", run)
    with directory_by_rename(folder) as partial:
        report = partial / "report"
        evaluate(target, dataset, report, roles=("validation", "test"), show_images=False)
        for part in report.iterdir():
            part.rename(partial / part.name)
        report.rmdir()
        (partial / marker.name).write_text(name)


def same_results(started: SweepSettings, sweep: SweepSettings) -> bool:
    """Say whether two sweeps come to the same results; what a run may take changes none."""
    alike = started.resources.workers == sweep.resources.workers
    return alike and started.model_copy(update={"resources": sweep.resources}) == sweep


def _check_metric(sweep: SweepSettings, split: pa.Table, dataset: PreparedDataset) -> None:
    rows = rows_with_role(dataset.cells, split, ("validation",))
    labels = {dataset.cells["label"][row].as_py() for row in rows.tolist()}
    if sweep.metric == "validation_auc" and len(labels) < 2:
        raise ConfigError(
            "metric validation_auc: is not reported, as validation holds one class only; take "
            "metric=validation_loss, or another split"
        )


def _check_networks(sweep: SweepSettings) -> None:
    """A network that cannot be built shows here and not in a run."""
    base = sweep.base()
    networks = [base.model]
    for key, dimension in sweep.search.items():
        if key.startswith("model."):
            networks += [with_values(base, {key: value}).model for value in dimension.extremes]
    seen: set[str] = set()
    for model in networks:
        if model.model_dump_json() not in seen:
            seen.add(model.model_dump_json())
            build(model, load_weights=model.weights not in ("imagenet", "scratch"))


def _all_failed(out: Path, table: RunTable) -> str:
    reasons = sorted({record.reason for record in table.records().values()})
    return f"{out}: no run came to a result: {'; '.join(reasons[:3])}"
