"""The Ray Serve application: replicas that parse, decode and score in one process.

A request crosses one process border, from the proxy to a replica, as bytes; pixels never do,
unless `split` is set: then replicas that parse and decode hand pixels to those of another
deployment, which score them on GPUs, say, and scale by their own measure.
`serve run leuk_ray.serving.app:build bundle=PATH api_keys=FILE` and a Serve config's
`import_path` and `args` build the same application as `leuk-ray serve`.
"""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from fastapi import FastAPI
from pydantic import ValidationError
from ray import serve
from ray.serve import Application
from ray.serve.handle import DeploymentHandle

from leuk_ray.inference.classifier import Scores
from leuk_ray.inference.explain import Explanation
from leuk_ray.io.locations import parse
from leuk_ray.serving.api import create_api
from leuk_ray.serving.errors import Problem
from leuk_ray.serving.keys import ApiKeys, read_keys
from leuk_ray.serving.middleware import access_log
from leuk_ray.serving.models import Models
from leuk_ray.serving.monitoring import Metrics
from leuk_ray.serving.replica import local_runners, remote_runners
from leuk_ray.serving.routing import check_beside
from leuk_ray.serving.served_model import ModelBackend, Scored
from leuk_ray.serving.settings import ServeSettings
from leuk_ray.serving.shadow import shadow_log
from leuk_ray.serving.sources import open_source
from leuk_ray.serving.trace import Trace
from leuk_ray.utils.errors import ConfigError, restated

_SPARE = 16  # requests above our own limit that reach a replica, which answers them 503
_QUEUED = 256  # requests that wait in a proxy while every replica is full or none is there
_COMMON: dict[str, Any] = {
    "health_check_period_s": 10,
    "health_check_timeout_s": 30,
    "graceful_shutdown_timeout_s": 30,
    "logging_config": {"enable_access_log": False},  # we write our own
}


@serve.deployment
@serve.ingress()  # pyright: ignore[reportUntypedClassDecorator]
class Classify:
    """A replica that answers requests.

    predictor: scores for it; None has it score itself.
    """

    def __init__(
        self, settings: ServeSettings, predictor: DeploymentHandle[Any] | None = None
    ) -> None:
        torch.set_num_threads(max(1, round(settings.num_cpus)))
        _log_to_stdout()
        self.settings = settings
        self.metrics = Metrics()
        self.keys = ApiKeys(Path(settings.api_keys)) if settings.api_keys else None
        self.scores_itself = predictor is None
        make = (
            local_runners(settings, self.metrics)
            if predictor is None
            else remote_runners(predictor, self.metrics)
        )
        self.models = Models(settings, self.metrics, make)
        folder = Path(settings.trace) if settings.trace else None
        self.trace = Trace(folder, subjects=settings.trace_subjects)

    def __del__(self) -> None:
        """Serve calls it when the last request of a replica that it stops is answered."""
        self.trace.close()

    async def __serve_build_asgi_app__(self) -> FastAPI:
        """Load and warm up the models; only then does the replica count as ready."""
        await self.models.start()
        limits = self.settings.limits
        return create_api(self.models, limits, self.keys, self.metrics, self.trace)

    async def check_health(self) -> None:
        """Run every loaded network; Serve replaces a replica whose networks do not answer.

        Networks elsewhere are checked there.
        """
        if self.scores_itself:
            await self.models.check()


@serve.deployment
class Predict:
    """A replica that scores storage pixels for the others, where the application is split."""

    async def __init__(self, settings: ServeSettings) -> None:  # pyright: ignore[reportGeneralTypeIssues]
        """Load and warm up the models."""
        torch.set_num_threads(max(1, round(settings.num_cpus)))
        beside = len(settings.canaries) + len(settings.shadows)
        plain = settings.model_copy(
            update={"canaries": {}, "shadows": (), "max_models": settings.max_models + beside}
        )
        metrics = Metrics()
        self.models = Models(plain, metrics, local_runners(plain, metrics))
        await self.models.start()

    async def engine(self, reference: str) -> str:
        """Say what runs the network of NAME@VERSION; raises UserError if it cannot be loaded."""
        return (await self._network(reference)).engine

    async def score(self, reference: str, pixels: np.ndarray) -> Scored:
        """Score one cell, (S, S, 3) uint8, in one batch with others that come meanwhile."""
        scores, index = await (await self._network(reference)).score(pixels)
        return scores.at(index), 0

    async def score_field(self, reference: str, pixels: np.ndarray) -> Scores:
        """Score cells of a field, (N, S, S, 3) uint8, in one batch without others."""
        return await (await self._network(reference)).score_field(pixels)

    async def explain(self, reference: str, pixels: np.ndarray) -> list[Explanation]:
        """Explain answers for cells, (N, S, S, 3) uint8."""
        return await (await self._network(reference)).explain(pixels)

    async def check(self, reference: str) -> None:
        """Run a network once."""
        await (await self._network(reference)).check()

    async def check_health(self) -> None:
        """Run every loaded network."""
        await self.models.check()

    async def _network(self, reference: str) -> ModelBackend:
        try:
            return (await self.models.get(reference)).network
        except Problem as problem:  # has more than a message, and would not travel
            raise restated(problem.__cause__ or problem, str(problem)) from problem


def build(args: dict[str, Any]) -> Application:
    """Make the application, for `serve run`, a Serve config, and `leuk-ray serve`.

    Args:
        args: of `ServeSettings`; paths are those of the nodes that replicas run on.

    Raises:
        UserError: a setting that is none, no bundle, or a broken file of keys.
    """
    try:
        settings = ServeSettings(**args)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        message = first["msg"].removeprefix("Value error, ")
        raise ConfigError(f"serve: {where + ': ' if where else ''}{message}") from error
    bundle = parse(settings.bundle)
    check_beside(open_source(bundle, settings.trusted_keys), settings.canaries, settings.shadows)
    place = bundle.absolute() if isinstance(bundle, Path) else bundle
    settings = settings.model_copy(update={"bundle": str(place)})
    if settings.api_keys:
        settings = settings.model_copy(update={"api_keys": str(Path(settings.api_keys).absolute())})
        read_keys(Path(settings.api_keys or ""))
    if settings.trace:
        settings = settings.model_copy(update={"trace": str(Path(settings.trace).absolute())})
    classify: Any = Classify
    if not settings.split:
        return classify.options(**_front(settings), **_sized(settings)).bind(settings)
    predict: Any = Predict
    images = settings.limits.in_flight * settings.limits.files
    predictor = predict.options(
        **_sized(settings),
        **_COMMON,
        max_ongoing_requests=max(64, 4 * settings.max_batch_size),
        max_queued_requests=images,
    ).bind(settings)
    alone = {"num_replicas": settings.ingress_replicas, "ray_actor_options": {"num_cpus": 1}}
    return classify.options(**_front(settings), **alone).bind(settings, predictor)


def _front(settings: ServeSettings) -> dict[str, Any]:
    """Of what answers requests: its queue, the second wall behind our own limits."""
    limits = settings.limits
    return {
        **_COMMON,
        "max_ongoing_requests": limits.receiving + limits.in_flight + _SPARE,
        "max_queued_requests": _QUEUED,
        "backpressure_config": {"retry_after_s": 1},
    }


def _sized(settings: ServeSettings) -> dict[str, Any]:
    """Of what scores: resources and replicas."""
    options: dict[str, Any] = {
        "num_replicas": settings.replicas,
        "ray_actor_options": {"num_cpus": settings.num_cpus, "num_gpus": settings.num_gpus},
    }
    if settings.max_replicas is not None and settings.max_replicas > settings.replicas:
        target = min(2 * settings.max_batch_size, settings.limits.in_flight / 2)
        options["num_replicas"] = None
        options["autoscaling_config"] = {
            "min_replicas": settings.replicas,
            "max_replicas": settings.max_replicas,
            "target_ongoing_requests": target,
            "upscale_delay_s": 10,
        }
    return options


def _log_to_stdout() -> None:
    """Lines that are JSON already go to the output of the replica's process as they are.

    That is logs/worker-*.out in Ray's session. Serve's own `sys.stdout` puts its words before
    each line.
    """
    handler = logging.StreamHandler(sys.__stdout__)
    handler.setFormatter(logging.Formatter("%(message)s"))
    for log in (access_log, shadow_log):
        log.handlers = [handler]
        log.setLevel(logging.INFO)
        log.propagate = False
