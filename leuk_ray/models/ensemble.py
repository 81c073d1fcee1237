"""Several networks as one: a soft or a majority vote inside the graph (saeed2022, Table 2)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from leuk_ray.models.zoo import class_logits

Rule = Literal["soft", "majority"]

_EPSILON = 1e-9  # votes of 0 and 1 have no finite log-odds
_TIE = 1e-6  # weight of the mean probability in a majority vote of more than two classes


@dataclass(frozen=True)
class Member:
    """A network with its calibration and its decision, as its bundle has them."""

    model: nn.Module
    temperature: float
    threshold: float


class Ensemble(nn.Module):
    """A vote of networks, as one network.

    soft: the mean of the members' calibrated probabilities.
    majority: the share of the members that call the cell each class; of two classes each member by
        its own threshold. With a threshold of 0.5 a tie of two is the positive class: missing
        leukemia costs more than a second look. Of more classes a tie goes to the class with the
        higher mean probability: the share v and the mean probability p of a class give
        (v + 1e-6 p) / (1 + 1e-6), which changes no order of unequal shares.
    """

    def __init__(self, members: Sequence[Member], rule: Rule) -> None:
        super().__init__()
        self.models = nn.ModuleList(member.model for member in members)
        self.temperatures = [member.temperature for member in members]
        self.thresholds = [member.threshold for member in members]
        self.rule: Rule = rule

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Images (N, 3, H, W) in 0..255 -> outputs (float64) and embedding, as a network's.

        Of two classes the output is the log-odds of the vote, (N, 1); of K the logarithms of its
        shares, (N, K). The embedding is the members', one after the other.
        """
        probabilities, embeddings = [], []
        for model, temperature in zip(self.models, self.temperatures, strict=True):
            outputs, embedding = model(images)
            probabilities.append(_probabilities(class_logits(outputs.double()) / temperature))
            embeddings.append(embedding)
        share = vote(torch.stack(probabilities), self.thresholds, self.rule)
        if share.shape[1] == 1:
            outputs = torch.logit(share, eps=_EPSILON)
        else:
            outputs = share.clamp(min=_EPSILON).log()
        return outputs, torch.cat(embeddings, dim=1)


def _probabilities(class_logits: Tensor) -> Tensor:
    """Of the positive one of two classes, (N, 1); of each of K, (N, K)."""
    if class_logits.shape[1] == 1:
        return torch.sigmoid(class_logits)
    return F.pad(class_logits, (1, 0)).softmax(dim=1)


def vote(probabilities: Tensor, thresholds: Sequence[float], rule: Rule) -> Tensor:
    """Combine M members' calibrated probabilities.

    Args:
        probabilities: (M, N, 1) of the positive one of two classes, or (M, N, K) of each of K.
        thresholds: of the members, for two classes.
        rule: see `Ensemble`.

    Returns:
        (N, 1) or (N, K), in 0..1.
    """
    if rule == "soft":
        return probabilities.mean(dim=0)
    if probabilities.shape[2] == 1:
        at = torch.tensor(thresholds, dtype=probabilities.dtype, device=probabilities.device)
        return (probabilities >= at[:, None, None]).double().mean(dim=0)
    called = F.one_hot(probabilities.argmax(dim=2), probabilities.shape[2])
    share = called.double().mean(dim=0)
    return (share + _TIE * probabilities.mean(dim=0)) / (1 + _TIE)
