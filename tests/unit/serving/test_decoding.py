"""Files that take long to decode, on the application without Ray: nobody else is to notice."""

from __future__ import annotations

import asyncio
import io
import resource
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import numpy as np
import psutil
import pytest
import requests
from PIL import Image

from leuk_ray.bundles.manifest import read_manifest
from leuk_ray.datasets.images import BadImageError
from leuk_ray.inference.classifier import Cell, PrePostProcessor
from leuk_ray.serving import decoding, models
from leuk_ray.serving.decoding import Decoding
from leuk_ray.serving.errors import Problem
from tests.support.serving_bundles import cells, client_of, encode, listening, write_small_bundle

JPEG = encode(cells(1)[0], "JPEG")
# Pillow reads markers one by one, in Python: 1 s for 6 MB.
BOMB = JPEG[:2] + 1_500_000 * b"\xff\xfe\0\2" + JPEG[2:]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory) -> Path:
    return write_small_bundle(tmp_path_factory.mktemp("decoding") / "small")


@pytest.fixture
def processor(bundle: Path) -> PrePostProcessor:
    return PrePostProcessor(read_manifest(bundle))


def decoders() -> list[psutil.Process]:
    """The processes that decode for this one."""
    found = []
    for child in psutil.Process().children():
        with suppress(psutil.NoSuchProcess):
            if "leuk_ray.serving.decoder" in child.cmdline():
                found.append(child)
    return found


def slow(kind: str) -> bytes:
    out = io.BytesIO()
    options = {"progressive": True} if kind == "JPEG" else {"lossless": True}
    Image.fromarray(cells(1)[0]).save(out, kind, **options)
    return out.getvalue()


def test_a_process_gives_the_pixels_and_errors_of_a_thread(processor: PrePostProcessor):
    files = [slow("JPEG"), slow("WEBP"), slow("JPEG")[:-2000], b"no image", b"", JPEG]
    named = [(str(number), data) for number, data in enumerate(files)]
    before = len(decoders())
    read = asyncio.run(Decoding().read(processor, named, "lab"))
    assert len(decoders()) <= before + 1, "a request has one at a time"
    for item, (name, data) in zip(read, named, strict=True):
        if isinstance(item, BadImageError):
            with pytest.raises(BadImageError) as caught:
                processor.read(name, data)
            assert (item.reason, item.detail) == (caught.value.reason, caught.value.detail)
            continue
        expected = processor.read(name, data)
        assert np.array_equal(item.pixels, expected.pixels)
        assert (item.sha256, item.features) == (expected.sha256, expected.features)
    assert [isinstance(item, Cell) for item in read] == [True, True, False, False, False, True]


def test_nobody_waits_for_a_neighbours_bad_files(bundle: Path, monkeypatch):
    monkeypatch.setattr(decoding, "_FILE_SECONDS", 0.3)
    good, webp = encode(cells(1)[0]), slow("WEBP")
    with listening(bundle) as url, ThreadPoolExecutor(4) as pool:

        def ask(*files: bytes) -> requests.Response:
            upload = [("file", (str(number), data)) for number, data in enumerate(files)]
            return requests.post(f"{url}/v1/predict", files=upload, timeout=60)

        assert ask(good, webp).ok  # warm
        bad = [pool.submit(ask, BOMB, BOMB, good) for _ in range(2)]
        waited = []
        while not all(request.done() for request in bad):
            for files in ((good,), (webp,)):
                started = time.monotonic()
                assert ask(*files).ok
                waited.append(time.monotonic() - started)
            assert requests.get(f"{url}/readyz", timeout=10).ok
    assert len(waited) >= 4
    assert np.quantile(waited, 0.9) < 2, "s; a busy machine may hold up a few"
    for request in bad:
        *bombs, last = request.result().json()["predictions"]
        assert {item["error"].partition(":")[0] for item in bombs} == {"too_slow"}
        assert "label" in last


def test_the_files_of_a_request_have_seconds_together(processor: PrePostProcessor, monkeypatch):
    monkeypatch.setattr(decoding, "_FILE_SECONDS", 0.3)
    monkeypatch.setattr(decoding, "_REQUEST_SECONDS", 0.5)
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    named = [(str(number), BOMB) for number in range(20)]
    read = asyncio.run(Decoding().read(processor, named, "lab"))
    assert {item.reason for item in read if isinstance(item, BadImageError)} == {"too_slow"}
    assert len(read) == 20
    spent = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before
    assert spent < 4, "s; half a second of work, and the starts of two processes"


def test_work_ends_when_its_sender_goes_away(processor: PrePostProcessor):
    async def hang_up() -> tuple[int, int]:
        reading = asyncio.create_task(Decoding().read(processor, [("a", BOMB)] * 2, "lab"))
        await asyncio.sleep(0.8)
        working = len(decoders()) - before
        reading.cancel()
        with suppress(asyncio.CancelledError):
            await reading
        await asyncio.sleep(0.3)
        return working, len(decoders()) - before

    before = len(decoders())
    assert asyncio.run(hang_up()) == (1, 0)


def test_too_many_pixels_and_too_many_waiting_are_told(
    bundle, processor: PrePostProcessor, monkeypatch
):
    large = encode(np.zeros((2800, 2900, 3), np.uint8))
    with client_of(bundle) as client:
        answer = client.post("/v1/predict", files=[("file", (str(n), large)) for n in range(9)])
    assert (answer.status_code, answer.json()["reason"]) == (413, "pixels")

    monkeypatch.setattr(decoding, "_WAITING", 4)

    async def crowd() -> list[object]:
        shared, webp = Decoding(), [("a", slow("WEBP"))]
        asked = [shared.read(processor, webp, holder) for holder in ("lab", "lab", "lab", "clinic")]
        return await asyncio.gather(*asked, return_exceptions=True)

    *_, third, clinic = asyncio.run(crowd())
    assert isinstance(third, Problem)
    assert (third.status, third.headers) == (503, {"Retry-After": "1"})
    assert isinstance(clinic, list), "one key has half of the places"


def test_readiness_tells_when_answers_take_long(bundle: Path, monkeypatch):
    monkeypatch.setattr(models, "_READY_SECONDS", 0.3)
    monkeypatch.setattr(models, "_CHECK_SECONDS", 0.0)
    with client_of(bundle) as client:
        assert client.post("/v1/predict", content=JPEG).status_code == 200
        assert client.get("/readyz").status_code == 200
        plain = PrePostProcessor.read
        monkeypatch.setattr(
            PrePostProcessor, "read", lambda *given: (time.sleep(0.7), plain(*given))[1]
        )
        for path in ("/readyz", "/v2/health/ready"):
            answer = client.get(path)
            assert (answer.status_code, answer.json()["reason"]) == (503, "not_ready")
        assert client.get("/healthz").status_code == 200
