"""How a replica makes the served_models of its models: a network of its own, or one elsewhere."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import numpy as np
from ray.exceptions import RayActorError
from ray.serve.exceptions import (
    BackPressureError,
    DeploymentUnavailableError,
    ReplicaUnavailableError,
)
from ray.serve.handle import DeploymentHandle

from leuk_ray.bundles.manifest import read_manifest
from leuk_ray.inference.classifier import PrePostProcessor, Scores
from leuk_ray.inference.explain import Explanation
from leuk_ray.serving.decoding import Decoding
from leuk_ray.serving.errors import Problem
from leuk_ray.serving.monitoring import Metrics
from leuk_ray.serving.served_model import LocalBackend, Scored, ServedModel
from leuk_ray.serving.settings import ServeSettings
from leuk_ray.serving.sources import Found
from leuk_ray.utils.errors import UserError, restated

_GONE = (RayActorError, ReplicaUnavailableError, DeploymentUnavailableError)


def local_runners(
    settings: ServeSettings, metrics: Metrics
) -> Callable[[Found], Awaitable[ServedModel]]:
    """Make served models whose networks run in this process."""
    decoding = Decoding()

    def make(found: Found) -> ServedModel:
        network = LocalBackend(found, settings, metrics)
        return ServedModel(found, network.classifier, network, metrics, decoding)

    return lambda found: asyncio.to_thread(make, found)


def remote_runners(
    predictor: DeploymentHandle[Any], metrics: Metrics
) -> Callable[[Found], Awaitable[ServedModel]]:
    """Make served models whose networks run in another deployment."""
    decoding = Decoding()

    async def make(found: Found) -> ServedModel:
        processor = PrePostProcessor(await asyncio.to_thread(read_manifest, found.path))
        network = await RemoteBackend.of(predictor, found)
        return ServedModel(found, processor, network, metrics, decoding)

    return make


class RemoteBackend:
    """A network that replicas of `app.Predict` run; each image travels as its pixels."""

    def __init__(self, predictor: DeploymentHandle[Any], reference: str, engine: str) -> None:
        self._predictor = predictor
        self._reference = reference
        self.engine = engine

    @classmethod
    async def of(cls, predictor: DeploymentHandle[Any], found: Found) -> RemoteBackend:
        """Have a replica load the network; raises UserError if it cannot."""
        reference = f"{found.name}@{found.version}"
        return cls(predictor, reference, await _result(predictor.engine.remote(reference)))

    async def score(self, pixels: np.ndarray) -> Scored:
        """Score one cell, (S, S, 3) uint8."""
        return await _result(self._predictor.score.remote(self._reference, pixels))

    async def score_field(self, pixels: np.ndarray) -> Scores:
        """Score cells of a field, (N, S, S, 3) uint8."""
        return await _result(self._predictor.score_field.remote(self._reference, pixels))

    async def explain(self, pixels: np.ndarray) -> list[Explanation]:
        """Explain answers for cells, (N, S, S, 3) uint8."""
        return await _result(self._predictor.explain.remote(self._reference, pixels))

    async def check(self) -> None:
        """Run it once."""
        await _result(self._predictor.check.remote(self._reference))


async def _result(response: Awaitable[Any]) -> Any:
    """Return a predictor's answer.

    Raises:
        Problem: 503 where its queue is full or it was lost: another one can answer.
        UserError: what it says.
    """
    try:
        return await response
    except BackPressureError as error:
        raise Problem(
            503, "overload", "too many images at once", headers={"Retry-After": "1"}
        ) from error
    except _GONE as error:
        raise Problem(
            503, "lost", "a predictor went away; ask again", headers={"Retry-After": "1"}
        ) from error
    except UserError as error:  # Ray's own class, with a traceback in its text
        raise restated(error, str(getattr(error, "cause", error))) from error
