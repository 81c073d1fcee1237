"""The Ray Serve application: replicas that parse, decode and score in one process.

A request crosses one process border, from the proxy to a replica, as bytes; pixels never do.
`serve run leuk_ray.serving.app:build bundle=PATH api_keys=FILE` and a Serve config's
`import_path` and `args` build the same application as `leuk-ray serve`.
"""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import Any

import torch
from fastapi import FastAPI
from pydantic import ValidationError
from ray import serve
from ray.serve import Application

from leuk_ray.errors import UserError
from leuk_ray.locations import parse
from leuk_ray.serving.api import create_api
from leuk_ray.serving.guard import ApiKeys, access_log, read_keys
from leuk_ray.serving.models import Models
from leuk_ray.serving.monitoring import Metrics
from leuk_ray.serving.settings import ServeSettings
from leuk_ray.serving.sources import open_source

_SPARE = 16  # requests above our own limit that reach a replica, to be told 503 by it
_QUEUED = 256  # requests that wait in a proxy while every replica is full or none is there


@serve.deployment
@serve.ingress()
class Classify:
    """A replica."""

    def __init__(self, settings: ServeSettings) -> None:
        torch.set_num_threads(max(1, round(settings.num_cpus)))
        _log_to_stdout()
        self.settings = settings
        self.metrics = Metrics()
        self.keys = ApiKeys(Path(settings.api_keys)) if settings.api_keys else None
        # Called anew for each model: two models must not share a queue.
        batched: Any = serve.batch(
            max_batch_size=settings.max_batch_size,
            batch_wait_timeout_s=settings.batch_wait_seconds,
        )
        self.models = Models(settings, self.metrics, batched)

    async def __serve_build_asgi_app__(self) -> FastAPI:
        """Load and warm up the models; only then does the replica count as ready."""
        await self.models.start()
        return create_api(self.models, self.settings.limits, self.keys, self.metrics)

    async def check_health(self) -> None:
        """Run every loaded network; Serve replaces a replica whose networks do not answer."""
        await self.models.check()


def build(args: dict[str, Any]) -> Application:
    """The application, for `serve run`, a Serve config, and `leuk-ray serve`.

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
        raise UserError(f"serve: {where + ': ' if where else ''}{message}") from error
    bundle = parse(settings.bundle)
    open_source(bundle)
    place = bundle.absolute() if isinstance(bundle, Path) else bundle
    settings = settings.model_copy(update={"bundle": str(place)})
    if settings.api_keys:
        settings = settings.model_copy(update={"api_keys": str(Path(settings.api_keys).absolute())})
        read_keys(Path(settings.api_keys or ""))
    deployment: Any = Classify
    return deployment.options(**_deployment_options(settings)).bind(settings)


def _deployment_options(settings: ServeSettings) -> dict[str, Any]:
    ongoing = settings.limits.in_flight + _SPARE
    options: dict[str, Any] = {
        "num_replicas": settings.replicas,
        "max_ongoing_requests": ongoing,
        "max_queued_requests": _QUEUED,
        "backpressure_config": {"retry_after_s": 1},
        "ray_actor_options": {"num_cpus": settings.num_cpus, "num_gpus": settings.num_gpus},
        "health_check_period_s": 10,
        "health_check_timeout_s": 30,
        "graceful_shutdown_timeout_s": 30,
        "logging_config": {"enable_access_log": False},  # we write our own
    }
    if settings.max_replicas is not None and settings.max_replicas > settings.replicas:
        options["num_replicas"] = None
        options["autoscaling_config"] = {
            "min_replicas": settings.replicas,
            "max_replicas": settings.max_replicas,
            "target_ongoing_requests": min(2 * settings.max_batch_size, ongoing / 2),
            "upscale_delay_s": 10,
        }
    return options


def _log_to_stdout() -> None:
    """Access lines go to the replica's log as they are."""
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(logging.Formatter("%(message)s"))
    access_log.handlers = [handler]
    access_log.setLevel(logging.INFO)
    access_log.propagate = False
