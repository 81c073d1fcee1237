"""Scoring rows on all workers together, each exactly once."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from torch import Tensor, nn

from leuk_ray.augment.policies import apply, augment_tensors
from leuk_ray.augment.settings import AugmentSettings
from leuk_ray.datasets.loaders import Loader
from leuk_ray.inference.engines import score_images
from leuk_ray.recipes.training import Selection
from leuk_ray.training import collective
from leuk_ray.training.cells import EpochPlanner, TrainingCells


def validate(
    network: nn.Module,
    planner: EpochPlanner,
    loader: Loader,
    augmentation: AugmentSettings,
) -> dict[str, float]:
    """Score every validation row exactly once over all workers; the same dict on each.

    With one class in validation there is no AUC, and no key for it.
    """
    cells = planner.cells
    augment = CopyAugmentation.of(
        augmentation, planner.seed, cells, cells.validation, cells.validation_copies
    )
    batch_size = planner.settings.batch_size
    logits = score_rows(network, cells.validation, loader, batch_size, augment)
    labels = cells.labels[cells.validation]
    signed = np.where(labels == 1, logits, -logits)
    metrics = {
        "validation_loss": float(np.logaddexp(0, -signed).mean()),
        "validation_accuracy": float(((logits >= 0) == labels).mean()),
    }
    if 0 < labels.sum() < len(labels):
        from sklearn.metrics import roc_auc_score  # slow, and not before the first step

        metrics["validation_auc"] = float(roc_auc_score(labels, logits))
    return metrics


@dataclass(frozen=True)
class CopyAugmentation:
    """Augment the rows that are scored: under `paper-literal` these are copies, in test as well.

    keys, copy_index: (N,) uint64, of the rows that are scored.
    """

    augmentation: AugmentSettings
    seed: int
    keys: np.ndarray
    copy_index: np.ndarray

    @classmethod
    def of(
        cls,
        augmentation: AugmentSettings,
        seed: int,
        cells: TrainingCells,
        rows: np.ndarray,
        copies: np.ndarray | None,
    ) -> CopyAugmentation | None:
        """None where there are no copies: cells are scored as they are."""
        return None if copies is None else cls(augmentation, seed, cells.keys[rows], copies)

    def __call__(self, images: Tensor, places: np.ndarray) -> Tensor:
        """(n, 3, H, W) of the rows at `places`, augmented."""
        params = augment_tensors(
            self.augmentation,
            seed=self.seed,
            keys=self.keys[places],
            copy_index=self.copy_index[places],
            side=images.shape[-1],
        )
        return apply(images, params and params.to(images.device), self.augmentation.fill)


def score_rows(
    network: nn.Module,
    rows: np.ndarray,
    loader: Loader,
    batch_size: int,
    augment: CopyAugmentation | None = None,
) -> np.ndarray:
    """Log-odds of ALL of each of `rows`, (N,) float64, shared out over the workers."""
    mine = np.arange(len(rows))[collective.rank() :: collective.world_size()]
    batches = [mine[start : start + batch_size] for start in range(0, len(mine), batch_size)]
    network.eval()
    logits = [np.empty(0)]
    delivered = loader.iter_batches([rows[places] for places in batches])
    for places, images in zip(batches, delivered, strict=True):
        shown = augment(images, places) if augment else images
        logits.append(score_images(network, shown)[0].cpu().numpy())
    places, scores = collective.gather_scores(mine, np.concatenate(logits))
    assert np.array_equal(places, np.arange(len(rows))), "rows were lost"
    return scores


def selection(metrics: dict, select: Selection) -> float:
    """Selection score: higher is better; ties favour the earlier epoch."""
    value = metrics.get(select, metrics["validation_accuracy"])  # one class: no AUC
    if select == "validation_loss":
        value = -value
    return value - 1e-9 * metrics["epoch"]
