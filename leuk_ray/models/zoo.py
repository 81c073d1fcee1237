"""Networks by name: from settings to a module.

The list of architectures is closed, and backbones are timm's without its `hf-hub:` and
`local-dir:` schemes, so that a settings file or a bundle can name an architecture but never
bring code or weights along.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import timm
import torch
from timm.models import VisionTransformer  # pyright: ignore[reportPrivateImportUsage]
from torch import Tensor, nn
from torch.nn import functional as F

from leuk_ray.models import alexnet
from leuk_ray.models.drop_path import count_on, drop_paths
from leuk_ray.models.multi_attention import MultiAttentionHead
from leuk_ray.models.network import ImageClassifier, LinearHead
from leuk_ray.models.preprocess import IMAGENET_MEAN, IMAGENET_STD, Preprocess
from leuk_ray.models.se_cnn import DENSE_UNITS, SECNN
from leuk_ray.models.settings import ModelSettings
from leuk_ray.models.weights import check_backbone
from leuk_ray.models.weights import load_weights as initialise
from leuk_ray.utils.errors import ConfigError


def build(settings: ModelSettings, *, load_weights: bool, num_classes: int = 2) -> ImageClassifier:
    """Build a network that maps images (N, 3, H, W) in 0..255 to outputs and embedding.

    Args:
        settings: the network.
        num_classes: K from 2. The outputs are K logits of a softmax; of an SE-CNN and two classes
            one logit of a sigmoid. See `class_logits`.
        load_weights: initialise as `settings.weights` says; False when a checkpoint or
            bundle follows, and then nothing is read or downloaded.

    Raises:
        UserError: unknown backbone, a size it cannot take, attention without a feature map,
            or weights that cannot be had.
    """
    builders = {
        "multi_attention": _multi_attention,
        "timm": _timm,
        "alexnet": _alexnet,
        "se_cnn": _se_cnn,
    }
    model = builders[settings.architecture](settings, num_classes)
    model.views = settings.views
    if load_weights:
        initialise(model, settings)
    return model.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]


def class_logits(outputs: Tensor) -> Tensor:
    """Compute the log-odds of classes 1 to K-1 against class 0, (N, K-1).

    Args:
        outputs: of a network: (N, K) logits of a softmax, or (N, 1) of a sigmoid.
    """
    return outputs if outputs.shape[1] == 1 else outputs[:, 1:] - outputs[:, :1]


def class_log_odds(class_logits: Tensor, labels: Tensor) -> Tensor:
    """Compute the log-odds of the class `labels` (N,) against all others: (N, K-1) -> (N,)."""
    logits = F.pad(class_logits, (1, 0))
    own = F.one_hot(labels, logits.shape[1]).bool()
    others = logits.masked_fill(own, -torch.inf).logsumexp(dim=1)
    return logits.gather(1, labels[:, None])[:, 0] - others


def most_likely(class_logits: Tensor) -> Tensor:
    """Label of the most likely class, (N, K-1) -> (N,) int64; class 0 loses ties."""
    best, number = class_logits.max(dim=1)
    return torch.where(best >= 0, number + 1, 0)


def _multi_attention(settings: ModelSettings, num_classes: int) -> ImageClassifier:
    pooled = settings.attention == "none"
    backbone = _backbone(settings, pooled=pooled)
    channels: Any = backbone.head_hidden_size if pooled else backbone.num_features
    head = MultiAttentionHead(
        channels,
        attention=settings.attention,
        merge=settings.merge,
        reduction=settings.reduction,
        hidden=settings.hidden,
        head_norm=settings.head_norm,
        dropout=settings.dropout,
        num_classes=num_classes,
    )
    return ImageClassifier(_preprocess(settings, backbone), backbone, head, own_pooling=pooled)


def _timm(settings: ModelSettings, num_classes: int) -> ImageClassifier:
    backbone = _backbone(settings, pooled=True)
    width: Any = backbone.head_hidden_size
    head = LinearHead(width, num_classes, settings.dropout)
    return ImageClassifier(_preprocess(settings, backbone), backbone, head, own_pooling=True)


def _alexnet(settings: ModelSettings, num_classes: int) -> ImageClassifier:
    preprocess = Preprocess(settings.input_size, IMAGENET_MEAN, IMAGENET_STD)
    head = LinearHead(alexnet.EMBEDDING, num_classes, settings.dropout)
    _try_size(alexnet.AlexNetBackbone, settings)
    backbone = alexnet.AlexNetBackbone()
    return ImageClassifier(preprocess, backbone, head, own_pooling=True)


def _se_cnn(settings: ModelSettings, num_classes: int) -> ImageClassifier:
    backbone = SECNN(
        settings.filters,
        reduction=settings.reduction,
        squeeze_excite=settings.attention == "se",
        pool_stride=settings.pool_stride,
    )
    preprocess = Preprocess(settings.input_size, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    head = LinearHead(DENSE_UNITS, 1 if num_classes == 2 else num_classes)
    return ImageClassifier(preprocess, backbone, head, own_pooling=True)


def _preprocess(settings: ModelSettings, backbone: nn.Module) -> Preprocess:
    config: Any = backbone.pretrained_cfg
    return Preprocess(settings.input_size, config["mean"], config["std"])


def _backbone(settings: ModelSettings, *, pooled: bool) -> nn.Module:
    """Return a timm network without classifier; without pooling either where attention pools."""
    name = settings.backbone
    check_backbone(name)
    options: Any = {} if pooled else {"global_pool": ""}
    if settings.drop_path:
        options["drop_path_rate"] = settings.drop_path
    create = partial(timm.create_model, name, pretrained=False, num_classes=0, **options)
    try:
        backbone = create()
    except TypeError as error:
        if "drop_path_rate" not in str(error):
            raise
        raise _no_drop_path(settings) from error
    if settings.drop_path and not drop_paths(count_on(backbone)):
        raise _no_drop_path(settings)
    config: Any = backbone.pretrained_cfg
    size = config["input_size"][-1]
    if isinstance(backbone, VisionTransformer) and settings.input_size != size:
        patch = backbone.patch_embed.patch_size[0]
        if settings.input_size % patch:
            raise ConfigError(
                f"model.input_size {settings.input_size}: {name} takes multiples of its patches of "
                f"{patch} pixels; set model.input_size={patch * (settings.input_size // patch)}"
            )
        create = partial(create, img_size=settings.input_size)
        backbone = count_on(create())
    elif config.get("fixed_input_size") and settings.input_size != size:
        raise ConfigError(
            f"model.input_size {settings.input_size}: {name} takes {size} pixels and no other "
            f"size; set model.input_size={size}"
        )
    shape, used = _try_size(create, settings)
    if pooled:
        return backbone
    if len(shape) != 4 or shape[1] != backbone.num_features:
        raise ConfigError(
            f"model.backbone {name!r}: gives no feature map (shape {shape}), so attention has "
            "nothing to weigh; take a convolutional one, or attention=none"
        )
    # What follows the feature map (the fully connected layers of VGG) would never train.
    for child, _ in list(backbone.named_children()):
        if child not in used:
            setattr(backbone, child, nn.Identity())
    return backbone


def _no_drop_path(settings: ModelSettings) -> ConfigError:
    return ConfigError(
        f"model.drop_path {settings.drop_path}: {settings.backbone} has no stochastic depth; set "
        "model.drop_path=0"
    )


@torch.no_grad()
def _try_size(
    create: Callable[[], nn.Module], settings: ModelSettings
) -> tuple[tuple[int, ...], set[str]]:
    """Return the shape of the features, and which children of the network make them.

    Tried on PyTorch's meta device, which knows shapes and computes nothing.
    """
    side = settings.input_size
    used: set[str] = set()
    try:
        with torch.device("meta"):
            trial: Any = create().eval()
            for child, top in trial.named_children():
                for module in top.modules():
                    module.register_forward_hook(lambda *_, child=child: used.add(child))
            features = trial.forward_features(torch.zeros(1, 3, side, side))
    except (RuntimeError, AssertionError, ValueError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ConfigError(
            f"model.input_size {side}: {settings.title} cannot take it ({reason}); "
            "choose another size"
        ) from error
    return tuple(features.shape), used
