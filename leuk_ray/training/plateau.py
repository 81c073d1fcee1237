"""When to lower the learning rate and when to stop (saeed2022, learning rate).

The paper monitors an undefined value. Ours is the training accuracy while that lies below
0.9, and the validation loss from then on.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from leuk_ray.recipes.training import PlateauSettings


@dataclass
class Plateau:
    """The plateau's state; `as_dict` and `Plateau(**d)` carry it through a checkpoint.

    monitor: `train_accuracy` or `validation_loss`.
    best: best value of the monitor, larger is better (a loss is negated).
    waited: epochs since it improved or since the last reduction.
    reductions: reductions since it improved.
    factor: of the learning rate, all reductions together.
    """

    monitor: str = "train_accuracy"
    best: float = float("-inf")
    waited: int = 0
    reductions: int = 0
    factor: float = 1.0

    def step(
        self, settings: PlateauSettings, train_accuracy: float, validation_loss: float
    ) -> bool:
        """Take in an epoch's metrics; return whether to stop."""
        if self.monitor == "train_accuracy" and train_accuracy >= settings.switch_accuracy:
            self.monitor, self.best = "validation_loss", float("-inf")
            self.waited = self.reductions = 0
        value = train_accuracy if self.monitor == "train_accuracy" else -validation_loss
        if value > self.best:
            self.best, self.waited, self.reductions = value, 0, 0
            return False
        self.waited += 1
        if self.waited < settings.patience:
            return False
        self.waited = 0
        self.reductions += 1
        self.factor *= settings.factor
        return self.reductions >= settings.max_reductions

    def as_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)
