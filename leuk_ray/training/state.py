"""A checkpoint: everything a run needs to go on as if it had never stopped.

    model.safetensors    the weights that are scored: averaged ones where there are
    trained.safetensors  with averaged weights: those that the optimizer moves
    state.pt             optimizer, scaler, plateau, epoch, history; plain values and tensors,
                         so that it loads with `weights_only=True`

Generators need no saving: every epoch seeds them from (seed, epoch, rank).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_model, save_model

from leuk_ray.training.learner import Learner
from leuk_ray.training.plateau import Plateau


@dataclass
class TrainingState:
    """Where a run stands between two epochs.

    epoch: the next epoch, from 0.
    plateau: learning-rate and stopping decisions so far.
    history: one dict of metrics an epoch.
    stopped: why training ended, or empty.
    """

    epoch: int = 0
    plateau: Plateau = field(default_factory=Plateau)
    history: list[dict[str, Any]] = field(default_factory=list)
    stopped: str = ""

    def save(self, directory: Path, learner: Learner) -> None:
        """Write a checkpoint's files into an existing folder."""
        save_model(learner.eval_model, str(directory / "model.safetensors"))
        if learner.averaged is not None:
            save_model(learner.model, str(directory / "trained.safetensors"))
        state = {
            "epoch": self.epoch,
            "plateau": self.plateau.as_dict(),
            "history": self.history,
            "stopped": self.stopped,
            "optimizer": learner.optimizer.state_dict(),
            "scaler": learner.scaler.state_dict(),
        }
        torch.save(state, directory / "state.pt")

    @classmethod
    def load(cls, directory: Path, learner: Learner) -> TrainingState:
        """Restore what the learner holds in place and return the rest."""
        load_model(learner.eval_model, directory / "model.safetensors")
        if learner.averaged is not None:
            load_model(learner.model, directory / "trained.safetensors")
        state = torch.load(directory / "state.pt", map_location="cpu", weights_only=True)
        learner.optimizer.load_state_dict(state["optimizer"])
        learner.scaler.load_state_dict(state["scaler"])
        plateau = Plateau(**state["plateau"])
        return cls(state["epoch"], plateau, state["history"], state["stopped"])
