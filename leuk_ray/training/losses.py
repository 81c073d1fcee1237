"""The loss of a sample, from the log-odds of its classes.

Of two classes, a softmax over two logits and a sigmoid of their difference are the same
probability, so cross-entropy (saeed2022) and binary cross-entropy (bukhari2022) are one function.
"""

from __future__ import annotations

import numpy as np
from torch import Tensor
from torch.nn import functional as F

from leuk_ray.models.zoo import class_log_odds
from leuk_ray.recipes.training import LossSettings
from leuk_ray.utils.errors import ConfigError


def class_weights(settings: LossSettings, labels: np.ndarray, num_classes: int) -> np.ndarray:
    """Weight of a sample of each class, (K,) float32, for an epoch's labels.

    A class without a sample has no part in the other classes' weights.

    Raises:
        ConfigError: another number of weights than of classes.
    """
    if settings.class_weights == "none":
        return np.ones(num_classes, np.float32)
    counts = np.bincount(labels, minlength=num_classes)
    if settings.class_weights == "balanced":
        return (len(labels) / (np.count_nonzero(counts) * np.maximum(counts, 1))).astype(np.float32)
    if settings.class_weights == "effective":
        beta = settings.effective_beta
        weights = np.where(counts, (1 - beta) / (1 - beta ** np.maximum(counts, 1)), 0.0)
        return (weights * np.count_nonzero(counts) / weights.sum()).astype(np.float32)
    if len(settings.class_weights) != num_classes:
        raise ConfigError(
            f"training.loss.class_weights: {len(settings.class_weights)} numbers for {num_classes} "
            "classes; give one for each, in the order of the dataset's classes"
        )
    return np.asarray(settings.class_weights, np.float32)


def classification_loss(
    class_logits: Tensor, labels: Tensor, settings: LossSettings | None = None
) -> Tensor:
    """Loss of each sample, without reduction and without class weights.

    Args:
        class_logits: (N, K-1), see `zoo.class_logits`.
        labels: (N,) int64, 0 to K-1.
        settings: None is cross-entropy.

    Returns:
        (N,).
    """
    settings = settings or LossSettings()
    if class_logits.shape[1] == 1:
        log_odds, target = class_logits[:, 0], labels.to(class_logits.dtype)
        smooth = target * (1 - settings.label_smoothing) + settings.label_smoothing / 2
        losses = F.binary_cross_entropy_with_logits(log_odds, smooth, reduction="none")
        wrong = (log_odds * (1 - 2 * target)).sigmoid()
    else:
        logits = F.pad(class_logits, (1, 0))
        smoothing = settings.label_smoothing
        losses = F.cross_entropy(logits, labels, label_smoothing=smoothing, reduction="none")
        wrong = (-class_log_odds(class_logits, labels)).sigmoid()
    if settings.focal_gamma:
        losses = losses * wrong**settings.focal_gamma
    return losses
