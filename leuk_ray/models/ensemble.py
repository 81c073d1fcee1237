"""Several networks as one: a soft or a majority vote inside the graph (saeed2022, Table 2)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from leuk_ray.models.zoo import positive_logit

Rule = Literal["soft", "majority"]

_EPSILON = 1e-9  # votes of 0 and 1 have no finite log-odds


@dataclass(frozen=True)
class Member:
    """A network with its calibration and its decision, as its bundle has them."""

    model: nn.Module
    temperature: float
    threshold: float


class Ensemble(nn.Module):
    """A vote of networks, as one network with one logit.

    soft: the mean of the members' calibrated probabilities.
    majority: the share of the members that call the cell ALL, each by its own threshold.
        With a threshold of 0.5 a tie is ALL: missing leukemia costs more than a second look.
    """

    def __init__(self, members: Sequence[Member], rule: Rule) -> None:
        super().__init__()
        self.models = nn.ModuleList(member.model for member in members)
        self.temperatures = [member.temperature for member in members]
        self.thresholds = [member.threshold for member in members]
        self.rule: Rule = rule

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Images (N, 3, H, W) in 0..255 -> log-odds of the vote (N, 1) float64, embedding.

        The embedding is the members', one after the other.
        """
        probabilities, embeddings = [], []
        for model, temperature in zip(self.models, self.temperatures, strict=True):
            logits, embedding = model(images)
            probabilities.append(torch.sigmoid(positive_logit(logits.double()) / temperature))
            embeddings.append(embedding)
        share = vote(torch.stack(probabilities), self.thresholds, self.rule)
        return torch.logit(share, eps=_EPSILON)[:, None], torch.cat(embeddings, dim=1)


def vote(probabilities: Tensor, thresholds: Sequence[float], rule: Rule) -> Tensor:
    """What M members' calibrated probabilities (M, N) say together: (N,) in 0..1."""
    if rule == "majority":
        return torch.stack(
            [(own >= at).double() for own, at in zip(probabilities, thresholds, strict=True)]
        ).mean(dim=0)
    return probabilities.mean(dim=0)
