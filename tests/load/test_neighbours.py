"""Hostile neighbours on `leuk-ray serve`: others get their answers as fast as before. On demand.

LEUK_RAY_LOAD_SECONDS sets how long each part takes (20).
"""

from __future__ import annotations

import io
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import requests
from PIL import Image

from tests.support.service_process import GOOD, KEY, OTHER_KEY, Service, serving

SECONDS = float(os.environ.get("LEUK_RAY_LOAD_SECONDS", "20"))
CLIENTS = 8
EVERY = 100  # good requests for one bomb
SOURCE = "127.0.0.7"  # of the neighbours
MIB = 2**20
STALLED = Path(__file__).parents[1] / "support" / "stalled.py"


def encode(pixels: np.ndarray, kind: str, **options) -> bytes:
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, kind, **options)
    return out.getvalue()


def bombs() -> dict[str, bytes]:
    """Images that take seconds, or are as large as an image may be."""
    noise = np.random.default_rng(0).integers(0, 256, (1000, 1000, 3), np.uint8)
    large = np.tile(noise, (5, 6, 1))
    jpeg = encode(noise[:300, :300], "JPEG")
    return {
        "JPEG of 3 million markers": jpeg[:2] + 3_000_000 * b"\xff\xfe\0\2" + jpeg[2:],
        "progressive JPEG of 30 million pixels": encode(large, "JPEG", progressive=True),
        "WebP of 30 million pixels": encode(np.zeros_like(large), "WEBP"),
        "PNG of 30 million pixels": encode(np.zeros_like(large), "PNG"),
    }


@pytest.fixture(scope="module")
def service(tmp_path_factory) -> Iterator[Service]:
    with serving(tmp_path_factory.mktemp("neighbours")) as service:
        for data in bombs().values():  # what decodes them is started when it is needed
            requests.post(f"{service.url}/v1/predict", data=data, headers=OTHER_KEY, timeout=60)
        yield service


def good_requests(service: Service, each: Callable[[int], None] = lambda _: None) -> list[float]:
    """Seconds of the good requests of a few clients, all answered; `each` is told their numbers."""
    seconds: list[float] = []
    end = time.monotonic() + SECONDS

    def client(_: int) -> None:
        with requests.Session() as session:
            while time.monotonic() < end:
                started = time.monotonic()
                answer = session.post(
                    f"{service.url}/v1/predict", data=GOOD, headers=KEY, timeout=30
                )
                seconds.append(time.monotonic() - started)
                assert answer.status_code == 200, answer.text
                each(len(seconds))

    with ThreadPoolExecutor(CLIENTS) as pool:
        list(pool.map(client, range(CLIENTS)))
    return seconds


def memory(service: Service) -> float:
    """MiB of the replica, what decodes for it, and HAProxy."""
    found = [
        p for word in ("Classify", "serving.decoder", "haproxy") for p in service.processes(word)
    ]
    return sum(process.memory_info().rss for process in set(found)) / MIB


def report(what: str, seconds: list[float]) -> float:
    median, late = np.quantile(seconds, (0.5, 0.99))
    rate = len(seconds) / SECONDS
    print(f"{what}: {rate:.0f} requests/s, median {1000 * median:.0f} ms, p99 {1000 * late:.0f} ms")
    return float(late)


@pytest.mark.timeout(600)
def test_one_bomb_in_a_hundred_requests(service: Service):
    """Another key sends them; the 99th percentile at most doubles, and memory is flat."""
    good_requests(service)
    alone = report("alone", good_requests(service))
    kinds = list(bombs().items())
    told: Counter[tuple[str, str]] = Counter()
    before = memory(service)
    with ThreadPoolExecutor(8) as pool:

        def send(number: int) -> None:
            what, data = kinds[number % len(kinds)]
            answer = requests.post(
                f"{service.url}/v1/predict", data=data, headers=OTHER_KEY, timeout=120
            )
            error = answer.json().get("detail", "answered").partition(":")[0]
            told[what, f"{answer.status_code} {error}"] += 1

        def each(number: int) -> None:
            if number % EVERY == 0:
                pool.submit(send, number // EVERY)

        beside = report("beside bombs", good_requests(service, each))
    for (what, how), count in sorted(told.items()):
        print(f"  {what}: {how}, {count} times")
    grown = memory(service) - before
    print(f"memory {before:.0f} MiB, {grown:+.0f} MiB")
    assert told.total() >= 5
    assert {status for _, status in told if status.startswith("5")} <= {
        "503 too many images at once"
    }
    assert beside < 2 * alone + 0.02
    assert grown < 100


@contextmanager
def attack(service: Service, count: int, data: bytes) -> Generator[None]:
    """Connections from one address that send this and no more; see `tests/support/stalled.py`."""
    command = [sys.executable, str(STALLED), str(service.port), SOURCE, str(count)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE)
    assert process.stdin is not None
    process.stdin.write(data)
    process.stdin.close()
    time.sleep(3)
    try:
        yield
        assert process.poll() is None
    finally:
        process.kill()
        process.wait()


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("count", "head", "body"),
    [
        (1000, "", b""),
        (70, "X-API-Key: other\r\nContent-Length: 3000000\r\n", bytes(2_000_000)),
        (200, "X-API-Key: wrong\r\nContent-Length: 901000\r\n", bytes(900_000)),
    ],
    ids=["idle connections", "stalled bodies with a key", "bodies with a wrong key"],
)
def test_stalled_connections_of_one_address(service: Service, count: int, head: str, body: bytes):
    alone, before = report("alone", good_requests(service)), memory(service)
    start = f"POST /v1/predict HTTP/1.1\r\nHost: x\r\n{head}\r\n" if head else ""
    with attack(service, count, start.encode() + body):
        beside = report("beside them", good_requests(service))
        grown = memory(service) - before
    print(f"memory {grown:+.0f} MiB")
    assert beside < 2 * alone + 0.1
    assert grown < 350
