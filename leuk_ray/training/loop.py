"""What one worker does, from the first epoch to the last.

The loop knows no Ray: `trainer` hands it a feed, a wrapped model and a way to report, and a
test can hand it others.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import pyarrow as pa
import torch
from sklearn.metrics import roc_auc_score
from timm.optim import create_optimizer_v2  # pyright: ignore[reportPrivateImportUsage]
from torch import Tensor, nn

from leuk_ray.augment.policies import augment
from leuk_ray.augment.settings import AugmentSettings
from leuk_ray.datasets.feeds import Feed
from leuk_ray.datasets.plan import plan_epoch, uid_keys
from leuk_ray.errors import UserError
from leuk_ray.inference.engines import score_images
from leuk_ray.models.zoo import classification_loss, positive_logit
from leuk_ray.training import collective
from leuk_ray.training.settings import Selection, TrainingSettings
from leuk_ray.training.state import TrainingState


@dataclass(frozen=True)
class TrainingCells:
    """The rows of a split and what is known of them, indexed by dataset row.

    uids: of every row. labels: (num_rows,) int64, -1 where unknown. keys: (num_rows,) uint64.
    train, validation: rows, ascending.
    """

    uids: list[str]
    labels: np.ndarray
    keys: np.ndarray
    train: np.ndarray
    validation: np.ndarray

    @classmethod
    def of(cls, cells: pa.Table, split: pa.Table) -> TrainingCells:
        """Join `PreparedDataset.cells` with a split."""
        uids = cells["uid"].to_pylist()
        roles = dict(zip(split["uid"].to_pylist(), split["role"].to_pylist(), strict=True))
        of_row = np.asarray([roles.get(uid, "") for uid in uids])
        labels = np.asarray([-1 if x is None else x for x in cells["label"].to_pylist()], np.int64)
        train, validation = (np.flatnonzero(of_row == role) for role in ("train", "validation"))
        return cls(uids, labels, uid_keys(uids), train, validation)


class Report(Protocol):
    """Receives an epoch's metrics and a way to save a checkpoint into a folder."""

    def __call__(self, metrics: dict, save: Callable[[Path], None]) -> None:
        """Called once an epoch on every worker; `save` is for rank 0."""
        ...


def make_optimizer(model: nn.Module, settings: TrainingSettings) -> torch.optim.Optimizer:
    """The optimizer over head and backbone; the backbone's learning rate may be lower."""
    backbone = {id(p) for p in model.get_submodule("backbone").parameters()}
    groups = [
        {"params": [p for p in model.parameters() if id(p) not in backbone], "lr": settings.lr},
        {
            "params": [p for p in model.parameters() if id(p) in backbone],
            "lr": settings.lr * settings.backbone_lr,
        },
    ]
    return create_optimizer_v2(
        groups, opt=settings.optimizer, lr=settings.lr, weight_decay=settings.weight_decay
    )


def train(
    model: nn.Module,
    core: nn.Module,
    optimizer: torch.optim.Optimizer,
    state: TrainingState,
    cells: TrainingCells,
    feed: Feed,
    validation_feed: Feed,
    settings: TrainingSettings,
    augmentation: AugmentSettings,
    seed: int,
    report: Report,
    progress: Callable[[dict], None] = lambda update: None,
) -> TrainingState:
    """Train until the plateau rule or the last epoch ends it. All workers must call.

    Args:
        model: what is called in a step (DistributedDataParallel, or `core` itself).
        core: the network without wrapper; saved and validated.
        optimizer: over the parameters of `core`.
        state: where to start; a fresh TrainingState or a loaded one.
        cells: rows, labels and keys.
        feed, validation_feed: deliver training and validation pixels to this worker.
        settings, augmentation, seed: the recipe.
        report: called once an epoch, on every worker.
        progress: called once a step with what has been done in the epoch.
    """
    while not state.stopped:
        started = time.perf_counter()
        trained = train_epoch(
            model, core, optimizer, state.epoch, cells, feed, settings, augmentation, seed, progress
        )
        collective.average_running_statistics(core)
        trained_at = time.perf_counter()
        validated = validate(core, cells, validation_feed, settings.batch_size)
        decision = state.plateau.step(
            settings.plateau, trained["train_accuracy"], validated["validation_loss"]
        )
        factor, stop = collective.from_rank_zero(decision)
        metrics = {
            "epoch": state.epoch + 1,
            **trained,
            **validated,
            "lr": optimizer.param_groups[0]["lr"],
            "monitor": state.plateau.monitor,
            "seconds": time.perf_counter() - started,
            "images_per_second": trained["train_images"] / (trained_at - started),
        }
        metrics["selection"] = selection(metrics, settings.select)
        for group in optimizer.param_groups:
            group["lr"] *= factor
        state.epoch += 1
        state.history.append(metrics)
        if stop:
            state.stopped = (
                f"{state.plateau.monitor} did not improve through "
                f"{settings.plateau.max_reductions} reductions of the learning rate"
            )
        elif state.epoch == settings.epochs:
            state.stopped = f"all {settings.epochs} epochs done"
        report(metrics, lambda directory: state.save(directory, core, optimizer))
    return state


def train_epoch(
    model: nn.Module,
    core: nn.Module,
    optimizer: torch.optim.Optimizer,
    epoch: int,
    cells: TrainingCells,
    feed: Feed,
    settings: TrainingSettings,
    augmentation: AugmentSettings,
    seed: int,
    progress: Callable[[dict], None],
) -> dict[str, float]:
    """One pass over the plan; loss and accuracy over all workers' cells, as trained on."""
    rank, world_size = collective.rank(), collective.world_size()
    plan = plan_epoch(
        cells.train,
        cells.labels[cells.train],
        seed=seed,
        epoch=epoch,
        balance=settings.balance,
        batch_size=settings.batch_size,
    )
    torch.manual_seed(hash((seed, epoch, rank)) % 2**63)  # dropout; integers hash as themselves
    model.train()
    if settings.frozen_norm != "none":
        freeze_norm(core if settings.frozen_norm == "all" else core.get_submodule("backbone"))
    shares = [plan.share(batch, rank, world_size) for batch in range(len(plan))]
    totals: Tensor | None = None
    batch_losses: list[Tensor] = []  # stays on the device: a look at it would stall every step
    for batch, images in enumerate(feed.deliver([plan.rows[share] for share in shares])):
        share, rows = shares[batch], plan.rows[shares[batch]]
        images = augment(
            images, augmentation, seed=seed, keys=cells.keys[rows], draws=plan.draws[share]
        )
        labels = torch.from_numpy(cells.labels[rows]).to(images.device, non_blocking=True)
        logits, _ = model(images)
        losses = classification_loss(logits, labels)
        # DDP averages over workers; with uneven shares this is the whole batch's mean loss.
        loss = losses.sum() * (world_size / plan.batch_size(batch))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        batch_losses.append(losses.detach().sum())
        correct = ((positive_logit(logits.detach()) > 0) == labels).sum()
        counts = torch.stack([batch_losses[-1].double(), correct.double()])
        totals = counts if totals is None else totals + counts
        progress({"epoch": epoch + 1, "batches": batch + 1, "of": len(plan)})
    assert totals is not None
    loss_sum, num_correct = collective.total(totals).tolist()
    if not np.isfinite(loss_sum):
        raise _not_finite(batch_losses, shares, plan.rows, cells.uids, epoch)
    used = len(plan.rows)
    return {
        "train_loss": loss_sum / used,
        "train_accuracy": num_correct / used,
        "train_images": used,
    }


def _not_finite(
    batch_losses: list[Tensor], shares: list[slice], rows: np.ndarray, uids: list[str], epoch: int
) -> UserError:
    """The error that names the first batch whose loss was not a number. All workers must call."""
    bad = torch.isfinite(torch.stack(batch_losses)).logical_not().nonzero().flatten().tolist()
    first = bad[0] if bad else len(shares)
    everywhere = collective.gather_objects(
        (first, [uids[row] for row in rows[shares[first]]] if bad else [])
    )
    batch = min(number for number, _ in everywhere)
    named = [uid for number, part in everywhere if number == batch for uid in part]
    return UserError(
        f"training.lr: the loss of epoch {epoch + 1}, batch {batch + 1} is not a number "
        f"(cells {', '.join(named)}); lower lr, then --resume from the last checkpoint"
    )


def validate(
    core: nn.Module, cells: TrainingCells, feed: Feed, batch_size: int
) -> dict[str, float]:
    """Score every validation row exactly once over all workers; the same dict on each.

    With one class in validation there is no AUC, and no key for it.
    """
    rows, logits = score_rows(core, cells.validation, feed, batch_size)
    assert np.array_equal(rows, cells.validation), "validation rows were lost"
    labels = cells.labels[rows]
    signed = np.where(labels == 1, logits, -logits)
    metrics = {
        "validation_loss": float(np.logaddexp(0, -signed).mean()),
        "validation_accuracy": float((signed > 0).mean()),
    }
    if 0 < labels.sum() < len(labels):
        metrics["validation_auc"] = float(roc_auc_score(labels, logits))
    return metrics


def score_rows(
    core: nn.Module, rows: np.ndarray, feed: Feed, batch_size: int
) -> tuple[np.ndarray, np.ndarray]:
    """Log-odds of ALL of `rows`, shared out over the workers and gathered, ordered by row."""
    mine = rows[collective.rank() :: collective.world_size()]
    batches = [mine[start : start + batch_size] for start in range(0, len(mine), batch_size)]
    core.eval()
    logits = [score_images(core, images)[0].cpu().numpy() for images in feed.deliver(batches)]
    return collective.gather_scores(mine, np.concatenate([np.empty(0), *logits]))


def selection(metrics: dict, select: Selection) -> float:
    """What the best checkpoint is largest in; of equals, the earlier epoch."""
    value = metrics.get(select, metrics["validation_accuracy"])  # one class: no AUC
    if select == "validation_loss":
        value = -value
    return value - 1e-9 * metrics["epoch"]


def freeze_norm(module: nn.Module) -> None:
    """Keep BatchNorm's running statistics as they are; its weights still train."""
    for layer in module.modules():
        if isinstance(layer, nn.modules.batchnorm._BatchNorm):
            layer.eval()
