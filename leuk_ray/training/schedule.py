"""The learning rate of a step: a function of where training stands, so nothing needs saving."""

from __future__ import annotations

import math
from typing import Literal

from pydantic import Field

from leuk_ray.utils.settings import Settings


class ScheduleSettings(Settings):
    """How the learning rate runs.

    kind: `plateau` (A20, see `PlateauSettings`); `cosine`, down to `final_lr` at the last
        epoch; `step`, times `step_factor` every `step_epochs`; or `constant`.
    warmup_epochs: rise linearly to the full rate over this many first.
    final_lr: where cosine ends, as a share of the full rate.
    """

    kind: Literal["plateau", "cosine", "step", "constant"] = "plateau"
    warmup_epochs: float = Field(default=0.0, ge=0)
    final_lr: float = Field(default=0.0, ge=0, le=1)
    step_epochs: int = Field(default=10, ge=1)
    step_factor: float = Field(default=0.1, gt=0, le=1)


def lr_factor(
    settings: ScheduleSettings, *, epochs: int, step: int, steps_per_epoch: int, plateau: float
) -> float:
    """What the learning rates are multiplied by in a step.

    Args:
        settings: the schedule.
        epochs: of the whole run.
        step: of the whole run, from 0.
        steps_per_epoch: as planned.
        plateau: the plateau rule's factor so far.
    """
    warmup = settings.warmup_epochs * steps_per_epoch
    if step < warmup:
        return min(1.0, (step + 1) / warmup)
    if settings.kind == "plateau":
        return plateau
    if settings.kind == "cosine":
        done = (step - warmup) / max(1, epochs * steps_per_epoch - warmup)
        height = (1 + math.cos(math.pi * min(1.0, done))) / 2
        return settings.final_lr + (1 - settings.final_lr) * height
    if settings.kind == "step":
        return settings.step_factor ** (step // steps_per_epoch // settings.step_epochs)
    return 1.0
