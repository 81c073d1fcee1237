"""The one scoring path: image bytes or storage pixels to an answer."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
import torch

from leuk_ray import images
from leuk_ray.bundle import Bundle, Facts, load_bundle
from leuk_ray.images import BadImageError
from leuk_ray.inference.calibration import probability
from leuk_ray.inference.engines import score_images
from leuk_ray.locations import Location


@dataclass(frozen=True)
class Scores:
    """Scores of N cells.

    logit: (N,) float64, log-odds of ALL. probability: (N,) float64, calibrated.
    embedding: (N, D) float32.
    """

    logit: np.ndarray
    probability: np.ndarray
    embedding: np.ndarray


@dataclass(frozen=True)
class Prediction:
    """The answer for one image."""

    name: str
    label: str
    probability: float
    threshold: float
    sha256: str

    def as_dict(self) -> dict[str, str | float]:
        """Plain values, for JSON."""
        return asdict(self)


@dataclass(frozen=True)
class Failure:
    """An image that could not be scored, and why."""

    name: str
    error: str

    def as_dict(self) -> dict[str, str]:
        """Plain values, for JSON."""
        return asdict(self)


class Classifier:
    """A bundle's network on a device, with the bundle's preprocessing and decision."""

    def __init__(self, bundle: Bundle, device: str = "cpu") -> None:
        self.facts: Facts = bundle.facts
        self.device = torch.device(device)
        self.model = bundle.model.to(self.device)

    @classmethod
    def load(cls, path: Location, device: str = "cpu") -> Classifier:
        """Load a verified bundle; raises UserError as `load_bundle` does."""
        return cls(load_bundle(path), device)

    def score(self, pixels: np.ndarray) -> Scores:
        """Score storage pixels, (N, size, size, 3) uint8."""
        batch = torch.from_numpy(pixels).to(self.device).permute(0, 3, 1, 2)
        logit, embedding = score_images(self.model, batch)
        logits = logit.cpu().numpy()
        calibrated = probability(logits, self.facts.temperature)
        return Scores(logits, calibrated, embedding.cpu().numpy())

    def predict(self, files: Sequence[tuple[str, bytes]]) -> list[Prediction | Failure]:
        """Answer for named image files; a bad one is an item, not an error."""
        answers: list[Prediction | Failure | None] = []
        good: list[np.ndarray] = []
        for name, data in files:
            try:
                good.append(images.read(data, self.facts.storage))
                answers.append(None)
            except BadImageError as error:
                answers.append(Failure(name, str(error)))
        probabilities = iter(self.score(np.stack(good)).probability if good else ())
        return [
            answer or self._decide(name, data, float(next(probabilities)))
            for answer, (name, data) in zip(answers, files, strict=True)
        ]

    def _decide(self, name: str, data: bytes, p_all: float) -> Prediction:
        label = self.facts.classes[int(p_all >= self.facts.threshold)]
        digest = hashlib.sha256(data).hexdigest()
        return Prediction(name, label, p_all, self.facts.threshold, digest)
