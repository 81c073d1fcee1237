"""Scoring rows on all workers together, each exactly once."""

from __future__ import annotations

import numpy as np
from sklearn.metrics import roc_auc_score
from torch import nn

from leuk_ray.datasets.feeds import Feed
from leuk_ray.inference.engines import score_images
from leuk_ray.training import collective
from leuk_ray.training.cells import TrainingCells
from leuk_ray.training.settings import Selection


def validate(
    network: nn.Module, cells: TrainingCells, feed: Feed, batch_size: int
) -> dict[str, float]:
    """Score every validation row exactly once over all workers; the same dict on each.

    With one class in validation there is no AUC, and no key for it.
    """
    rows, logits = score_rows(network, cells.validation, feed, batch_size)
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
    network: nn.Module, rows: np.ndarray, feed: Feed, batch_size: int
) -> tuple[np.ndarray, np.ndarray]:
    """Log-odds of ALL of `rows`, shared out over the workers and gathered, ordered by row."""
    mine = rows[collective.rank() :: collective.world_size()]
    batches = [mine[start : start + batch_size] for start in range(0, len(mine), batch_size)]
    network.eval()
    logits = [score_images(network, images)[0].cpu().numpy() for images in feed.deliver(batches)]
    return collective.gather_scores(mine, np.concatenate([np.empty(0), *logits]))


def selection(metrics: dict, select: Selection) -> float:
    """What the best checkpoint is largest in; of equals, the earlier epoch."""
    value = metrics.get(select, metrics["validation_accuracy"])  # one class: no AUC
    if select == "validation_loss":
        value = -value
    return value - 1e-9 * metrics["epoch"]
