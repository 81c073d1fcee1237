"""Addresses: where a service can listen, and which requests are meant for this machine."""

from __future__ import annotations

import ipaddress
import socket
from urllib.parse import urlsplit

from starlette.datastructures import Headers

from leuk_ray.serving.errors import Problem
from leuk_ray.utils.errors import ConfigError


def is_loopback(host: str | None) -> bool:
    """Say whether a host is `localhost` or an address of this machine's loopback."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host or "").is_loopback
    except ValueError:
        return False


def check_port(host: str, port: int) -> None:
    """Refuse an address that cannot be listened on; raises ConfigError."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise ConfigError(
                f"--host {host} --port {port}: cannot be listened on ({error.strerror}); choose "
                "another"
            ) from error


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
