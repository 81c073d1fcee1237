"""Settings of the training."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from leuk_ray.datasets.plan import Balance
from leuk_ray.settings import Settings
from leuk_ray.training.plateau import PlateauSettings

Selection = Literal["validation_accuracy", "validation_auc", "validation_loss"]


class TrainingSettings(Settings):
    """How a network is trained.

    epochs: at most this many (A22).
    batch_size: of all workers together (A23).
    optimizer: a timm optimizer name (A19: adamax).
    lr, weight_decay: of the optimizer.
    backbone_lr: factor on `lr` for the pretrained backbone.
    frozen_norm: layers whose BatchNorm keeps the statistics it has: `none`, `backbone` (as
        pretrained, for small data) or `all` (the result is then the same at any number of
        workers, each of which would otherwise normalise by its own part of a batch).
    balance: uses of each class per epoch, see `plan.plan_epoch`.
    plateau: learning-rate and stopping rule (A20, A21).
    select: what the best checkpoint is best in (A24).
    """

    epochs: int = Field(default=20, ge=1)
    batch_size: int = Field(default=16, ge=1)
    optimizer: str = "adamax"
    lr: float = Field(default=1e-3, gt=0)
    weight_decay: float = Field(default=0.0, ge=0)
    backbone_lr: float = Field(default=1.0, ge=0)
    frozen_norm: Literal["none", "backbone", "all"] = "none"
    balance: Balance = "none"
    plateau: PlateauSettings = PlateauSettings()
    select: Selection = "validation_accuracy"
