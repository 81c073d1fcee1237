"""Where a network looks: Grad-CAM (Selvaraju 2017) and HiResCAM (Draelos and Carin 2020).

Both weigh the last feature map by the gradient of a class's log-odds against all others: Grad-CAM
by the gradient's mean over the positions, one weight a channel; HiResCAM position by position, so
that what it shows is what the network used.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from timm.models import VisionTransformer  # pyright: ignore[reportPrivateImportUsage]
from torch import Tensor, nn
from torch.nn import functional as F

from leuk_ray.models.network import ImageClassifier
from leuk_ray.models.views import sum_upright
from leuk_ray.models.zoo import class_log_odds, class_logits
from leuk_ray.utils.errors import UserError

Method = Literal["gradcam", "hirescam"]
DEFAULT_METHOD: Method = "hirescam"  # of `explain`, HTTP and the page


def target_layer(model: ImageClassifier) -> nn.Module:
    """Find the module whose output is weighed.

    The last feature map, for networks that have one; for a vision transformer the tokens
    that enter its last block, since after it only the class token counts.
    """
    if isinstance(model.backbone, VisionTransformer):
        return model.backbone.blocks[-1].norm1  # pyright: ignore[reportReturnType]
    return model.feature_map


def evidence(
    model: ImageClassifier, images: Tensor, method: Method, labels: Tensor
) -> tuple[Tensor, Tensor]:
    """Compute evidence for a class at each position of the target layer, summed over views.

    Args:
        model: in eval mode.
        images: (N, 3, H, W), uint8 or float in 0..255.
        method: `gradcam` or `hirescam`.
        labels: (N,) int64, the class of each image.

    Returns:
        (N, h, w), positive where it speaks for the class and negative where against it; and the
        log-odds of the class, (N,).

    Raises:
        UserError: the network has no feature map.
    """
    assert not model.training, "explain in eval mode"
    features: list[Tensor] = []

    def restart(_module: nn.Module, _inputs: Any, output: Tensor) -> Tensor:
        features.append(output.detach().requires_grad_())  # no gradient is needed before it
        return features[0]

    handle = target_layer(model).register_forward_hook(restart)
    try:
        with torch.enable_grad():
            logit = class_log_odds(class_logits(model(images)[0]), labels)
            (gradient,) = torch.autograd.grad(logit.sum(), features[0])
    finally:
        handle.remove()
    activation, gradient = _maps(model, features[0].detach()), _maps(model, gradient)
    if method == "gradcam":
        gradient = gradient.mean(dim=(2, 3), keepdim=True)
    found = (gradient * activation).sum(dim=1)
    return sum_upright(found, model.views), logit.detach()


def heat(evidence: Tensor, size: int) -> Tensor:
    """Render what speaks for a class as a picture.

    Args:
        evidence: (N, h, w) for it.
        size: side of the picture, pixels.

    Returns:
        (N, size, size) in 0..1, largest 1; all 0 where nothing speaks for the class.
    """
    positive = F.relu(evidence)
    grown = F.interpolate(positive[:, None], (size, size), mode="bilinear")[:, 0]
    peak = grown.amax(dim=(1, 2), keepdim=True)
    return torch.where(peak > 0, grown / peak.clamp(min=1e-30), torch.zeros_like(grown))


def share_inside(heat: Tensor, mask: Tensor) -> Tensor:
    """Compute the share of heat inside a mask: (N, H, W) twice -> (N,), NaN where no heat."""
    return (heat * mask).sum(dim=(1, 2)) / heat.sum(dim=(1, 2))


def _maps(model: ImageClassifier, values: Tensor) -> Tensor:
    """Values of the target layer as (N, C, h, w)."""
    backbone: Any = model.backbone
    if isinstance(backbone, VisionTransformer):
        patches = values[:, backbone.num_prefix_tokens :]
        return patches.transpose(1, 2).unflatten(2, backbone.patch_embed.grid_size)
    if values.ndim != 4:
        raise UserError(
            f"{type(backbone).__name__}: gives no feature map (shape {tuple(values.shape)}), so "
            "there is nothing to explain with; take a convolutional network or a ViT"
        )
    return values
