"""The learning rate of a step: a function of where training stands, so nothing needs saving."""

from __future__ import annotations

import math

from leuk_ray.recipes.training import ScheduleSettings


def lr_factor(
    settings: ScheduleSettings, *, epochs: int, step: int, steps_per_epoch: int, plateau: float
) -> float:
    """Say what the learning rates are multiplied by in a step.

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
