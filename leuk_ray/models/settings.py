"""Settings of a network."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_serializer, model_validator

from leuk_ray.utils.settings import Settings

Architecture = Literal["multi_attention", "timm", "alexnet", "se_cnn"]
Attention = Literal[
    "none", "channel_spatial", "weighted_average", "multi", "se", "eca", "cbam"
]  # fmt: skip
Merge = Literal["concat", "add"]
Views = Literal["one", "flips", "dihedral"]

Width = Annotated[int, Field(ge=1, le=4096)]

_COMMON = {"architecture", "input_size", "views", "weights"}
_APPLIES: dict[str, set[str]] = {
    "multi_attention": {"backbone", "attention", "merge", "reduction", "hidden", "dropout"}
    | {"head_norm", "drop_path"},
    "timm": {"backbone", "dropout", "drop_path"},
    "alexnet": {"dropout"},
    "se_cnn": {"attention", "reduction", "filters", "pool_stride"},
}
_FILES = (".safetensors", ".pth", ".pt")
_ORIGIN = re.compile(r"[^/\\]+@sha256:([0-9a-f]{64}|unknown)")


def is_origin(weights: str) -> bool:
    """Say whether `weights` only says where weights came from, as a bundle does."""
    return _ORIGIN.fullmatch(weights) is not None


class ModelSettings(Settings):
    """A network: preprocessing, backbone, head.

    A setting that does not apply to the architecture is refused, and not written either.
    """

    architecture: Architecture = "multi_attention"
    """`multi_attention`: a timm backbone with the head of saeed2022. `timm`: a timm network with
    its own pooling and a linear classifier. `alexnet`: the network of torchvision. `se_cnn`: the
    network of bukhari2022."""

    backbone: str = "tf_efficientnet_lite0.in1k"
    """Model name in timm with its pretraining tag, for `multi_attention` and `timm`."""

    input_size: int = Field(default=160, ge=32, le=1024)
    """Side of the network's input, pixels."""

    attention: Attention = "multi"
    """For `multi_attention`, how the feature map is pooled: `channel_spatial` or
    `weighted_average` (the two branches of saeed2022), `multi` (both), global average after
    `se`, `eca` or `cbam`, or `none`, the backbone's own pooling. For `se_cnn`, `se`, or `none`
    for the traditional CNN of bukhari2022."""

    merge: Merge = "concat"
    """How the two attention branches are merged (saeed2022 leaves it open)."""

    reduction: int = Field(default=16, ge=1, le=4096)
    """Reduction ratio of the hidden layer in channel attention and squeeze-and-excitation."""

    hidden: int = Field(default=256, ge=1, le=65536)
    """Units of the fully connected layer (saeed2022, head: 256)."""

    head_norm: Literal["batch", "group"] = "batch"
    """Normalization after the merge: `batch` (saeed2022), or `group`: each cell by itself, over 8
    groups of channels. With `training.frozen_norm` and no dropout, `group` makes training the same
    at any number of workers, which `batch` does not."""

    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Dropout probability before the last layer."""

    drop_path: float = Field(default=0.0, ge=0, lt=1)
    """Stochastic depth: probability of skipping the last residual block of a timm backbone for a
    sample, rising linearly from 0 at the first. Counter-based: the same at any number of
    workers."""

    filters: tuple[Width, Width, Width] = (32, 64, 128)
    """Filters of the three convolutions of `se_cnn` (bukhari2022, network: 32, 64, 128)."""

    pool_stride: Literal[1, 2] = 2
    """Stride of max pooling in `se_cnn`. The map sizes in bukhari2022 need 2; its text says 1."""

    views: Views = "one"
    """Test-time augmentation: in validation, evaluation and service outputs and embeddings are
    averaged over `flips` of the image (4 views) or its `dihedral` group (8: flips and quarter
    turns); `one` takes the image as it is. Part of the bundle and of its ONNX graph. Costs as many
    times the time and memory as there are views, and nothing in training."""

    weights: str = "imagenet"
    """Initial weights: `imagenet`, `scratch`, a .safetensors or .pth file, or the folder of a
    bundle to fine-tune. In a bundle, NAME@sha256:... of the file or bundle it started from."""

    @property
    def title(self) -> str:
        """A few words for reports and cards."""
        if self.architecture == "se_cnn":
            return "SE-CNN" if self.attention == "se" else "CNN (SE-CNN without SE)"
        if self.architecture == "multi_attention":
            return f"{self.backbone}, attention {self.attention}"
        return self.backbone if self.architecture == "timm" else "AlexNet"

    @property
    def pretrained(self) -> str:
        """Name of the network whose ImageNet weights `imagenet` means."""
        return "alexnet" if self.architecture == "alexnet" else self.backbone

    @field_validator("weights")
    @classmethod
    def _absolute_weights(cls, value: str) -> str:
        """Workers run in folders of their own, so a path is made absolute at once."""
        if value in ("imagenet", "scratch") or is_origin(value):
            return value
        if "/" not in value and not value.endswith(_FILES):
            raise ValueError(
                f"{value!r} is neither imagenet, scratch, a {', '.join(_FILES)} file nor the path "
                "of a bundle (write ./bundle)"
            )
        return str(Path(value).absolute())

    @model_validator(mode="after")
    def _only_what_applies(self) -> ModelSettings:
        known = _COMMON | _APPLIES[self.architecture]
        foreign = sorted(self.model_fields_set - known)
        if foreign:
            fitting = [name for name, applies in _APPLIES.items() if foreign[0] in applies]
            raise ValueError(
                f"{foreign[0]} does not apply to architecture {self.architecture}, only to "
                f"{', '.join(fitting)}"
            )
        if self.architecture == "se_cnn":
            if self.attention not in ("none", "se"):
                raise ValueError(f"se_cnn takes attention se or none, not {self.attention}")
            if self.weights == "imagenet":
                raise ValueError("se_cnn has no ImageNet weights; set weights: scratch")
        return self

    @model_serializer(mode="wrap")
    def _write_what_applies(self, write: Callable[[Any], dict[str, Any]]) -> dict[str, Any]:
        known = _COMMON | _APPLIES[self.architecture]
        # Bundles and runs that do not ask for them are written as older versions wrote them.
        newer = {"head_norm": "batch", "drop_path": 0.0, "views": "one"}
        known -= {name for name, default in newer.items() if getattr(self, name) == default}
        return {key: value for key, value in write(self).items() if key in known}
