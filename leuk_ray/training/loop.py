"""What one worker does, from the first epoch to the last.

The loop knows no Ray: `trainer` hands it loaders, a learner and a way to report, and a test
can hand it others.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from leuk_ray.augment.settings import AugmentSettings
from leuk_ray.datasets.loaders import Loader
from leuk_ray.datasets.plan import EpochPlan
from leuk_ray.training import collective
from leuk_ray.training.cells import EpochPlanner
from leuk_ray.training.learner import Learner, Microbatch
from leuk_ray.training.losses import class_weights
from leuk_ray.training.probe import fit_head
from leuk_ray.training.schedule import lr_factor
from leuk_ray.training.state import TrainingState
from leuk_ray.training.stochastic import random_parts
from leuk_ray.training.validation import selection, validate
from leuk_ray.utils.device import to_device
from leuk_ray.utils.errors import TrainingDiverged
from leuk_ray.utils.wording import counted


class Report(Protocol):
    """Receives an epoch's metrics and a way to save a checkpoint into a folder."""

    def __call__(self, metrics: dict[str, Any], save: Callable[[Path], None]) -> None:
        """Called once an epoch on every worker; `save` is for rank 0."""
        ...


def train(
    learner: Learner,
    state: TrainingState,
    planner: EpochPlanner,
    loader: Loader,
    validation_loader: Loader,
    augmentation: AugmentSettings,
    report: Report,
    progress: Callable[[dict[str, Any]], None] = lambda update: None,
) -> TrainingState:
    """Train until the plateau rule or the last epoch ends it. All workers must call.

    The one epoch of a probe is a fit of its head; see `probe.fit_head`.

    Args:
        learner: the network, its optimizer and the settings of the training.
        state: where to start; a fresh TrainingState or a loaded one.
        planner: plans the epochs; holds rows, labels and keys, and the seed.
        loader, validation_loader: deliver training and validation pixels to this worker.
        augmentation: of the recipe.
        report: called once an epoch, on every worker.
        progress: called once a step with what has been done in the epoch; every
            `training.log_every` steps also with the `step`'s metrics over all workers.
    """
    settings = learner.settings
    while not state.stopped:
        started = time.perf_counter()
        if settings.probe:
            learner.set_lr(0.0)
            trained = fit_head(learner.model, planner, loader)
        else:
            trained = train_epoch(learner, state, planner, loader, augmentation, progress)
        trained_at = time.perf_counter()
        for network in dict.fromkeys((learner.model, learner.eval_model)):
            collective.average_running_statistics(network)
        validated = validate(learner.eval_model, planner, validation_loader, augmentation)
        metrics = {
            "epoch": state.epoch + 1,
            **trained,
            **validated,
            "lr": learner.optimizer.param_groups[0]["lr"],
            "workers": collective.world_size(),
            "seconds": time.perf_counter() - started,
            "images_per_second": trained["train_images"] / (trained_at - started),
        }
        metrics["selection"] = selection(metrics, settings.select)
        if not np.isfinite(metrics["selection"]):  # the same on all workers: all raise
            raise TrainingDiverged(
                f"training.lr: {settings.select} of epoch {metrics['epoch']} is not a number; "
                "lower lr"
            )
        if settings.schedule.kind == "plateau":
            stop = state.plateau.step(
                settings.plateau, metrics["train_accuracy"], metrics["validation_loss"]
            )
            metrics["monitor"] = state.plateau.monitor
            state.plateau, stop = collective.from_rank_zero((state.plateau, stop))
            if stop:
                state.stopped = (
                    f"{state.plateau.monitor} did not improve through "
                    f"{settings.plateau.max_reductions} reductions of the learning rate"
                )
        state.epoch += 1
        state.history.append(metrics)
        if state.epoch == settings.epochs and not state.stopped:
            whole = "all " * (settings.epochs > 1)
            state.stopped = f"{whole}{counted(settings.epochs, 'epoch')} done"
        metrics["ended"] = state.stopped
        report(metrics, lambda directory: state.save(directory, learner))
    return state


def train_epoch(
    learner: Learner,
    state: TrainingState,
    planner: EpochPlanner,
    loader: Loader,
    augmentation: AugmentSettings,
    progress: Callable[[dict[str, Any]], None],
) -> dict[str, float]:
    """Train one epoch; return loss and accuracy over the samples of all workers, as trained on."""
    settings, epoch = learner.settings, state.epoch
    rank, world_size = collective.rank(), collective.world_size()
    cells, seed, plan = planner.cells, planner.seed, planner.plan(epoch)
    targets = cells.labels[plan.rows]
    weights = class_weights(settings.loss, targets, cells.num_classes)
    torch.manual_seed(_dropout_seed(seed, epoch, rank))
    learner.start_epoch(epoch)
    microbatches = _microbatches(plan, rank, world_size, settings.accumulate)
    pixels = loader.iter_batches(
        [
            plan.rows[_places(plan, batch, part, augmentation)]
            for batch, parts in enumerate(microbatches)
            for part in parts
        ]
    )
    totals: Tensor | None = None
    batch_losses: list[Tensor] = []  # stays on the device: a look at it would stall every step
    waited = 0.0
    logged_at, logged_batch = time.perf_counter(), 0
    for batch, parts in enumerate(microbatches):
        learner.set_lr(
            lr_factor(
                settings.schedule,
                epochs=settings.epochs,
                step=epoch * len(plan) + batch,
                steps_per_epoch=len(plan),
                plateau=state.plateau.factor,
            )
        )
        for part in parts:
            asked = time.perf_counter()
            images = next(pixels)
            waited += time.perf_counter() - asked
            places = _places(plan, batch, part, augmentation)
            microbatch = Microbatch(
                images,
                **random_parts(
                    learner,
                    augmentation,
                    seed=seed,
                    keys=cells.keys[plan.rows[places]],
                    copy_index=plan.copy_index[places],
                    samples=part.stop - part.start,
                    side=images.shape[-1],
                ),
                labels=to_device(torch.from_numpy(targets[places]), learner.device),
                weights=to_device(torch.from_numpy(weights[targets[places]]), learner.device),
                # DDP averages over workers; with uneven shares this is the whole batch's mean loss.
                scale=world_size / plan.batch_size(batch),
            )
            with nullcontext() if part is parts[-1] else learner.no_sync():
                counts = learner.learn(microbatch)
            totals = counts if totals is None else totals + counts
            batch_losses.append(counts[0])
            if learner.device.type == "cpu":  # free here: before the weights change
                _check_finite(batch_losses, microbatches, plan, cells.uids, epoch)
        learner.step()
        update: dict[str, Any] = {"epoch": epoch + 1, "batches": batch + 1, "of": len(plan)}
        if settings.log_every and (batch + 1) % settings.log_every == 0:
            recent = torch.stack(batch_losses[logged_batch * settings.accumulate :]).sum()
            summed = collective.total(recent).item()  # waits for the device
            if not np.isfinite(summed):
                raise _not_finite(batch_losses, microbatches, plan, cells.uids, epoch)
            num_samples = sum(plan.batch_size(n) for n in range(logged_batch, batch + 1))
            now = time.perf_counter()
            update["step"] = {
                "number": epoch * len(plan) + batch + 1,
                "loss": summed / num_samples,
                "lr": learner.optimizer.param_groups[0]["lr"],
                "images_per_second": num_samples / (now - logged_at),
            }
            if learner.grad_norm is not None:
                update["step"]["grad_norm"] = learner.grad_norm.item()
            logged_at, logged_batch = now, batch + 1
        progress(update)
    assert totals is not None
    assert next(pixels, None) is None, "the loader delivered more than was planned"
    loss_sum, num_correct = collective.total(totals).tolist()
    if not np.isfinite(loss_sum):
        raise _not_finite(batch_losses, microbatches, plan, cells.uids, epoch)
    num_samples = len(plan.rows)
    return {
        "train_loss": loss_sum / num_samples,
        "train_accuracy": num_correct / num_samples,
        "train_images": num_samples,
        "batch_norms": learner.num_batch_norms,
        "data_wait_seconds": waited,
    }


def _microbatches(
    plan: EpochPlan, rank: int, world_size: int, accumulate: int
) -> list[list[slice]]:
    """Cut this worker's share of each batch into microbatches, as slices of the plan."""
    microbatches = []
    for batch in range(len(plan)):
        share = plan.share(batch, rank, world_size)
        size = share.stop - share.start
        cuts = [share.start + size * n // accumulate for n in range(accumulate + 1)]
        microbatches.append([slice(*cut) for cut in itertools.pairwise(cuts)])
    return microbatches


def _places(plan: EpochPlan, batch: int, part: slice, augmentation: AugmentSettings) -> np.ndarray:
    """Where a microbatch's samples are in the plan; where they are mixed, their partners follow."""
    own = np.arange(part.start, part.stop)
    return np.concatenate([own, plan.partners(batch, part)]) if augmentation.mixes else own


def _dropout_seed(seed: int, epoch: int, rank: int) -> int:
    """Seed of a worker's generator for an epoch; only dropout uses it."""
    return int(np.random.SeedSequence((seed, epoch, rank)).generate_state(1, np.uint64)[0] >> 1)


def _check_finite(
    losses: list[Tensor],
    microbatches: list[list[slice]],
    plan: EpochPlan,
    uids: list[str],
    epoch: int,
) -> None:
    """Raise the error that names this worker's cells if the last loss is not finite, on a CPU."""
    try:
        finite = torch.isfinite(losses[-1])
        torch._assert_async(finite)  # pyright: ignore[reportPrivateUsage, reportPrivateImportUsage]
    except RuntimeError:
        number = len(losses) - 1
        part = [part for batch in microbatches for part in batch][number]
        names = [uids[row] for row in plan.rows[part]]
        raise _loss_error(epoch, number // len(microbatches[0]), names) from None


def _not_finite(
    losses: list[Tensor],
    microbatches: list[list[slice]],
    plan: EpochPlan,
    uids: list[str],
    epoch: int,
) -> TrainingDiverged:
    """Make the error that names the first cells without a finite loss. All workers must call."""
    parts = [part for batch in microbatches for part in batch]
    bad = torch.isfinite(torch.stack(losses)).logical_not().nonzero().flatten().tolist()
    first = bad[0] if bad else len(parts)
    everywhere = collective.gather_objects(
        (first, [uids[row] for row in plan.rows[parts[first]]] if bad else [])
    )
    worst = min(number for number, _ in everywhere)
    named = [uid for number, part in everywhere if number == worst for uid in part]
    return _loss_error(epoch, worst // len(microbatches[0]), named)


def _loss_error(epoch: int, batch: int, names: list[str]) -> TrainingDiverged:
    return TrainingDiverged(
        f"training.lr: the loss of epoch {epoch + 1}, batch {batch + 1} is not a number "
        f"(cells {', '.join(names)}); lower lr, then --resume from the last checkpoint"
    )
