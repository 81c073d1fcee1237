"""Starting or joining Ray, and what can be placed on it."""

from __future__ import annotations

import hashlib
import importlib
import logging
import os
import secrets
import tempfile
import threading
import warnings
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray

from leuk_ray.utils import scratch
from leuk_ray.utils.errors import ConfigError, UserError
from leuk_ray.utils.progress import note

# glibc hands memory back to the system at every step unless its thresholds are raised; Ray Train
# steps in a thread, to which glibc gives an arena of its own where nothing above 64 MiB fits, so
# that larger tensors are mapped anew at every step. And Ray runs workers at nice 15, below its own
# daemons. All must be in place before Ray starts.
LOCAL_ENVIRONMENT = {
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_TRIM_THRESHOLD_": str(2**40),
    "MALLOC_MMAP_THRESHOLD_": str(2**30),
    "RAY_worker_niceness": "0",
    # An actor of its own that asks whether a cloud takes a node away: not this machine.
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
}


Workers = int | tuple[int, int]  # a number, or fewest and most, as Ray Train takes them

_ANSWER_SECONDS = 10
_LOG_LEVELS = {
    "ray.data": logging.CRITICAL,
    "ray.train": logging.ERROR,
    "ray.tune": logging.ERROR,
}


def connect(
    address: str | None = None, num_workers: Workers = 1, meanwhile: str | None = None
) -> None:
    """Join the cluster at `address` or RAY_ADDRESS; without either, start Ray on this machine.

    A local Ray gets more logical CPUs than cores when needed: training workers hold one
    each, and Ray Data's tasks need more or both wait for ever.

    Args:
        address: of a cluster.
        num_workers: training workers that a local Ray must have room for.
        meanwhile: a module without Ray to import while a local Ray starts, which is some seconds of
            its processes waiting for each other.
    """
    if ray.is_initialized():
        return
    address = address or os.environ.get("RAY_ADDRESS")
    _quiet()
    if address and address != "local":
        note(f"ray: joining {address}")
        _join(address)
        return
    note("ray: starting on this machine")
    for name, value in LOCAL_ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    _shorten_tmpdir()
    _make_token_possible()
    with _importing(meanwhile):
        ray.init(
            address="local",
            num_cpus=span(num_workers)[1] + max(os.cpu_count() or 1, 1),
            include_dashboard=True,  # Tune and Train ask its State API to clean up
            log_to_driver=False,
            logging_level=logging.ERROR,
        )


def _join(address: str) -> None:
    """Join a cluster that answers; `ray.init` would try for minutes and print warnings."""
    if address.startswith(("http://", "https://")):
        raise ConfigError(
            f"Ray cluster {address}: is the address of a dashboard; give HOST:PORT of the cluster "
            f"(Ray's default port is 6379), or `leuk-ray submit --address {address} COMMAND ...`"
        )
    if address != "auto" and not answers(address.removeprefix("ray://")):
        raise UserError(
            f"Ray cluster {address}: does not answer within {_ANSWER_SECONDS} s; check HOST:PORT "
            "and start the cluster, or unset RAY_ADDRESS and --address to start Ray here"
        )
    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise UserError(
            f"Ray cluster {address}: cannot be joined ({' '.join(str(error).split())[:200]}); "
            "start it, or unset RAY_ADDRESS and --address to start Ray here"
        ) from error


def answers(address: str) -> bool:
    """Say whether a gRPC server answers at HOST:PORT."""
    import grpc
    from ray._private.grpc_utils import init_grpc_channel  # which knows Ray's TLS settings

    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal():
        return False
    channel: Any = init_grpc_channel(address)
    try:
        grpc.channel_ready_future(channel).result(timeout=_ANSWER_SECONDS)
    except grpc.FutureTimeoutError:
        return False
    finally:
        channel.close()
    return True


def _shorten_tmpdir() -> None:
    """Where TMPDIR is too long for the sockets in it, reach it by a short link.

    Linux allows 107 bytes, of which names that Ray and Python choose take up to 70.
    """
    folder = os.environ.get("TMPDIR", "")
    if len(os.fsencode(folder)) > 107 - 70:
        private = Path("/tmp", f"leuk_ray-{os.getuid()}")
        scratch.make_private(private)
        link = private / f"tmp-{hashlib.sha256(os.fsencode(folder)).hexdigest()[:6]}"
        if not link.is_symlink():
            link.symlink_to(Path(folder).absolute())
        os.environ["TMPDIR"] = str(link)
        tempfile.tempdir = None  # which Python read from TMPDIR


def _make_token_possible() -> None:
    """Give this process's Ray a token of its own where ~/.ray cannot hold one."""
    if {"RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"} & os.environ.keys():
        return
    try:
        folder = Path.home() / ".ray"
        folder.mkdir(exist_ok=True)
        usable = os.access(folder, os.W_OK)
    except (OSError, RuntimeError):  # no such home, or none is known
        usable = False
    if not usable:
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex()


@contextmanager
def _importing(module: str | None) -> Generator[None]:
    """Import a module in a thread; whoever imports it afterwards meets its errors."""
    if module is None:
        yield
        return
    thread = threading.Thread(target=importlib.import_module, args=(module,))
    thread.start()
    try:
        yield
    finally:
        thread.join()


def span(workers: Workers) -> tuple[int, int]:
    """Return the fewest and the most workers that are asked for."""
    return (workers, workers) if isinstance(workers, int) else workers


def require(workers: Workers, gpus: bool) -> None:
    """Refuse what the cluster can never place; Ray Train would retry for ever.

    Of an elastic number, the fewest must fit. A cluster that scales itself is only noted to be
    too small so far: the nodes that are wanting come when the run asks for them.

    Raises:
        UserError: with the arithmetic.
    """
    num_workers, _ = span(workers)
    have = ray.cluster_resources()
    cpus, num_gpus, needed = int(have.get("CPU", 0)), int(have.get("GPU", 0)), num_workers + 1
    short = ""
    if needed > cpus:
        short = (
            f"--workers {num_workers}: needs {num_workers} CPUs and 1 for Ray Data, {needed} in "
            f"all; the cluster has {cpus}"
        )
    elif gpus and num_gpus < num_workers:
        short = f"--gpus: {num_workers} workers need {num_workers} GPUs, the cluster has {num_gpus}"
    if short and not _scales():
        raise ConfigError(f"{short}: ask for fewer workers or add nodes")
    if short:
        note(f"{short} so far; waiting for its autoscaler to add nodes")


def _scales() -> bool:
    """Whether an autoscaler (version 2, as in cluster/) that can add nodes reports to Ray.

    Where nodes are fixed, Ray's monitor reports too, each node as a type of its own: node_ID.
    """
    from ray.autoscaler.v2.sdk import get_cluster_status

    status = get_cluster_status(ray.get_runtime_context().gcs_address)
    nodes = [*status.active_nodes, *status.idle_nodes]
    types = {node.ray_node_type_name for node in nodes} - {""}
    return any(not name.startswith("node_") for name in types)


def _quiet() -> None:
    from ray.data import DataContext

    # What fails in Ray Data is raised; its log would say it once more, with a traceback.
    for name, level in _LOG_LEVELS.items():
        logging.getLogger(name).setLevel(level)
    DataContext.get_current().enable_progress_bars = False
    # Ray 2.60 has no other way to say `max_restarts` of a pool's actors (pool.py).
    warnings.filterwarnings("ignore", "`ray_remote_args` is deprecated")
