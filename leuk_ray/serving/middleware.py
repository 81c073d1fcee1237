"""What stands before the models: who may ask, limits, and the access log."""

from __future__ import annotations

import asyncio
import hashlib
import io
import json
import logging
import re
import time
import uuid
from collections.abc import Callable
from datetime import UTC, datetime

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from leuk_ray.serving.errors import Problem, without_texts
from leuk_ray.serving.keys import ApiKeys
from leuk_ray.serving.loopback import check_local
from leuk_ray.serving.settings import Limits
from leuk_ray.serving.traffic import Shares, Traffic

# What tells nothing and costs nothing is open to who has no key.
OPEN_PATHS = frozenset({
    "/", "/fields", "/healthz", "/readyz", "/docs", "/docs/swagger-ui-bundle.js",
    "/docs/swagger-ui.css", "/openapi.json", "/v2/health/live", "/v2/health/ready",
})  # fmt: skip
_HANG_UP = 499  # as nginx and Serve count a client that went away
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_WANTED = {"WWW-Authenticate": 'APIKey realm="leuk_ray", header="X-API-Key"'}
_CLOSE = {"Connection": "close"}  # what is left of the body is not read
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")

access_log = logging.getLogger("leuk_ray.access")
logger = logging.getLogger(__name__)


class RequestLimits:
    """ASGI middleware: request id, key, size and time of the body, admission, access log.

    The application is called with a body that is there, so that only work takes one of its
    places, no sender who lets it wait. Log lines hold the route, the request's ID, lengths and
    hashes; nothing else that a client sends, in no exception's text.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        limits: Limits,
        keys: ApiKeys | None,
        rejected: Callable[[str], None],
        finished: Callable[[str, int, float], None],
        traffic: Traffic,
    ) -> None:
        """Wrap `app`.

        Args:
            app: the application.
            limits: of a request.
            keys: None answers everybody on this machine: see `serving.loopback`.
            rejected: called with the reason of each request refused here.
            finished: called with (path, status, seconds) of each request.
            traffic: of the replica; counts the admitted requests.
        """
        self.app = app
        self.limits = limits
        self.keys = keys
        self.rejected = rejected
        self.finished = finished
        self.traffic = traffic
        self.bytes_held = Shares(limits.memory_bytes)
        self.receiving = Shares(limits.receiving)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        await _Request(self, scope, receive, send).run()


class _Request:
    """One request on its way through the middleware."""

    def __init__(self, limiter: RequestLimits, scope: Scope, receive: Receive, send: Send) -> None:
        self.limiter, self.scope, self._receive, self._send = limiter, scope, receive, send
        self.headers = Headers(scope=scope)
        self.path = scope["path"].removeprefix(scope.get("root_path", ""))
        given = self.headers.get("x-request-id", "")
        self.id = given if _REQUEST_ID.fullmatch(given) else str(uuid.uuid4())
        scope.setdefault("state", {})["request_id"] = self.id
        self.started = time.monotonic()
        self.owner: str | None = None
        self.bytes_in = 0
        self.body: Message | None = None
        self.status = 0

    async def run(self) -> None:
        """Refuse or pass on, then log."""
        limiter = self.limiter
        admitted = False
        try:
            await self._authenticate()
            self.scope["state"] |= {"owner": self.owner, "holder": self.owner or self.id}
            self._check_encoding()
            self._check_length()
            if self.path not in OPEN_PATHS:
                self._check_room()
                await self._receive_body()
                self._check_room()
                limiter.traffic.begin()
                admitted = True
            await limiter.app(self.scope, self.receive, self.send)
        except Problem as problem:
            limiter.rejected(problem.reason)
            if self.status == 0:
                await problem.response()(self.scope, self._receive, self.send)
        except asyncio.CancelledError:  # Serve's way to say that the client went away
            limiter.rejected("hang_up")
            self.status = self.status or _HANG_UP
            raise
        except ClientDisconnect:
            limiter.rejected("hang_up")
            if self.status == 0:  # nobody reads it; without one Serve would count a 500
                await Response(status_code=_HANG_UP)(self.scope, self._receive, self.send)
        except Exception as error:
            logger.error("request %s failed:\n%s", self.id, without_texts(error))
            limiter.rejected("internal")
            if self.status == 0:
                problem = Problem(500, "internal", f"internal error; quote request ID {self.id}")
                await problem.response()(self.scope, self._receive, self.send)
        finally:
            if admitted:
                limiter.traffic.end()
            limiter.bytes_held.give_back(self.owner, self.bytes_in)
            self._log()

    async def receive(self) -> Message:
        """Give the body, in one message, and then say that the client went away."""
        body, self.body = self.body, None
        return body or await self._receive()

    async def send(self, message: Message) -> None:
        """Send on, with the request's id and headers that keep browsers careful."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = MutableHeaders(scope=message)
            headers["X-Request-ID"] = self.id
            if "trace_line" in self.scope["state"]:
                headers["X-Trace-Line"] = self.scope["state"]["trace_line"]
            headers["X-Content-Type-Options"] = "nosniff"
            headers.setdefault("Cache-Control", "no-store")
        await self._send(message)

    async def _authenticate(self) -> None:
        if self.path in OPEN_PATHS:
            return
        if self.limiter.keys is None:
            check_local(self.headers)
            return
        key = self.headers.get("x-api-key")
        if key is None:
            raise Problem(401, "no_key", "send a key as X-API-Key", headers=_WANTED)
        self.owner = await self.limiter.keys.owner(key)
        if self.owner is None:
            raise Problem(401, "wrong_key", "this key is not known", headers=_WANTED)

    def _check_room(self) -> None:
        if self.limiter.traffic.in_flight >= self.limiter.limits.in_flight:
            raise _overload("too many requests at once")

    async def _receive_body(self) -> None:
        """Wait for the body, unless it grows too large or comes too slowly."""
        limiter = self.limiter
        if not limiter.receiving.take(self.owner, 1):
            raise _overload("too many requests are being received", **_CLOSE)
        started = time.monotonic()
        body = io.BytesIO()  # small pieces of a large one would leave their places in memory open
        message: Message = {"more_body": True}
        try:
            while message.get("more_body", False):
                allowed = (
                    limiter.limits.receive_seconds + self.bytes_in / limiter.limits.receive_rate
                )
                try:
                    async with asyncio.timeout(max(0.0, started + allowed - time.monotonic())):
                        message = await self._receive()
                except TimeoutError as error:
                    detail = f"{self.bytes_in} bytes of the request were there after {allowed:g} s"
                    raise Problem(408, "slow", detail, headers=_CLOSE) from error
                if message["type"] == "http.disconnect":
                    raise ClientDisconnect
                self._hold(len(message.get("body", b"")))
                body.write(message.get("body", b""))
        finally:
            limiter.receiving.give_back(self.owner, 1)
        self.body = {"type": "http.request", "body": body.getvalue(), "more_body": False}

    def _hold(self, num_bytes: int) -> None:
        if self.bytes_in + num_bytes > self.limiter.limits.body_bytes:
            raise self._too_large()
        if not self.limiter.bytes_held.take(self.owner, num_bytes):
            raise _overload("too many bytes of requests at once", **_CLOSE)
        self.bytes_in += num_bytes

    def _check_encoding(self) -> None:
        if self.headers.get("content-encoding", "identity").lower() != "identity":
            detail = "Content-Encoding: a packed body (gzip, br ...) is not read; send it as it is"
            headers = {"Accept-Encoding": "identity"} | _CLOSE
            raise Problem(415, "content_encoding", detail, headers=headers)

    def _check_length(self) -> None:
        length = self.headers.get("content-length", "0")
        if not re.fullmatch(r"[0-9]{1,18}", length):
            raise Problem(400, "length", "Content-Length is no number")
        if int(length) > self.limiter.limits.body_bytes:
            raise self._too_large()

    def _too_large(self) -> Problem:
        limit = self.limiter.limits.body_bytes
        return Problem(413, "too_large", f"a request may have {limit} bytes", headers=_CLOSE)

    def _log(self) -> None:
        seconds = time.monotonic() - self.started
        self.limiter.finished(self.path, self.status, seconds)
        line = {
            "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "request_id": self.id,
            "method": self.scope["method"] if self.scope["method"] in _METHODS else "other",
            "path": self._logged_path(),
            "status": self.status,
            "ms": round(1000 * seconds, 1),
            "bytes": self.bytes_in,
            "key": self.owner,
        }
        access_log.info(json.dumps(line))

    def _logged_path(self) -> str:
        """Return the route, such as /v2/models/{name}/infer; what matches none is sent text."""
        if self.path in OPEN_PATHS:
            return self.path
        route = getattr(self.scope.get("route"), "path", None)
        return route or "sha256:" + hashlib.sha256(self.path.encode(errors="replace")).hexdigest()


def _overload(detail: str, **headers: str) -> Problem:
    return Problem(503, "overload", detail, headers={"Retry-After": "1"} | headers)
