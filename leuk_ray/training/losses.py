"""The loss of a sample, from its log-odds of ALL.

A softmax over two logits and a sigmoid of their difference are the same probability, so
cross-entropy (saeed2022) and binary cross-entropy (bukhari2022) are one function here.
"""

from __future__ import annotations

import numpy as np
from torch import Tensor
from torch.nn import functional as F

from leuk_ray.recipes.training import LossSettings


def class_weights(settings: LossSettings, labels: np.ndarray) -> np.ndarray:
    """(2,) float32: the weight of a healthy and of an ALL sample, for an epoch's labels."""
    if settings.class_weights == "none":
        return np.ones(2, np.float32)
    if settings.class_weights == "balanced":
        counts = np.bincount(labels, minlength=2)
        return (len(labels) / (2 * np.maximum(counts, 1))).astype(np.float32)
    return np.asarray(settings.class_weights, np.float32)


def classification_loss(
    log_odds: Tensor, labels: Tensor, settings: LossSettings | None = None
) -> Tensor:
    """Loss of each sample, without reduction and without class weights.

    Args:
        log_odds: (N,) of ALL, see `zoo.positive_logit`.
        labels: (N,) int64, 1 for ALL.
        settings: None is cross-entropy.

    Returns:
        (N,).
    """
    settings = settings or LossSettings()
    target = labels.to(log_odds.dtype)
    smooth = target * (1 - settings.label_smoothing) + settings.label_smoothing / 2
    losses = F.binary_cross_entropy_with_logits(log_odds, smooth, reduction="none")
    if settings.focal_gamma:
        wrong = (log_odds * (1 - 2 * target)).sigmoid()
        losses = losses * wrong**settings.focal_gamma
    return losses
