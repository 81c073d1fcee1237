"""Engines run a network on a batch of storage pixels."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from leuk_ray.models.zoo import positive_logit


@torch.inference_mode()
def score_images(model: nn.Module, images: Tensor) -> tuple[Tensor, Tensor]:
    """Score a batch with a network in eval mode.

    Validation, evaluation, batch and HTTP all come through here.

    Args:
        model: maps images to (logits, embedding).
        images: (N, 3, H, W) uint8 or float in 0..255, on the model's device.

    Returns:
        Log-odds of ALL, (N,) float64, and the embedding, (N, D) float32.
    """
    assert not model.training, "score in eval mode"
    logits, embedding = model(images)
    return positive_logit(logits.double()), embedding.float()
