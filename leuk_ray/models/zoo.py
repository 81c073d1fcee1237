"""Networks by name: from settings to a module.

Backbones are timm's, without its `hf-hub:` and `local-dir:` schemes, so that a settings file
or a bundle can name an architecture but never bring code or weights along.
"""

from __future__ import annotations

import difflib

import timm
import torch
from torch import Tensor, nn

from leuk_ray.errors import UserError
from leuk_ray.models import weights as pretrained
from leuk_ray.models.multi_attention import MultiAttentionClassifier, MultiAttentionHead
from leuk_ray.models.preprocess import Preprocess
from leuk_ray.models.settings import ModelSettings


def build(settings: ModelSettings, *, load_weights: bool) -> nn.Module:
    """Build a network that maps images (N, 3, H, W) in 0..255 to logits (N, 2) and embedding.

    Args:
        settings: the network.
        load_weights: initialise the backbone as `settings.weights` says; False when a
            checkpoint or bundle follows, and then nothing is read or downloaded.

    Raises:
        UserError: unknown backbone, no feature map, or weights that cannot be had.
    """
    backbone = _backbone(settings.backbone)
    config: dict = backbone.pretrained_cfg  # pyright: ignore[reportAssignmentType]
    if load_weights and settings.weights == "imagenet":
        pretrained.load_imagenet(backbone, settings.backbone)
    preprocess = Preprocess(settings.input_size, config["mean"], config["std"])
    head = MultiAttentionHead(
        _feature_channels(backbone, settings),
        attention=settings.attention,
        merge=settings.merge,
        reduction=settings.reduction,
        hidden=settings.hidden,
        dropout=settings.dropout,
        num_classes=2,
    )
    model = MultiAttentionClassifier(preprocess, backbone, head)
    return model.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]


def positive_logit(logits: Tensor) -> Tensor:
    """Log-odds of ALL from the two logits of a softmax: (N, 2) -> (N,)."""
    return logits[:, 1] - logits[:, 0]


def _backbone(name: str) -> nn.Module:
    architecture, _, tag = name.partition(".")
    known = timm.is_model(architecture) and ":" not in name and "/" not in name
    if not known or (tag and name not in timm.list_models(f"{architecture}.*", pretrained=True)):
        close = difflib.get_close_matches(name, timm.list_models(pretrained=True), 3)
        hint = f"; close: {', '.join(close)}" if close else ""
        raise UserError(f"model.backbone {name!r}: timm {timm.__version__} has none{hint}")
    return timm.create_model(name, pretrained=False, num_classes=0, global_pool="")


def _feature_channels(backbone: nn.Module, settings: ModelSettings) -> int:
    """Channels of the feature map, by a trial on zeros."""
    side = settings.input_size
    with torch.no_grad():
        features = backbone.eval().forward_features(torch.zeros(1, 3, side, side))  # pyright: ignore[reportCallIssue]
    if features.ndim != 4:
        raise UserError(
            f"model.backbone {settings.backbone!r}: gives no feature map (shape "
            f"{tuple(features.shape)}), so attention has nothing to weigh; take a convolutional one"
        )
    return features.shape[1]
