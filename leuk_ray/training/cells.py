"""What a run trains and validates on, and whether it can."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from leuk_ray.datasets.plan import EpochPlan, plan_epoch, uid_keys
from leuk_ray.datasets.prepared import PreparedDataset
from leuk_ray.datasets.splits import copies_with_role, rows_with_role
from leuk_ray.models.zoo import build
from leuk_ray.recipes.recipe import Recipe
from leuk_ray.recipes.training import TrainingSettings
from leuk_ray.training.learner import make_optimizer
from leuk_ray.training.losses import class_weights
from leuk_ray.utils.errors import ConfigError


@dataclass(frozen=True)
class TrainingCells:
    """The rows of a split and what is known of them, indexed by dataset row.

    uids: of every row. labels: (num_rows,) int64, -1 where unknown. keys: (num_rows,) uint64.
    train, validation: rows, ascending.
    groups: (num_rows,) int64, equal for cells of one group.
    num_classes: K; a label is 0 to K-1.
    train_copies, validation_copies: (N,) uint64 under `paper-literal`, the copy index
        of each of these rows; else None.
    """

    uids: list[str]
    labels: np.ndarray
    keys: np.ndarray
    train: np.ndarray
    validation: np.ndarray
    train_copies: np.ndarray | None = None
    validation_copies: np.ndarray | None = None
    num_classes: int = 2
    groups: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))

    @classmethod
    def of(cls, dataset: PreparedDataset, split: pa.Table) -> TrainingCells:
        """Join the cells of a dataset with a split."""
        cells = dataset.cells
        uids = cells["uid"].to_pylist()
        labels = np.asarray([-1 if x is None else x for x in cells["label"].to_pylist()], np.int64)
        train, validation = (
            rows_with_role(cells, split, (role,)) for role in ("train", "validation")
        )
        copies = (copies_with_role(split, (role,)) for role in ("train", "validation"))
        return cls(
            uids,
            labels,
            uid_keys(uids),
            train,
            validation,
            *copies,
            num_classes=len(dataset.classes),
            groups=np.unique(cells["group"].to_pylist(), return_inverse=True)[1],
        )


@dataclass(frozen=True)
class EpochPlanner:
    """Plans every epoch of a run: training, checks and dry run all count with it.

    cells: rows, labels and keys. settings: of the training. seed: of the run.
    """

    cells: TrainingCells
    settings: TrainingSettings
    seed: int

    def plan(self, epoch: int) -> EpochPlan:
        """Plan an epoch, counted from 0; see `plan_epoch`, also for what it raises."""
        return plan_epoch(
            self.cells.train,
            self.cells.labels[self.cells.train],
            seed=self.seed,
            epoch=epoch,
            balance=self.settings.balance,
            batch_size=self.settings.batch_size,
            window=self.settings.window,
            copies=self.cells.train_copies,
            num_classes=self.cells.num_classes,
            groups=self.cells.groups[self.cells.train]
            if self.settings.sampling == "groups"
            else None,
        )

    def check_batches(self, workers: int) -> None:
        """Check that every worker gets two cells in every microbatch, which BatchNorm needs.

        Raises:
            UserError: with the arithmetic.
        """
        settings = self.settings
        smallest = int(np.diff(self.plan(epoch=0).bounds).min())
        needed = 2 * workers * settings.accumulate
        if smallest < needed:
            parts = f" in {settings.accumulate} microbatches" if settings.accumulate > 1 else ""
            raise ConfigError(
                f"training.batch_size {settings.batch_size}: the smallest batch of an epoch has "
                f"{smallest} cells, {workers} workers{parts} need {needed}; raise batch_size or "
                f"lower {'accumulate' if settings.accumulate > 1 else '--workers'}"
            )


def check_run(
    recipe: Recipe, dataset: PreparedDataset, split: pa.Table, workers: int, gpus: bool
) -> EpochPlanner:
    """Check that a run can work, and return its planner.

    Args:
        recipe, dataset, split: what is trained, on what.
        workers: the most that will train.
        gpus: one for each of them.

    Raises:
        UserError: it cannot: a network that cannot be built, weights that are not there, a class
            without a cell, batches too small for the workers, or what only GPUs can do.
    """
    settings, num_classes = recipe.training, len(dataset.classes)
    if not gpus and settings.sync_batchnorm:
        raise ConfigError("training.sync_batchnorm: PyTorch has it for GPUs only; add --gpus")
    if not gpus and settings.precision == "fp16":
        raise ConfigError("training.precision fp16: needs a GPU; add --gpus or take bf16")
    load_weights = recipe.model.weights not in ("imagenet", "scratch")
    model = build(recipe.model, load_weights=load_weights, num_classes=num_classes)
    make_optimizer(model, settings)
    planner = EpochPlanner(TrainingCells.of(dataset, split), settings, recipe.seed)
    if settings.probe:
        _check_probe(planner.cells)
        return planner
    planner.check_batches(workers)
    class_weights(settings.loss, planner.cells.labels[planner.cells.train], num_classes)
    return planner


def _check_probe(cells: TrainingCells) -> None:
    if cells.train_copies is not None:
        raise ConfigError(
            "training.probe: fits to cells as they are, and paper-literal trains on augmented "
            "copies; choose another protocol"
        )
    if absent := sorted(set(range(cells.num_classes)) - set(cells.labels[cells.train].tolist())):
        raise ConfigError(f"training.probe: no training cell has the label {absent[0]}")
