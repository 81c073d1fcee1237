"""What a sender may do on purpose, on the application without Ray: nobody else is to notice."""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import tempfile
import time
from pathlib import Path

import httpx2
import numpy as np
import pytest
from fastapi import FastAPI

from leuk_ray.inference.classifier import PrePostProcessor
from leuk_ray.serving import middleware
from leuk_ray.serving.api import create_api
from leuk_ray.serving.monitoring import Metrics
from leuk_ray.serving.settings import Limits
from tests.support.serving_bundles import cells, client_of, encode, models_from, write_small_bundle

MIB = 2**20


@pytest.fixture(scope="module")
def bundle(tmp_path_factory) -> Path:
    return write_small_bundle(tmp_path_factory.mktemp("hostile") / "small")


@pytest.fixture(scope="module")
def client(bundle: Path):
    with client_of(bundle) as client:
        yield client


async def longest_block(
    api: FastAPI, body: bytes, headers: dict[str, str]
) -> tuple[float, httpx2.Response]:
    """The longest time, s, that nothing else ran while the application answered a request."""
    longest = 0.0

    async def tick() -> None:
        nonlocal longest
        while True:
            before = time.monotonic()
            await asyncio.sleep(0.01)
            longest = max(longest, time.monotonic() - before)

    transport = httpx2.ASGITransport(api)
    async with httpx2.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
        await client.get("/v2/models/small")  # loads it
        ticking = asyncio.create_task(tick())
        answer = await client.post("/v2/models/small/infer", content=body, headers=headers)
        await asyncio.sleep(0.02)
        ticking.cancel()
    return longest, answer


def many_values() -> tuple[bytes, dict[str, str]]:
    return b'{"inputs": [' + b"[]," * (20 * MIB) + b"[]]}", {}


def many_empty_files() -> tuple[bytes, dict[str, str]]:
    tail = bytes(60 * MIB)  # 15 million elements of length 0
    tensor = {"name": "image", "shape": [1], "datatype": "BYTES"}
    head = json.dumps(
        {"inputs": [tensor | {"parameters": {"binary_data_size": len(tail)}}]}
    ).encode()
    return head + tail, {"Inference-Header-Content-Length": str(len(head))}


def one_long_text() -> tuple[bytes, dict[str, str]]:
    text = "\\n" * (30 * MIB)
    return f'{{"id": "{text}", "inputs": []}}'.encode(), {}


@pytest.mark.parametrize(
    ("request_of", "detail"),
    [
        (many_values, "too many values"),
        (many_empty_files, "1 to 64 files"),
        (one_long_text, "give one input"),
    ],
)
def test_nobody_waits_while_a_large_v2_body_is_parsed(bundle: Path, request_of, detail: str):
    api = create_api(models_from(bundle), Limits(), None, Metrics())
    longest, answer = asyncio.run(longest_block(api, *request_of()))
    assert (answer.status_code, detail in answer.json()["detail"]) == (400, True), answer.text
    assert longest < 2, "s; a thread alone is not enough: a JSON parser keeps the others waiting"


def one_file() -> dict:
    data = base64.b64encode(encode(cells(1)[0])).decode()
    return {"name": "image", "shape": [1], "datatype": "BYTES", "data": [data]}


@pytest.mark.parametrize("depth", [150, 900, 1_000_000])
def test_deep_json_is_a_problem_document(client, depth: int):
    deep = "[" * depth + "]" * depth
    text = f'{{"inputs": [{json.dumps(one_file())}], "outputs": [{{"name": {deep}}}]}}'
    answer = client.post("/v2/models/small/infer", content=text)
    assert answer.status_code == 400, answer.text
    assert answer.headers["content-type"] == "application/problem+json"


def test_half_a_surrogate_pair_is_no_text(client):
    text = json.dumps({"id": "\ud800", "inputs": [one_file()]})
    answer = client.post("/v2/models/small/infer", content=text)
    assert (answer.status_code, answer.json()["detail"]) == (400, "the request is no JSON")


def form_of(name: str, data: bytes, charset: str) -> tuple[bytes, dict[str, str]]:
    head = f'--x\r\nContent-Disposition: form-data; name="file"; filename="{name}"\r\n\r\n'
    kind = f"multipart/form-data; boundary=x; charset={charset}"
    return head.encode() + data + b"\r\n--x--\r\n", {"Content-Type": kind}


@pytest.mark.parametrize(
    "charset", ["utf-7", "idna", "punycode", "unicode_escape", "undefined", "base64", '"a\\"b"']
)
def test_a_form_in_a_charset_that_is_none_is_a_problem(client, charset: str):
    body, headers = form_of("Ann+2AA- M\\ud800.png", encode(cells(1)[0]), charset)
    answer = client.post("/v1/predict", content=body, headers=headers)
    assert (answer.status_code, answer.json()["reason"]) == (415, "charset"), answer.text
    body, headers = form_of("a.png", encode(cells(1)[0]), "UTF-8")
    assert client.post("/v1/predict", content=body, headers=headers).status_code == 200


def test_an_upload_stays_in_memory(client, tmp_path: Path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "no such folder"))
    large = encode(np.random.default_rng(0).integers(0, 256, (900, 900, 3), np.uint8), "BMP")
    assert len(large) > 2 * MIB  # Starlette's own limit is 1
    answer = client.post("/v1/predict", files=[("file", ("a.bmp", large))])
    assert answer.status_code == 200, answer.text


def test_nothing_that_is_sent_reaches_the_logs(client, caplog, monkeypatch):
    monkeypatch.setattr(middleware.access_log, "propagate", True)
    caplog.set_level(logging.DEBUG)
    image = encode(cells(1)[0])
    for path in (
        "/v1/predict?model=MEIER-1", "/v1/MEIER-2", "/v2/models/MEIER-3/infer",
        "/v1/predict?MEIER-4=1",
    ):  # fmt: skip
        client.post(path, content=image)
    client.request("MEIER", "/v1/predict")

    def fail(_: PrePostProcessor, name: str, data: bytes) -> None:
        raise ValueError(name)

    monkeypatch.setattr(PrePostProcessor, "read", fail)
    answer = client.post("/v1/predict", files=[("file", ("MEIER-5.png", image))])
    assert answer.status_code == 500
    lines = [r.getMessage() for r in caplog.records if r.name.startswith("leuk_ray")]
    assert any("ValueError" in line for line in lines)
    assert sum('"path": "/v1/predict"' in line for line in lines) == 4
    assert any("/v2/models/{name}/infer" in line for line in lines)
    assert "MEIER" not in "\n".join(lines)
