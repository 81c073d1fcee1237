"""One run inside the executor.

A run of one worker trains in the executor's own process, which lives on for the next run and
so saves the imports; a run of several workers is a run of Ray Train.
"""

from __future__ import annotations

import json
import math
import shutil
import threading
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from ray import tune

from leuk_ray.datasets.host_cache import open_host_cache
from leuk_ray.datasets.loaders import Loader, ReaderLoader, ResidentLoader, device_shortage
from leuk_ray.datasets.prepared import PreparedDataset
from leuk_ray.datasets.splits import EVALUATED_ROLES, copies_with_role, rows_with_role
from leuk_ray.io.storage import write_bytes
from leuk_ray.models.zoo import build
from leuk_ray.recipes.recipe import Recipe, value_at
from leuk_ray.runs.folder import RunFolder
from leuk_ray.runs.placement import Resources
from leuk_ray.runs.report import keep_results, report_on
from leuk_ray.runs.spec import RunSpec, split_key
from leuk_ray.runs.table import read_history
from leuk_ray.runs.target import EvaluationTarget
from leuk_ray.training.cells import EpochPlanner, TrainingCells
from leuk_ray.training.learner import Learner
from leuk_ray.training.loop import train
from leuk_ray.training.record import check_same_run
from leuk_ray.training.state import TrainingState
from leuk_ray.training.trainer import Trained, run_training
from leuk_ray.training.validation import CopyAugmentation, score_rows
from leuk_ray.utils import scratch
from leuk_ray.utils.errors import StorageError, UserError

Save = Callable[[Path], None]
Report = Callable[[dict[str, Any], Save], None]

_POLL_SECONDS = 0.5


@dataclass(frozen=True)
class TrialContext:
    """What all runs of an executor have in common; sent to each process once.

    root: holds a folder a run. splits: by `split_key`, computed once.
    side_by_side: runs that may share a node's memory.
    evaluated: also score validation and test with the best epoch, and write report/.
    checkpoints: runs may take over each other's weights, so each epoch is saved with Tune.
    """

    root: Path
    dataset: PreparedDataset
    splits: dict[str, pa.Table]
    resources: Resources
    side_by_side: int
    evaluated: bool
    checkpoints: bool

    def split(self, recipe: Recipe) -> pa.Table:
        """Return the split that a recipe asks for."""
        return self.splits[split_key(recipe)]


def run_trial(config: dict[str, Any], shared: TrialContext) -> None:
    """Run one proposal of the executor; a failure is reported, not raised.

    The process can then take the next run, where it would be started anew after an error.
    """
    given = config["spec"]
    spec = RunSpec(given["run"], Recipe(**given["recipe"]), given["overrides"])
    try:
        if shared.resources.workers > 1:
            _train_on_ray_train(spec, shared)
            return
        report, checkpoint = _reporter(shared.checkpoints), tune.get_checkpoint()
        if checkpoint is None:
            train_in_process(spec, shared, report)
            return
        with checkpoint.as_directory() as start:
            train_in_process(spec, shared, report, Path(start))
    except Exception as error:
        tune.report({"failure": reason(error)})
    finally:
        if torch.cuda.is_available():
            torch.cuda.empty_cache()  # the next run's process is this one


def reason(error: BaseException) -> str:
    """Say why a run failed, in one line."""
    if isinstance(error, UserError):
        return str(error)
    on_cpu = isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
    if on_cpu or isinstance(error, torch.OutOfMemoryError | MemoryError):
        return f"out of memory: lower training.batch_size or model.input_size ({_line(error)})"
    return f"{type(error).__name__}: {_line(error)}"


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300]


def _reporter(checkpoints: bool) -> Report:
    """Report to Tune, with a checkpoint where runs take over each other's weights."""

    def report(metrics: dict[str, Any], save: Save) -> None:
        if not checkpoints:
            tune.report(_reported(metrics))
            return
        with scratch.temporary("checkpoint") as folder:
            save(folder)
            tune.report(_reported(metrics), checkpoint=tune.Checkpoint.from_directory(str(folder)))

    return report


def _train_on_ray_train(spec: RunSpec, shared: TrialContext) -> None:
    """Return a run of several workers; one that was killed goes on from its last checkpoint.

    Its epochs are read from its folder and reported by this thread alone. Ray's own
    `TuneReportCallback` hands them over by a second queue: two reports at a time then wait for
    each other for ever, or arrive in the wrong order.
    """
    recipe, path = spec.resolved, shared.root / spec.name
    _remove_unless_same(recipe, shared.dataset, path)
    training: Future[Trained] = Future()

    def train_run() -> None:
        try:
            trained = run_training(
                recipe,
                shared.dataset,
                path,
                workers=shared.resources.workers,
                gpus=bool(shared.resources.gpus),
                resume=True,
                evaluated=shared.evaluated,
            )
        except BaseException as error:
            training.set_exception(error)
        else:
            training.set_result(trained)

    # A daemon: where Tune stops the run, the process ends, and Ray Train with it.
    threading.Thread(target=train_run, daemon=True).start()
    num_told, done = 0, False
    while not done:
        done = _is_done(training)  # before a look at the epochs, or the last might be missed
        for line in read_history(path)[num_told:]:
            tune.report(_reported(line))
            num_told += 1
    trained = training.result()
    if shared.evaluated:
        _report(path, shared.dataset, trained.split, trained.rows, trained.logits, trained.copies)


def _is_done(training: Future[Trained]) -> bool:
    """Wait for a moment, and say whether the training has ended or failed."""
    with suppress(TimeoutError):
        training.exception(_POLL_SECONDS)
    return training.done()


def _reported(metrics: dict[str, Any]) -> dict[str, Any]:
    """Say what Tune hears of an epoch."""
    return {key: metrics[key] for key in ("epoch", "selection", "ended")}


def _remove_unless_same(recipe: Recipe, dataset: PreparedDataset, path: Path) -> None:
    """Remove a folder that is no run of this recipe: it was killed before it was one, or its name
    was given to another configuration, as a resumed search may."""
    try:
        check_same_run(recipe, dataset, path)
    except (UserError, OSError):
        shutil.rmtree(path, ignore_errors=True)


def train_in_process(
    spec: RunSpec,
    shared: TrialContext,
    report: Report,
    start: Path | None = None,
) -> None:
    """Train a run in this process into `shared.root / spec.name`.

    Args:
        spec: the run.
        shared: dataset, splits and place.
        report: called after every epoch with its metrics and a way to save a checkpoint; may
            end the run by raising.
        start: a checkpoint to go on from, its own or another run's (population-based training).
    """
    recipe = spec.resolved
    split = shared.split(recipe)
    folder = RunFolder(shared.root / spec.name, recipe, shared.dataset)
    if start is None:
        folder.start(split)
    cells, settings = TrainingCells.of(shared.dataset, split), recipe.training
    planner = EpochPlanner(cells, settings, recipe.seed)
    planner.check_batches(workers=1)
    torch.set_num_threads(max(1, int(shared.resources.cpus)))
    device = torch.device("cuda" if shared.resources.gpus else "cpu")
    torch.manual_seed(recipe.seed)
    core = build(recipe.model, load_weights=True, num_classes=cells.num_classes).to(device)
    learner = Learner(core, settings, recipe.augment.fill)
    state = TrainingState() if start is None else _take_over(spec, folder, start, learner)
    best = folder.best.get("selection", -math.inf)

    def reported(metrics: dict[str, Any], save: Save) -> None:
        nonlocal best
        folder.write_history(state.history)
        if metrics["selection"] > best:
            best = metrics["selection"]
            folder.keep(metrics, state.stopped, learner.eval_model)

        def save_with_origin(directory: Path) -> None:
            save(directory)
            origin = {"run": spec.name, "recipe": recipe.model_dump(mode="json")}
            (directory / "origin.json").write_text(json.dumps(origin))

        report(metrics, save_with_origin)

    if state.stopped:  # it took over weights whose training had ended
        reported(state.history[-1], lambda directory: state.save(directory, learner))
    loader, validation_loader = _loaders(shared, cells, device)
    train(learner, state, planner, loader, validation_loader, recipe.augment, reported)
    model = folder.end(state.stopped)
    if shared.evaluated:
        rows = rows_with_role(shared.dataset.cells, split, EVALUATED_ROLES)
        copies = copies_with_role(split, EVALUATED_ROLES)
        reader = ReaderLoader(shared.dataset.reader(), device)
        augment = CopyAugmentation.of(recipe.augment, recipe.seed, cells, rows, copies)
        logits = score_rows(model.to(device), rows, reader, settings.batch_size, augment)
        _report(folder.path, shared.dataset, split, rows, logits, copies)


def _report(
    run: Path,
    dataset: PreparedDataset,
    split: pa.Table,
    rows: np.ndarray,
    logits: np.ndarray,
    copies: np.ndarray | None,
) -> None:
    """Report on a run's scores in `run/report`, replacing the report of an interrupted run."""
    shutil.rmtree(run / "report", ignore_errors=True)
    target = EvaluationTarget(run / "bundle", run)
    out = run / "report"
    keep_results(
        target,
        report_on(target, dataset, split, rows, logits, out, copies=copies, show_images=False),
    )


def _loaders(
    shared: TrialContext, cells: TrainingCells, device: torch.device
) -> tuple[Loader, Loader]:
    """As `loaders.make_loaders`, but read in this process: no CPU is left for Ray Data's tasks."""
    loader, size = ReaderLoader(shared.dataset.reader(), device), shared.dataset.storage.size
    num_rows = len(cells.train) + len(cells.validation)
    gpus = shared.resources.gpus
    sharing = max(1, int(1 / gpus)) if gpus else shared.side_by_side
    if not device_shortage(num_rows, size, device, sharing):
        return (
            ResidentLoader(loader, cells.train, size, device),
            ResidentLoader(loader, cells.validation, size, device),
        )
    with suppress(StorageError):  # no room there either: every epoch reads the dataset
        loader = ReaderLoader(open_host_cache(shared.dataset), device)
    return loader, loader


def _take_over(spec: RunSpec, folder: RunFolder, start: Path, learner: Learner) -> TrainingState:
    """Go on from a checkpoint with this run's settings, and write down whose it was.

    The optimizer keeps its moments and takes this run's settings; what the schedule did to the
    learning rate so far holds.
    """
    groups = learner.optimizer.param_groups
    wanted = [{k: v for k, v in group.items() if k != "params"} for group in groups]
    state = TrainingState.load(start, learner)
    for group, settings in zip(learner.optimizer.param_groups, wanted, strict=True):
        group.update(settings)
    origin = json.loads((start / "origin.json").read_text())
    if origin["run"] != spec.name:
        recipe = Recipe(**origin["recipe"])
        changed = {
            key: [value_at(recipe, key), value_at(folder.recipe, key)] for key in spec.overrides
        }
        step = {"epoch": state.epoch, "from": origin["run"], "changed": changed}
        with (folder.path / "steps.jsonl").open("a") as file:
            file.write(json.dumps(step) + "\n")
        write_bytes(folder.path / "config.yaml", folder.recipe.to_yaml().encode())
    return state
