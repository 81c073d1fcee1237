"""Several networks as one: a soft or a majority vote inside the graph (A28)."""

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
        self.rule = rule

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Images (N, 3, H, W) in 0..255 -> log-odds of the vote (N, 1) float64, embedding.

        The embedding is the members', one after the other.
        """
        votes, embeddings = [], []
        for model, temperature, threshold in zip(
            self.models, self.temperatures, self.thresholds, strict=True
        ):
            logits, embedding = model(images)
            probability = torch.sigmoid(positive_logit(logits.double()) / temperature)
            if self.rule == "majority":
                probability = (probability >= threshold).double()
            votes.append(probability)
            embeddings.append(embedding)
        vote = torch.stack(votes).mean(dim=0)
        return torch.logit(vote, eps=_EPSILON)[:, None], torch.cat(embeddings, dim=1)
