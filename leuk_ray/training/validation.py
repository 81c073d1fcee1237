"""Scoring rows on all workers together, each exactly once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from leuk_ray.augment.policies import apply, augment_tensors
from leuk_ray.augment.settings import AugmentSettings
from leuk_ray.datasets.loaders import Loader
from leuk_ray.evaluation.calibration import class_log_odds
from leuk_ray.inference.engines import score_images
from leuk_ray.models.zoo import most_likely
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

    AUC is of the positive class; of more than two the mean of each class that validation holds
    against the others. With one class in validation there is no AUC, and no key for it. Macro F1
    and balanced accuracy come with more than two classes, or where they select.
    """
    cells = planner.cells
    augment = CopyAugmentation.of(
        augmentation, planner.seed, cells, cells.validation, cells.validation_copies
    )
    batch_size = planner.settings.batch_size
    scores = score_rows(network, cells.validation, loader, batch_size, augment)
    return metrics_of(scores, cells.labels[cells.validation], planner.settings.select)


def metrics_of(scores: np.ndarray, labels: np.ndarray, select: Selection) -> dict[str, float]:
    """Metrics of `validate` from class logits (N, K-1) and labels (N,)."""
    log_odds = class_log_odds(scores)
    own = np.take_along_axis(log_odds, labels[:, None], axis=1)
    called = most_likely(torch.from_numpy(scores)).numpy()
    metrics = {
        "validation_loss": float(np.logaddexp(0, -own[:, 0]).mean()),
        "validation_accuracy": float((called == labels).mean()),
    }
    # Slow to import, and not before the first step.
    from sklearn.metrics import f1_score, recall_score, roc_auc_score

    present, many = np.unique(labels), scores.shape[1] > 1
    if len(present) > 1:
        areas = [
            roc_auc_score(labels == label, log_odds[:, label])
            for label in (present if many else (1,))
        ]
        metrics["validation_auc"] = float(np.mean(areas))
    if many or select in ("validation_balanced_accuracy", "validation_macro_f1"):
        options: Any = {"labels": present, "average": "macro", "zero_division": 0}
        metrics["validation_balanced_accuracy"] = float(recall_score(labels, called, **options))
        metrics["validation_macro_f1"] = float(f1_score(labels, called, **options))
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
    """Class logits of each of `rows`, (N, K-1) float64, shared out over the workers."""
    mine = np.arange(len(rows))[collective.rank() :: collective.world_size()]
    batches = [mine[start : start + batch_size] for start in range(0, len(mine), batch_size)]
    network.eval()
    scores: list[np.ndarray] = []
    delivered = loader.iter_batches([rows[places] for places in batches])
    for places, images in zip(batches, delivered, strict=True):
        shown = augment(images, places) if augment else images
        scores.append(score_images(network, shown)[0].cpu().numpy())
    own = np.concatenate(scores) if scores else np.empty((0, 1))
    places, gathered = collective.gather_scores(mine, own)
    assert np.array_equal(places, np.arange(len(rows))), "rows were lost"
    return gathered


def selection(metrics: dict[str, Any], select: Selection) -> float:
    """Compute the selection score: higher is better; ties favour the earlier epoch."""
    value = metrics.get(select, metrics["validation_accuracy"])  # one class: no AUC
    if select == "validation_loss":
        value = -value
    return value - 1e-9 * metrics["epoch"]
