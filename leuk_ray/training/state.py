"""A checkpoint: everything a run needs to go on as if it had never stopped.

    model.safetensors   weights and buffers
    state.pt            optimizer, plateau, epoch, history; plain values and tensors, so that
                        it loads with `weights_only=True`

Generators need no saving: every epoch seeds them from (seed, epoch, rank).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors.torch import load_model, save_model
from torch import nn
from torch.optim import Optimizer

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
    history: list[dict] = field(default_factory=list)
    stopped: str = ""

    def save(self, directory: Path, model: nn.Module, optimizer: Optimizer) -> None:
        """Write model.safetensors and state.pt into an existing folder."""
        save_model(model, str(directory / "model.safetensors"))
        state = {
            "epoch": self.epoch,
            "plateau": self.plateau.as_dict(),
            "history": self.history,
            "stopped": self.stopped,
            "optimizer": optimizer.state_dict(),
        }
        torch.save(state, directory / "state.pt")

    @classmethod
    def load(cls, directory: Path, model: nn.Module, optimizer: Optimizer) -> TrainingState:
        """Restore model and optimizer in place and return the rest."""
        load_model(model, directory / "model.safetensors")
        state = torch.load(directory / "state.pt", map_location="cpu", weights_only=True)
        optimizer.load_state_dict(state["optimizer"])
        plateau = Plateau(**state["plateau"])
        return cls(state["epoch"], plateau, state["history"], state["stopped"])
