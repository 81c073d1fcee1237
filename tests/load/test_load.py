"""Replica kills, a promotion under load, and overload, on a real Ray Serve. On demand.

LEUK_RAY_LOAD_REQUESTS sets how many requests the first test sends (10,000).
"""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import ray
import requests
from ray.util import list_named_actors

from leuk_ray.bundles.registry import Registry
from leuk_ray.cluster import ray_cluster
from leuk_ray.inference.check import check_answers
from leuk_ray.inference.classifier import Classifier
from leuk_ray.inference.onnx_export import export_bundle
from leuk_ray.serving.ray_env import switched_on
from leuk_ray.workflows.trace import ANSWER, verify_trace
from tests.support.serving_bundles import cells, encode, predictions, write_small_bundle

REQUESTS = int(os.environ.get("LEUK_RAY_LOAD_REQUESTS", "10000"))
KILL_SECONDS = 20
CLIENTS = 16
REPLICAS = 2
TRIES = 30
APPLICATION = "load"


@pytest.fixture(scope="module")
def registry(tmp_path_factory) -> Registry:
    folder = tmp_path_factory.mktemp("load")
    registry = Registry(folder / "registry", check_answers)
    for seed in (1, 2):
        plain = write_small_bundle(folder / f"plain{seed}", seed=seed)
        export_bundle(plain, folder / f"bundle{seed}", onnx=True)
        registry.add(folder / f"bundle{seed}", "small")
    registry.promote("small", 1)
    return registry


@pytest.fixture(scope="module")
def trace(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("trace")


@pytest.fixture(scope="module")
def url(registry: Registry, trace: Path):
    with switched_on("127.0.0.1", anonymous=True):
        ray_cluster.connect(num_workers=2)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        # Serve reads the switches when it is imported.
        from ray import serve

        from leuk_ray.serving.app import build

        serve.start(http_options={"host": "127.0.0.1", "port": port})
        args = {"bundle": str(registry.path), "anonymous": True, "replicas": REPLICAS}
        args |= {"limits": {"in_flight": 16}, "trace": str(trace)}
        serve.run(build(args), name=APPLICATION, route_prefix="/")
        yield f"http://127.0.0.1:{port}"
        serve.shutdown()
        ray.shutdown()


@pytest.fixture(scope="module")
def files() -> list[bytes]:
    return [encode(pixels) for pixels in cells(8)]


@pytest.fixture(scope="module")
def expected(registry: Registry, files: list[bytes]) -> dict[str, list[float]]:
    """Probability of each file by each version."""
    found: dict[str, list[float]] = {}
    for version in ("1", "2"):
        classifier = Classifier.load(registry.resolve(f"small@{version}"))
        answers = predictions(classifier.predict([("cell", data) for data in files]))
        found[version] = [a.probability for a in answers if a.probability is not None]
    assert np.abs(np.subtract(found["1"], found["2"])).min() > 1e-3, "the versions differ"
    return found


class Client:
    """Sends one image until it is answered, and counts what it met on the way."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.met: Counter[str] = Counter()
        self.lines: list[tuple[str, dict]] = []
        self._local = threading.local()

    def ask(self, data: bytes) -> dict:
        """The answer; a 503 is asked again when it says, and what was cut off at once.

        HAProxy asks another replica for what a killed one left unanswered, but now and then it
        closes the client's connection instead (benchmarks/results/load.json).
        """
        for _ in range(TRIES):
            try:
                answer = self._session().post(f"{self.url}/v1/predict", data=data, timeout=30)
            except (requests.ConnectionError, requests.exceptions.ChunkedEncodingError):
                self.met["closed"] += 1
                continue
            self.met[str(answer.status_code)] += 1
            if answer.status_code == 200:
                self.lines.append((answer.headers["x-trace-line"], answer.json()))
                return answer.json()
            assert answer.status_code == 503, f"{answer.status_code} {answer.text}"
            time.sleep(float(answer.headers["retry-after"]))
        raise AssertionError(f"not answered in {TRIES} tries: {self.met}")

    def _session(self) -> requests.Session:
        if not hasattr(self._local, "session"):
            self._local.session = requests.Session()
        return self._local.session


def check(answer: dict, number: int, expected: dict[str, list[float]]) -> str:
    """The version that answered, if its answer is right."""
    version = answer["model"]["version"]
    right = expected[version][number]
    assert answer["predictions"][0]["probability"] == pytest.approx(right, abs=1e-4)
    return version


def replicas() -> list[str]:
    named: list[Any] = list_named_actors(all_namespaces=True)  # of all, dicts
    return [a["name"] for a in named if a["name"].startswith(f"SERVE_REPLICA::{APPLICATION}#")]


@contextmanager
def every(seconds: float, act: Callable[[], None]) -> Generator[None]:
    done = threading.Event()

    def loop() -> None:
        while not done.wait(seconds):
            act()

    thread = threading.Thread(target=loop)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


@pytest.mark.timeout(3600)
def test_killed_replicas_lose_and_spoil_no_answer(url: str, trace: Path, files, expected):
    client = Client(url)
    killed: list[str] = []

    def kill() -> None:
        alive = replicas()
        if len(alive) == REPLICAS:  # the one before is back
            ray.kill(ray.get_actor(alive[0], namespace="serve"))
            killed.append(alive[0])

    def ask(i: int) -> str:
        return check(client.ask(files[i % len(files)]), i % len(files), expected)

    started = time.monotonic()
    with every(KILL_SECONDS, kill), ThreadPoolExecutor(CLIENTS) as pool:
        versions = Counter(pool.map(ask, range(REQUESTS)))
    seconds = time.monotonic() - started
    print(f"{REQUESTS} requests, {seconds:.0f} s, {len(killed)} kills, met {dict(client.met)}")
    assert versions == {"1": REQUESTS}
    assert set(client.met) <= {"200", "503", "closed"}
    assert client.met["closed"] <= len(killed) * CLIENTS
    if seconds > 2 * KILL_SECONDS:
        assert killed
    check_traced(trace, client.lines, len(killed))


def check_traced(folder: Path, given: list[tuple[str, dict]], kills: int) -> None:
    """Each answer that arrived has a line of its own; others were on their way at a kill."""
    verified = verify_trace(folder)
    traced: dict[str, dict] = {}
    for path in folder.glob("*.jsonl"):
        for line in map(json.loads, path.read_bytes().splitlines()):
            if line["kind"] == ANSWER:
                traced[f"{path.name.partition('.')[0]}:{line['number']}"] = line["answer"]
    assert len({name for name, _ in given}) == len(given)
    for name, answer in given:
        (image,) = traced[name]["images"]
        assert image["probabilities"] == answer["predictions"][0]["probabilities"]
    unsent = len(traced) - len(given)
    states = Counter(chain["state"] for chain in verified["chains"])
    print(f"trace: {len(given)} answers a line each, {unsent} not delivered, chains {dict(states)}")
    assert 0 <= unsent <= kills * 16
    assert states["ended"] <= kills


@pytest.mark.timeout(600)
def test_a_promotion_under_load_fails_nobody(url: str, files, expected, registry: Registry):
    client = Client(url)
    count = max(200, REQUESTS // 10)

    def ask(i: int) -> str:
        if i == count // 3:
            registry.promote("small", 2)
        return check(client.ask(files[i % len(files)]), i % len(files), expected)

    with ThreadPoolExecutor(CLIENTS) as pool:
        versions = Counter(pool.map(ask, range(count)))
    assert set(client.met) <= {"200", "503"}, client.met
    end = time.monotonic() + 20
    while check(client.ask(files[0]), 0, expected) != "2":
        assert time.monotonic() < end, "the new champion never answers"
    print(f"answers by version: {dict(versions)}")
    registry.rollback("small")


@pytest.mark.timeout(600)
def test_overload_is_refused_and_passes(url: str, files):
    end = time.monotonic() + 120
    while len(replica_processes()) < REPLICAS:  # one may have been killed just before
        assert time.monotonic() < end
        time.sleep(1)
    before = replica_bytes()
    clients = 3 * REPLICAS * 16
    accepted: list[float] = []
    statuses: Counter[int] = Counter()
    end = time.monotonic() + 15

    def flood(_: int) -> None:
        with requests.Session() as session:
            while time.monotonic() < end:
                started = time.monotonic()
                answer = session.post(f"{url}/v1/predict", data=files[0], timeout=60)
                statuses[answer.status_code] += 1
                if answer.status_code == 200:
                    accepted.append(time.monotonic() - started)

    with ThreadPoolExecutor(clients) as pool:
        list(pool.map(flood, range(clients)))
    grown, slow = replica_bytes() - before, float(np.quantile(accepted, 0.99))
    print(f"{dict(statuses)}, p99 of accepted {slow:.2f} s, memory +{grown / 2**20:.0f} MiB")
    assert set(statuses) == {200, 503}
    assert slow < 10
    assert grown < 300 * 2**20
    time.sleep(10)
    started = time.monotonic()
    assert requests.post(f"{url}/v1/predict", data=files[0], timeout=10).status_code == 200
    assert time.monotonic() - started < 1


def replica_processes() -> list[psutil.Process]:
    """The replicas, which are descendants of this process."""
    return [
        child
        for child in psutil.Process().children(recursive=True)
        if any("ServeReplica" in word for word in child.cmdline())
    ]


def replica_bytes() -> int:
    """Resident memory of the replicas."""
    found = replica_processes()
    assert len(found) == REPLICAS
    return sum(child.memory_info().rss for child in found)
