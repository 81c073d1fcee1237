"""Settings of a network."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from leuk_ray.settings import Settings

Attention = Literal["none", "channel_spatial", "weighted_average", "multi"]
Merge = Literal["concat", "add"]


class ModelSettings(Settings):
    """A network.

    backbone: a timm name with its pretraining tag.
    input_size: side of the network's input, pixels.
    attention: branches of the head (A35): none, channel_spatial, weighted_average, multi.
    merge: how two branches join (A15).
    reduction: of the channel attention's hidden layer.
    hidden: units of the fully connected layer (A17).
    dropout: before the last layer.
    weights: `imagenet` or `scratch`.
    """

    backbone: str = "tf_efficientnet_lite0.in1k"
    input_size: int = Field(default=160, ge=32, le=1024)
    attention: Attention = "multi"
    merge: Merge = "concat"
    reduction: int = Field(default=16, ge=1)
    hidden: int = Field(default=256, ge=1)
    dropout: float = Field(default=0.0, ge=0, lt=1)
    weights: Literal["imagenet", "scratch"] = "imagenet"
