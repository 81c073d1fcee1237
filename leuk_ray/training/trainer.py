"""A run on Ray Train: place the workers, score with the best checkpoint, make the bundle."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import ray.train
import torch
from ray.train import Checkpoint, CheckpointConfig, RunConfig, ScalingConfig
from ray.train.torch import get_device, prepare_model
from safetensors.torch import load_model
from torch import nn

from leuk_ray.bundles.bundle import write_bundle
from leuk_ray.cluster import ray_cluster
from leuk_ray.cluster.preflight import check_shared
from leuk_ray.cluster.ray_cluster import Workers
from leuk_ray.datasets.loaders import ReaderLoader, StreamLoader, make_loaders
from leuk_ray.datasets.prepared import PreparedDataset
from leuk_ray.datasets.splits import EVALUATED_ROLES, copies_with_role, rows_with_role, split_cells
from leuk_ray.io.locations import Location, filesystem, join
from leuk_ray.io.storage import exists, finish, read_table, refuse_existing
from leuk_ray.models.zoo import build
from leuk_ray.recipes.recipe import Recipe
from leuk_ray.training import collective
from leuk_ray.training.attempts import FAILURES, attempt_starts, fit
from leuk_ray.training.cells import EpochPlanner, check_run
from leuk_ray.training.learner import Learner
from leuk_ray.training.loop import train
from leuk_ray.training.monitoring import Monitor
from leuk_ray.training.record import (
    Reporter,
    bundle_lineage,
    bundle_manifest,
    check_same_run,
    start_record,
)
from leuk_ray.training.state import TrainingState
from leuk_ray.training.tracking import MlflowRun
from leuk_ray.training.validation import CopyAugmentation, score_rows
from leuk_ray.utils.errors import StorageError, UserError, restated
from leuk_ray.utils.progress import training_bar


@dataclass(frozen=True)
class Trained:
    """A run's bundle, and how its network scores what it was not trained on.

    split: of the run.
    rows: (N,) validation and test rows of the dataset, in the order of the split.
    logits: (N, K-1) float64 class logits, each scored exactly once over all workers.
    copies: (N,) uint64, under `paper-literal` the copies of these rows; else None.
    """

    bundle: Location
    split: pa.Table
    rows: np.ndarray
    logits: np.ndarray
    copies: np.ndarray | None


@dataclass(frozen=True)
class WorkerConfig:
    """What every worker of a run is given.

    recipe, dataset, planner: what is trained, on what.
    evaluated: (N,) rows scored with the best checkpoint after training.
    evaluated_copies: (N,) uint64, under `paper-literal` the copies of these rows; else None.
    run: the run's folder.
    board: shows progress, called by rank 0; None shows nothing.
    mlflow: also gets the metrics.
    stream: read pixels with Ray Data; not in an elastic run, whose workers may take every CPU.
    """

    recipe: Recipe
    dataset: PreparedDataset
    planner: EpochPlanner
    evaluated: np.ndarray
    evaluated_copies: np.ndarray | None
    run: Location
    board: Any
    mlflow: MlflowRun | None
    stream: bool


@dataclass(frozen=True)
class _Ended:
    """What a worker returns; Ray Train hands on rank 0's."""

    stopped: str
    best: Checkpoint
    metrics: dict[str, Any]
    logits: np.ndarray


def run_training(
    recipe: Recipe,
    dataset: PreparedDataset,
    out: Location,
    *,
    workers: Workers,
    gpus: bool = False,
    resume: bool = False,
    mlflow: str | None = None,
    evaluated: bool = True,
) -> Trained:
    """Train a recipe on a dataset; Ray must be initialised.

    Args:
        recipe, dataset: what to train and on what.
        out: folder of the run.
        workers: training workers; (fewest, most) for as many as there is room for, looked at
            again when workers are lost and when nodes come.
        gpus: one GPU a worker.
        resume: go on with the run that lies in `out`.
        mlflow: an MLflow server or store that also gets the metrics.
        evaluated: also score the validation and test cells; else `rows` and `logits` are empty.

    Raises:
        UserError: what cannot work is refused before any worker starts.
    """
    out = out.absolute() if isinstance(out, Path) else out
    resuming = resume and exists(join(out, "config.yaml"))
    if resuming:
        check_same_run(recipe, dataset, out)
        finish(out)
        split = read_table(join(out, "split.parquet"))
    else:
        refuse_existing(out, "run (add --resume to go on with it)")
        split = split_cells(dataset.cells, recipe.split, dataset.classes)
    ray_cluster.require(workers, gpus)
    planner = check_run(recipe, dataset, split, ray_cluster.span(workers)[1], gpus)
    check_shared(out, dataset.location)
    if not resuming:
        start_record(recipe, dataset, out, split)
    files, path = filesystem(out)
    roles = EVALUATED_ROLES if evaluated else ()
    rows, copies = rows_with_role(dataset.cells, split, roles), copies_with_role(split, roles)
    tracked = MlflowRun.of(mlflow, out, recipe) if mlflow else None
    with training_bar(recipe.training.epochs) as board:
        config = WorkerConfig(
            recipe,
            dataset,
            planner,
            evaluated=rows,
            evaluated_copies=copies,
            run=out,
            board=board,
            mlflow=tracked,
            stream=isinstance(workers, int),
        )
        try:
            ended = fit(
                partial(train_worker, config),
                out,
                ScalingConfig(num_workers=workers, use_gpu=gpus),
                RunConfig(
                    storage_path=path,
                    storage_filesystem=files,
                    name="checkpoints",
                    failure_config=FAILURES,
                    checkpoint_config=CheckpointConfig(
                        num_to_keep=recipe.training.keep, checkpoint_score_attribute="selection"
                    ),
                ),
            )
        except ray.train.TrainingFailedError as error:
            if tracked:
                tracked.end("FAILED")
            raise _cause(error, out) from error
    if tracked:
        tracked.end("FINISHED")
    assert isinstance(ended, _Ended)
    bundle = _make_bundle(recipe, dataset, split, out, ended)
    return Trained(bundle, split, rows, ended.logits, copies)


def train_worker(config: WorkerConfig) -> _Ended:
    """Train on one worker of Ray Train, then score the evaluated cells with the best checkpoint."""
    recipe, cells = config.recipe, config.planner.cells
    context = ray.train.get_context()
    on_node, rank = context.get_local_world_size(), context.get_world_rank()
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // on_node))
    device = get_device()
    assert isinstance(device, torch.device)
    torch.manual_seed(recipe.seed)
    model = build(recipe.model, load_weights=True, num_classes=cells.num_classes).to(device)
    monitor = Monitor(str(config.run).rpartition("/")[2], platform.node(), device)
    learner = Learner(
        model,
        recipe.training,
        recipe.augment.fill,
        lambda module: monitor.time(_distributed(module)),
    )
    state = TrainingState()
    if checkpoint := ray.train.get_checkpoint():
        with checkpoint.as_directory() as directory:
            state = TrainingState.load(Path(directory), learner)
    loader, validation_loader = make_loaders(
        config.dataset,
        cells.train,
        cells.validation[collective.rank() :: collective.world_size()],
        device,
        cache=recipe.training.cache,
        window=recipe.training.window,
        world_size=collective.world_size(),
        workers_on_node=on_node,
        stream=config.stream,
    )
    if rank == 0:
        attempt_starts(config.run, collective.world_size(), state.epoch)
    board = config.board if rank == 0 else None
    reporter = Reporter(config.run, state, board, config.mlflow, monitor)
    state = train(
        learner,
        state,
        config.planner,
        monitor.watch(loader),
        validation_loader,
        recipe.augment,
        reporter,
        reporter.progress,
    )
    reported = ray.train.get_all_reported_checkpoints()
    best = max(reported, key=lambda item: item.metrics["selection"])
    with best.checkpoint.as_directory() as directory:
        load_model(learner.eval_model, Path(directory) / "model.safetensors")
    reader, rows = config.dataset.reader(), config.evaluated
    loader = StreamLoader(reader, device) if config.stream else ReaderLoader(reader, device)
    augment = CopyAugmentation.of(recipe.augment, recipe.seed, cells, rows, config.evaluated_copies)
    logits = score_rows(learner.eval_model, rows, loader, recipe.training.batch_size, augment)
    return _Ended(state.stopped, best.checkpoint, best.metrics, logits)


def _distributed(module: nn.Module) -> nn.Module:
    # Running statistics are averaged once an epoch (collective.average_running_statistics).
    options = {"broadcast_buffers": False, "gradient_as_bucket_view": True}
    return prepare_model(module, parallel_strategy_kwargs=options)


def _make_bundle(
    recipe: Recipe, dataset: PreparedDataset, split: pa.Table, out: Location, ended: _Ended
) -> Location:
    model = build(recipe.model, load_weights=False, num_classes=len(dataset.classes))
    with ended.best.as_directory() as directory:
        load_model(model, Path(directory) / "model.safetensors")
    manifest = bundle_manifest(recipe, dataset, ended.metrics, ended.stopped)
    bundle = join(out, "bundle")
    lineage = bundle_lineage(recipe, dataset.cells, split)
    write_bundle(bundle, manifest, model.eval(), lineage)
    return bundle


def _cause(error: BaseException, out: Location) -> BaseException:
    """Return what the user can mend in a worker's failure; else the failure itself."""
    for failure in [*getattr(error, "worker_failures", {}).values(), error]:
        seen: BaseException | None = failure
        while seen is not None:
            if isinstance(seen, UserError):
                return restated(seen, str(seen))
            if isinstance(seen, OSError) and seen.errno:
                return StorageError(
                    f"{out}: a worker could not read or write ({seen.strerror}: {seen.filename}); "
                    "existing checkpoints are intact. Fix the storage, then rerun with --resume"
                )
            seen = getattr(seen, "cause", None) or seen.__cause__
    return error
