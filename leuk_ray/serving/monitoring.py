"""Metrics of the service, in Ray's Prometheus endpoint."""

from __future__ import annotations

from typing import Any

from ray.serve.metrics import Counter, Gauge, Histogram

from leuk_ray.inference.predictions import Prediction
from leuk_ray.serving.drift import Shift

_ROUTES = ("/v1/predict", "/v1/fields", "/v2/models")
_SECONDS = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10]
_DIFFERENCES = [1e-4, 1e-3, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0]
_SIZES = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0]


def _tags(*names: str) -> Any:
    return names  # Ray types them as a tuple of one


class Metrics:
    """What a replica counts. Labels come from closed lists, never from a request."""

    def __init__(self) -> None:
        self._requests = Histogram(
            "leuk_ray_request_seconds", "Time to answer.", _SECONDS, _tags("path", "status")
        )
        self._batches = Histogram("leuk_ray_batch_size", "Images a forward pass.", _SIZES)
        self._answers = Counter("leuk_ray_answers", "Images answered.", _tags("model", "label"))
        self._abstained = Counter("leuk_ray_abstained", "Reasons to abstain.", _tags("reason"))
        self._drift = Gauge(
            "leuk_ray_drift", "Largest shift, in deviations.", _tags("model", "feature")
        )
        self._guarantee = Gauge(
            "leuk_ray_guarantee_suspended",
            "1 while a shift suspends the guarantee of prediction sets.",
            _tags("model"),
        )
        self._shadow = Histogram(
            "leuk_ray_shadow_difference", "|Difference of probability| to a shadow.",
            _DIFFERENCES, _tags("model", "label"),
        )  # fmt: skip
        self._dropped = Counter(
            "leuk_ray_shadow_dropped", "Requests not compared: too many waited.", _tags("model")
        )
        self._broken = Gauge(
            "leuk_ray_model_broken",
            "1 where a version cannot be loaded.",
            _tags("model", "version"),
        )
        self._rejected = Counter("leuk_ray_rejected", "What was refused.", _tags("reason"))

    def request(self, path: str, status: int, seconds: float) -> None:
        """Count a finished request."""
        known = next((route for route in _ROUTES if path.startswith(route)), "other")
        self._requests.observe(seconds, {"path": known, "status": str(status)})

    def batch(self, size: int) -> None:
        """Count a forward pass."""
        self._batches.observe(size)

    def answer(self, model: str, prediction: Prediction) -> None:
        """Count an answered image."""
        self._answers.inc(1, {"model": model, "label": prediction.label})
        for reason in prediction.reasons:
            self._abstained.inc(1, {"reason": reason})

    def drift(self, model: str, shift: Shift) -> None:
        """Record how far the pictures that come have strayed."""
        self._drift.set(shift.effect, {"model": model, "feature": shift.name})

    def guarantee(self, model: str, suspended: bool) -> None:
        """Record whether a shift suspends the guarantee of a model's prediction sets."""
        self._guarantee.set(float(suspended), {"model": model})

    def shadow(self, model: str, difference: float, changed: bool) -> None:
        """Count an image that a shadow answered too; whether with another label."""
        self._shadow.observe(difference, {"model": model, "label": "other" if changed else "same"})

    def shadow_dropped(self, model: str) -> None:
        """Count a request that no shadow will see."""
        self._dropped.inc(1, {"model": model})

    def broken(self, model: str, version: str, broken: bool) -> None:
        """Record a version that cannot be loaded, or can again."""
        self._broken.set(float(broken), {"model": model, "version": version})

    def rejected(self, reason: str) -> None:
        """Count a refused request or image."""
        self._rejected.inc(1, {"reason": reason})
