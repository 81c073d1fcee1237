"""Keys, limits and the access log, without a model."""

import asyncio
import hashlib
import json
import logging
import time
from pathlib import Path

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from starlette.testclient import TestClient

from leuk_ray.serving import middleware as guard_module
from leuk_ray.serving.errors import Problem
from leuk_ray.serving.keys import ApiKeys
from leuk_ray.serving.middleware import RequestLimits
from leuk_ray.serving.settings import Limits
from leuk_ray.serving.traffic import Traffic
from tests.support.serving_bundles import LOOPBACK

SCOPE = {
    "type": "http", "method": "POST", "path": "/v1/predict", "headers": [(b"host", b"localhost")],
    "query_string": b"", "raw_path": b"/v1/predict", "root_path": "", "scheme": "http",
    "http_version": "1.1", "server": ("test", 80), "client": ("test", 1),
}  # fmt: skip


def line(name: str, key: str) -> str:
    return f"{name} {hashlib.sha256(key.encode()).hexdigest()}\n"


class Served:
    """An application that echoes the size of a body, behind the middleware."""

    def __init__(self, keys: ApiKeys | None = None, **limits) -> None:
        self.reasons: list[str] = []
        self.finished: list[tuple[str, int]] = []

        async def echo(request: Request) -> PlainTextResponse:
            if "wait" in request.query_params:
                await asyncio.sleep(0.3)
            return PlainTextResponse(str(len(await request.body())))

        async def fail(request: Request) -> PlainTextResponse:
            raise ZeroDivisionError

        def respond(request: Request, problem: Exception) -> Response:
            assert isinstance(problem, Problem)
            return problem.response()

        app = Starlette(
            routes=[
                Route("/v1/predict", echo, methods=["POST"]),
                Route("/healthz", echo),
                Route("/fail", fail),
            ],
            exception_handlers={Problem: respond},
        )
        app.add_middleware(
            RequestLimits, limits=Limits(**limits), keys=keys, rejected=self.reasons.append,
            finished=lambda path, status, seconds: self.finished.append((path, status)),
            traffic=Traffic(),
        )  # fmt: skip
        self.app = app
        self.client = TestClient(app, LOOPBACK)

    def post(self, body: bytes = b"", **headers: str):
        return self.client.post("/v1/predict", content=body, headers=headers)


@pytest.fixture
def keys(tmp_path: Path) -> ApiKeys:
    path = tmp_path / "keys"
    path.write_text("# who may ask\n" + line("lab", "secret") + line("clinic", "other"))
    return ApiKeys(path)


def test_only_known_keys_are_answered_and_health_is_open(keys: ApiKeys):
    served = Served(keys)
    assert served.post().status_code == 401
    refused = served.post(b"", **{"X-API-Key": "Secret"})
    assert refused.status_code == 401
    assert refused.headers["content-type"] == "application/problem+json"
    assert refused.json()["reason"] == "wrong_key"
    assert refused.headers["www-authenticate"].startswith("APIKey ")
    assert served.post(b"", **{"X-API-Key": "secret"}).status_code == 200
    assert served.client.get("/healthz").status_code == 200
    assert served.reasons == ["no_key", "wrong_key"]


def test_a_body_that_is_too_large_is_refused_by_its_header_and_by_its_bytes():
    served = Served(body_bytes=1000)
    assert served.post(b"x" * 1000).text == "1000"
    assert served.post(b"x" * 1001).status_code == 413

    def chunks():
        for _ in range(100):
            yield b"x" * 100

    streamed = served.client.post("/v1/predict", content=chunks())
    assert streamed.status_code == 413
    assert streamed.json()["detail"] == "a request may have 1000 bytes"
    for length in ("-5", "1" * 5000):
        assert served.post(b"", **{"Content-Length": length}).status_code == 400


def test_a_slow_sender_is_told_and_let_go():
    served = Served(receive_seconds=0.2)
    sent: list[dict] = []

    async def receive():
        await asyncio.sleep(0.15)
        return {"type": "http.request", "body": b"x", "more_body": True}

    async def send(message):
        sent.append(message)

    started = time.monotonic()
    asyncio.run(served.app(dict(SCOPE), receive, send))
    assert time.monotonic() - started < 2
    assert sent[0]["status"] == 408
    assert (b"connection", b"close") in sent[0]["headers"]


async def call(served: Served, receive, **headers: str) -> dict:
    """The start of the answer to a request whose messages `receive` gives."""
    sent: list[dict] = []

    async def send(message):
        sent.append(message)

    pairs = [(name.replace("_", "-").encode(), text.encode()) for name, text in headers.items()]
    await served.app(SCOPE | {"headers": [*SCOPE["headers"], *pairs]}, receive, send)
    return sent[0]


def sender(*chunks: bytes, seconds: float = 0.0, stalls: bool = False):
    """Sends chunks, one each so many seconds, and the end of the body unless it stalls."""
    left = list(chunks)

    async def receive():
        if not left:
            await asyncio.sleep(3600)
        await asyncio.sleep(seconds)
        return {
            "type": "http.request", "body": left.pop(0), "more_body": stalls or bool(left),
        }  # fmt: skip

    return receive


def test_a_body_has_more_time_the_more_of_it_has_come():
    served = Served(receive_seconds=0.2, receive_rate=1000)
    sent = asyncio.run(call(served, sender(*[b"x" * 200] * 10, seconds=0.1)))
    assert sent["status"] == 200, "1 s at 2,000 bytes a second"
    started = time.monotonic()
    sent = asyncio.run(call(served, sender(*[b"x" * 50] * 10, seconds=0.1)))
    assert sent["status"] == 408, "500 bytes a second"
    assert time.monotonic() - started < 0.6


def test_stalled_bodies_keep_nobody_else_out(keys: ApiKeys):
    served = Served(keys, in_flight=1, receiving=20, body_bytes=1000, memory_bytes=2000)

    async def attack() -> tuple[list[dict], list[dict]]:
        stalled = [
            asyncio.create_task(call(served, sender(b"x" * 300, stalls=True), x_api_key="secret"))
            for _ in range(70)
        ]
        await asyncio.sleep(0.05)
        good = [
            await call(served, sender(b"x" * 900), x_api_key=key) for key in ("other", "secret")
        ]
        refused = [task.result() for task in stalled if task.done()]
        for task in stalled:
            task.cancel()
        await asyncio.wait(stalled)
        return good, refused

    good, refused = asyncio.run(attack())
    assert [answer["status"] for answer in good] == [200, 503]
    assert {answer["status"] for answer in refused} == {503}
    assert len(refused) == 67, "3 of 300 bytes are half of the memory"
    assert served.post(b"x" * 900, **{"X-API-Key": "secret"}).status_code == 200, "room again"
    assert [status for _, status in served.finished].count(499) == 3, "cancelled: gone"


def test_a_handler_that_waits_before_it_reads_costs_the_sender_no_time():
    served = Served(receive_seconds=0.2)
    answer = served.client.post("/v1/predict?wait=1", content=b"x" * 10)
    assert (answer.status_code, answer.text) == (200, "10")


def test_more_requests_than_allowed_are_told_to_come_back():
    served = Served(in_flight=2)

    async def ask():
        import httpx2

        transport = httpx2.ASGITransport(served.app)
        async with httpx2.AsyncClient(transport=transport, base_url=LOOPBACK) as client:
            return await asyncio.gather(*(client.post("/v1/predict?wait=1") for _ in range(5)))

    answers = asyncio.run(ask())
    assert sorted(answer.status_code for answer in answers) == [200, 200, 503, 503, 503]
    refused = next(answer for answer in answers if answer.status_code == 503)
    assert refused.headers["retry-after"] == "1"
    assert served.post().status_code == 200, "and there is room again"


def test_the_log_has_the_request_and_nothing_of_its_content(caplog, monkeypatch):
    monkeypatch.setattr(guard_module.access_log, "propagate", True)
    served = Served()
    with caplog.at_level(logging.INFO, "leuk_ray.access"):
        answer = served.client.post(
            "/v1/predict?name=patient7", content=b"secret pixels", headers={"X-Request-ID": "abc-1"}
        )
        served.client.post("/v1/predict", headers={"X-Request-ID": "two\twords"})
    first, second = (json.loads(record.message) for record in caplog.records)
    assert answer.headers["x-request-id"] == first["request_id"] == "abc-1"
    assert (first["method"], first["path"], first["status"], first["bytes"]) == (
        "POST", "/v1/predict", 200, 13,
    )  # fmt: skip
    assert "patient7" not in caplog.text
    assert "secret" not in caplog.text
    assert len(second["request_id"]) == 36, "an id that is none is replaced"
    assert served.finished == [("/v1/predict", 200)] * 2


def test_a_hang_up_is_no_failure_of_ours(caplog):
    served = Served()
    sent: list[dict] = []

    async def receive():
        return {"type": "http.disconnect"}

    async def send(message):
        sent.append(message)

    asyncio.run(served.app(dict(SCOPE), receive, send))
    assert sent[0]["status"] == 499
    assert served.finished == [("/v1/predict", 499)]
    assert served.reasons == ["hang_up"]
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


def test_our_own_failure_is_a_problem_without_a_traceback():
    served = Served()
    answer = TestClient(served.app, LOOPBACK, raise_server_exceptions=False).get("/fail")
    assert answer.status_code == 500
    assert answer.json()["reason"] == "internal"
    assert "ZeroDivisionError" not in answer.text


@pytest.mark.parametrize(
    ("headers", "reason"),
    [
        ({"Host": "localhost:8000"}, None),
        ({"Host": "[::1]:8000", "Origin": "http://[::1]:8000"}, None),
        ({"Host": "127.0.0.1:8000", "Origin": "http://127.0.0.1:8000"}, None),
        ({"Host": "rebound.example:8000"}, "host"),
        ({"Host": "localhost.rebound.example"}, "host"),
        ({"Host": "[::1"}, "host"),
        ({"Host": ""}, "host"),
        ({"Origin": "https://other.example"}, "origin"),
        ({"Host": "localhost:8000", "Origin": "http://localhost:3000"}, "origin"),
        ({"Origin": "null"}, "origin"),
    ],
)
def test_without_keys_only_this_machine_and_its_own_page_are_answered(headers, reason):
    served = Served()
    answer = served.post(**headers)
    assert answer.status_code == (403 if reason else 200), answer.text
    assert served.reasons == ([reason] if reason else [])
    assert served.client.get("/healthz", headers=headers).status_code == 200


def test_with_keys_any_host_is_answered(keys: ApiKeys):
    assert (
        Served(keys).post(b"", **{"Host": "cells.example", "X-API-Key": "secret"}).status_code
        == 200
    )


def test_a_packed_body_is_refused_by_its_name():
    answer = Served().post(b"x", **{"Content-Encoding": "gzip"})
    assert (answer.status_code, answer.json()["reason"]) == (415, "content_encoding")
    assert "gzip" in answer.json()["detail"]
    assert answer.headers["accept-encoding"] == "identity"
    assert Served().post(b"x", **{"Content-Encoding": "identity"}).status_code == 200
