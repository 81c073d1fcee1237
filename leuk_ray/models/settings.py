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

Width = Annotated[int, Field(ge=1, le=4096)]

_COMMON = {"architecture", "input_size", "weights"}
_APPLIES: dict[str, set[str]] = {
    "multi_attention": {"backbone", "attention", "merge", "reduction", "hidden", "dropout"},
    "timm": {"backbone", "dropout"},
    "alexnet": {"dropout"},
    "se_cnn": {"attention", "reduction", "filters", "pool_stride"},
}
_FILES = (".safetensors", ".pth", ".pt")
_ORIGIN = re.compile(r"[^/\\]+@sha256:([0-9a-f]{64}|unknown)")


def is_origin(weights: str) -> bool:
    """Whether `weights` only says where weights came from, as a bundle does."""
    return _ORIGIN.fullmatch(weights) is not None


class ModelSettings(Settings):
    """A network: preprocessing, backbone, head.

    A setting that does not apply to the architecture is refused, and not written either.

    architecture: `multi_attention`, a timm backbone under the head of saeed2022; `timm`, a
        timm network with its own pooling and a linear classifier; `alexnet`, torchvision's;
        `se_cnn`, the network of bukhari2022.
    backbone: a timm name with its pretraining tag.
    input_size: side of the network's input, pixels.
    attention: of multi_attention, what pools the feature map (A35): `channel_spatial`,
        `weighted_average`, both (`multi`), global average after `se`, `eca` or `cbam`, or
        `none`, the network's own pooling. Of se_cnn, `se`, or `none` for the traditional
        CNN (B13).
    merge: how two branches join (A15).
    reduction: of the hidden layer of channel attention and squeeze-and-excitation.
    hidden: units of the fully connected layer (A17).
    dropout: before the last layer.
    filters: of the three convolutions of se_cnn (B05).
    pool_stride: of the max pooling of se_cnn; its maps need 2, its text says 1.
    weights: `imagenet`; a .safetensors or .pth file; the folder of a bundle to fine-tune;
        or `scratch`. A bundle says NAME@sha256:... of the file or bundle it started from.
    """

    architecture: Architecture = "multi_attention"
    backbone: str = "tf_efficientnet_lite0.in1k"
    input_size: int = Field(default=160, ge=32, le=1024)
    attention: Attention = "multi"
    merge: Merge = "concat"
    reduction: int = Field(default=16, ge=1, le=4096)
    hidden: int = Field(default=256, ge=1, le=65536)
    dropout: float = Field(default=0.0, ge=0, lt=1)
    filters: tuple[Width, Width, Width] = (32, 64, 128)
    pool_stride: Literal[1, 2] = 2
    weights: str = "imagenet"

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
        return {key: value for key, value in write(self).items() if key in known}
