"""`leuk-ray serve`: the application on this machine's Ray or a cluster, until it is stopped."""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from types import FrameType
from typing import Any

import ray

from leuk_ray.cluster import ray_cluster
from leuk_ray.io.chain import check_writable
from leuk_ray.io.locations import Location
from leuk_ray.serving.loopback import check_port, is_loopback
from leuk_ray.serving.ray_env import switched_on
from leuk_ray.utils.errors import ConfigError
from leuk_ray.utils.progress import note

APPLICATION = "leuk_ray"


def serve_until_stopped(
    source: Location,
    host: str,
    port: int,
    *,
    api_keys: Path | None,
    replicas: int = 1,
    gpus: bool = False,
    canaries: Mapping[str, float] | None = None,
    shadows: Sequence[str] = (),
    trusted: Path | None = None,
    trace: Path | None = None,
    trace_subjects: bool = False,
    address: str | None = None,
) -> dict[str, Any]:
    """Serve until SIGINT or SIGTERM, then let the requests in flight end.

    Args are those of `ServeSettings`, and where to listen.

    Raises:
        UserError: a host that others reach but no keys, a port in use, no bundle, a trace that
            cannot be written, or too few CPUs or GPUs.
    """
    private = is_loopback(host) and not _reaches_out(address)
    if api_keys is None and not private:
        raise ConfigError(
            f"--host {host}: others can reach it, so keys are required: add --api-keys FILE with "
            "lines of NAME SHA256_OF_KEY"
        )
    if trace is not None:
        check_writable(trace)
    if _reaches_out(address):
        listening = nullcontext(host)
    else:
        check_port(host, port)
        listening = switched_on(host, anonymous=api_keys is None)
    cpus = 1.0 if gpus else max(1, (os.cpu_count() or 1) // replicas)
    args = {
        "bundle": str(source),
        "api_keys": str(api_keys) if api_keys else None,
        "anonymous": private,
        "replicas": replicas,
        "num_cpus": cpus,
        "num_gpus": 1.0 if gpus else 0.0,
        "canaries": dict(canaries or {}),
        "shadows": tuple(shadows),
        "trusted": str(trusted.absolute()) if trusted else None,
        "trace": str(trace) if trace else None,
        "trace_subjects": trace_subjects,
    }
    with listening as inner_host:
        from leuk_ray.serving.app import build

        application = build(args)
        ray_cluster.connect(address, num_workers=1)
        _check_resources(replicas, cpus, gpus)

        from ray import serve

        logging.getLogger("ray.serve").setLevel(logging.WARNING)
        serve.start(
            http_options={"host": inner_host, "port": port}, logging_config={"log_level": "WARNING"}
        )
        note("serve: starting replicas and warming them up")
        stopped = threading.Event()
        _stop_on_signals(stopped)
        try:
            serve.run(application, name=APPLICATION, route_prefix="/")
            url = f"http://{f'[{host}]' if ':' in host else host}:{port}"
            note(f"serve: {url} (a page; {url}/docs for programs). For research, not a diagnosis.")
            stopped.wait()
            note("serve: stopping")
        finally:
            serve.delete(APPLICATION)
            if not _reaches_out(address):
                serve.shutdown()
                ray.shutdown()
    return {"url": url, "bundle": str(source)}


def _reaches_out(address: str | None) -> bool:
    """Whether the proxies listen on the nodes of a cluster."""
    return bool(address or os.environ.get("RAY_ADDRESS"))


def _check_resources(replicas: int, cpus: float, gpus: bool) -> None:
    have = ray.cluster_resources()
    if replicas * cpus > have.get("CPU", 0):
        raise ConfigError(
            f"--replicas {replicas}: needs {replicas * cpus:g} CPUs, the cluster has "
            f"{have.get('CPU', 0):g}; ask for fewer"
        )
    if gpus and replicas > have.get("GPU", 0):
        raise ConfigError(
            f"--gpus: {replicas} replicas need {replicas} GPUs, the cluster has "
            f"{have.get('GPU', 0):g}; ask for fewer, or leave --gpus out"
        )


def _stop_on_signals(stopped: threading.Event) -> None:
    def stop(_number: int, _frame: FrameType | None) -> None:
        stopped.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)
