"""What a service that answers without keys asks of a request: that it is meant for this machine."""

from __future__ import annotations

import ipaddress
from urllib.parse import urlsplit

from starlette.datastructures import Headers

from leuk_ray.serving.errors import Problem


def is_loopback(host: str | None) -> bool:
    """Whether a host is `localhost` or an address of this machine's loopback."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host or "").is_loopback
    except ValueError:
        return False


def check_local(headers: Headers) -> None:
    """Refuse what a page of another site has a browser on this machine send.

    Such a page may have its own name resolve to 127.0.0.1 (DNS rebinding): `Host` tells it.

    Raises:
        Problem: 403, `Host` is no loopback address, or `Origin` another place than `Host`.
    """
    host = headers.get("host", "").lower()
    try:
        name = urlsplit(f"//{host}").hostname
    except ValueError:
        name = None
    if not is_loopback(name):
        detail = "without keys, only requests to localhost are answered; use http://127.0.0.1"
        raise Problem(403, "host", detail)
    origin = headers.get("origin")
    if origin is not None and origin.lower() not in (f"http://{host}", f"https://{host}"):
        raise Problem(403, "origin", "without keys, no page of another site is answered")
