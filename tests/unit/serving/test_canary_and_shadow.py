"""Versions beside the champion, through the HTTP application; without Ray."""

from __future__ import annotations

import json
import logging
import statistics
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from starlette.testclient import TestClient

from leuk_ray.bundles.registry import Registry
from leuk_ray.inference.check import check_answers
from leuk_ray.inference.classifier import Classifier
from leuk_ray.inference.predictions import Prediction
from leuk_ray.serving import shadow as shadow_module
from leuk_ray.serving.routing import Canaries, check_beside, parse_canary
from leuk_ray.serving.settings import ServeSettings
from leuk_ray.serving.sources import open_source
from leuk_ray.utils.errors import UserError
from tests.support.serving_bundles import (
    cells,
    client_of,
    encode,
    models_of,
    predictions,
    write_small_bundle,
)


@pytest.fixture(scope="module")
def registry(tmp_path_factory) -> Registry:
    """`small` in three versions; the first is the champion, the third calls all cells ALL."""
    folder = tmp_path_factory.mktemp("beside")
    registry = Registry(folder / "registry", check_answers)
    for seed, threshold in ((1, 0.5), (2, 0.5), (3, 0.0)):
        bundle = write_small_bundle(folder / f"b{seed}", seed=seed, threshold=threshold)
        registry.add(bundle, "small")
    registry.promote("small", 1)
    registry.promote("small", 3, "candidate")
    return registry


CELL = encode(cells(1)[0])


def version(client: TestClient, request_id: str, path: str = "/v1/predict") -> str:
    answer = client.post(path, content=CELL, headers={"X-Request-ID": request_id})
    assert answer.status_code == 200, answer.text
    return answer.json()["model"]["version"]


def test_a_canary_answers_its_share_and_a_repeated_request_meets_the_same_version(registry):
    with client_of(registry.path, canaries={"small@2": 0.3}) as client:
        first = [version(client, f"request-{i}") for i in range(120)]
        again = [version(client, f"request-{i}") for i in range(30)]
        named = {version(client, f"request-{i}", "/v1/predict?model=small@1") for i in range(20)}
        listed = client.get("/v1/models").json()["models"][0]
    counts = Counter(first)
    # 36 expected of 120; binomial standard deviation 5.
    assert set(counts) == {"1", "2"}
    assert 16 <= counts["2"] <= 56
    assert again == first[:30]
    assert named == {"1"}, "who names a version gets it"
    assert listed["canaries"] == {"2": 0.3}


def test_an_answer_of_the_canary_is_its_own(registry: Registry):
    data = CELL
    with client_of(registry.path, canaries={"small@candidate": 1.0}) as client:
        answer = client.post("/v1/predict?model=small", content=data).json()
        v2 = client.get("/v2/models/small/versions/1").json()
    (expected,) = Classifier.load(registry.resolve("small@3")).predict([("image", data)])
    assert isinstance(expected, Prediction)
    assert answer["model"]["version"] == "3", "an alias is followed"
    assert answer["predictions"][0]["probability"] == pytest.approx(expected.probability, abs=1e-5)
    assert v2["name"] == "small"


def test_shares_are_exact_and_independent_of_each_other():
    canaries = Canaries({"a@1": 0.1, "a@2": 0.2, "b@1": 0.5})
    counts = Counter(canaries.chosen("a", str(i)) for i in range(20_000))
    # Standard deviations: 42 and 57.
    assert counts["a@1"] == pytest.approx(2000, abs=200)
    assert counts["a@2"] == pytest.approx(4000, abs=250)
    assert canaries.chosen("a@7", "x") is None
    assert canaries.chosen("c", "x") is None


def test_a_canary_that_breaks_costs_nobody_an_answer(tmp_path: Path, caplog):
    registry = Registry(tmp_path / "registry", check_answers)
    for seed in (1, 2):
        registry.add(write_small_bundle(tmp_path / f"b{seed}", seed=seed), "small")
    registry.promote("small", 1)
    with client_of(registry.path, canaries={"small@2": 1.0}) as client:
        (registry.path / "small" / "versions" / "2" / "model.safetensors").write_bytes(b"")
        assert {version(client, str(i)) for i in range(5)} == {"1"}
    assert "canary small@2 does not answer" in caplog.text


def wait_for(client: TestClient, count: int) -> shadow_module.Compared:
    end = time.monotonic() + 20
    while True:
        (compared,) = models_of(client).shadows.seen.values()
        if compared.compared + compared.failed >= count:
            return compared
        assert time.monotonic() < end, compared
        time.sleep(0.02)


def test_a_shadow_is_compared_counted_and_logged(registry: Registry, monkeypatch, caplog):
    monkeypatch.setattr(shadow_module, "_LOG_SECONDS", 0.0)
    files = [(f"{i}.png", encode(pixels)) for i, pixels in enumerate(cells(4))]
    champion, shadow = (
        predictions(Classifier.load(registry.resolve(f"small@{version}")).predict(files))
        for version in (1, 3)
    )
    first, second = (np.asarray([one.probability for one in side]) for side in (champion, shadow))
    differences = np.abs(first - second).tolist()
    changes = sum(a.label != b.label for a, b in zip(champion, shadow, strict=True))
    assert changes > 0
    with (
        caplog.at_level(logging.INFO, "leuk_ray.shadow"),
        client_of(registry.path, shadows=("small@3",)) as client,
    ):
        broken = ("broken.png", b"no image")
        upload = [("file", file) for file in [broken, *files]]
        answer = client.post("/v1/predict", files=upload).json()
        client.post("/v1/predict?model=small@2", content=files[0][1])
        compared = wait_for(client, 4)
        time.sleep(0.1)
        assert compared.compared == 4, "what names a version is not compared"
        assert answer["model"]["version"] == "1", "the caller sees nothing of it"
        assert client.get("/v1/models").json()["models"][0]["shadows"] == ["3"]
    line = json.loads(caplog.records[-1].message)
    assert (line["model"], line["version"], line["shadow"]) == ("small", "1", "3")
    assert (line["compared"], line["label_changes"], line["failed"]) == (4, changes, 0)
    assert line["max_difference"] == pytest.approx(max(differences), abs=1e-5)
    assert line["sum_difference"] == pytest.approx(sum(differences), abs=1e-5)


def test_a_shadow_that_fails_or_falls_behind_costs_nobody_an_answer(registry, monkeypatch, caplog):
    data = CELL
    with client_of(registry.path, shadows=("small@3",)) as client:
        named = "MEIER.png"

        async def fail(*_) -> None:
            raise ZeroDivisionError(named)

        monkeypatch.setattr(models_of(client).shadows, "_compare", fail)
        assert client.post("/v1/predict", content=data).status_code == 200
        assert wait_for(client, 1).failed == 1
        time.sleep(0.1)
        assert "gave no answer" in caplog.text
        assert "ZeroDivisionError" in caplog.text
        assert "MEIER" not in caplog.text
        monkeypatch.setattr(shadow_module, "_WAITING", 3)
        traffic = models_of(client).traffic
        traffic.begin()  # never quiet
        for _ in range(5):
            assert client.post("/v1/predict", content=data).status_code == 200
        (compared,) = models_of(client).shadows.seen.values()
        traffic.end()
        assert compared.dropped == 2


def test_a_shadow_costs_its_callers_less_than_a_millisecond(registry: Registry, monkeypatch):
    """What `offer` takes, and requests in pairs: one with a shadow, one that names its version."""
    offer, offering = shadow_module.Shadows.offer, []

    def timed(self, *args) -> None:
        started = time.perf_counter()
        offer(self, *args)
        offering.append(time.perf_counter() - started)

    monkeypatch.setattr(shadow_module.Shadows, "offer", timed)
    differences: list[float] = []
    with client_of(registry.path, shadows=("small@3",)) as client:
        for turn in range(120):
            taken: dict[str, float] = {}
            for query in sorted(("small", "small@1"), reverse=bool(turn % 2)):
                started = time.perf_counter()
                assert client.post(f"/v1/predict?model={query}", content=CELL).status_code == 200
                taken[query] = time.perf_counter() - started
            differences.append(taken["small"] - taken["small@1"])
        assert wait_for(client, 120).compared == 120
    inside, whole = statistics.median(offering), statistics.median(differences)
    print(f"a shadow takes {1e3 * inside:.3f} ms of a request; in pairs {1e3 * whole:.2f} ms")
    assert len(offering) == 120
    assert inside < 1e-3
    assert whole < 5e-3, "far above the noise of a machine that others use too"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"canaries": {"small": 0.1}}, "name a version"),
        ({"canaries": {"other@1": 0.1}}, "only what answers has one: small"),
        ({"shadows": ("small@9",)}, "there is no such version"),
    ],
)
def test_what_cannot_be_beside_is_refused(changes: dict, message: str, registry: Registry):
    settings = ServeSettings(bundle=str(registry.path), anonymous=True, **changes)
    with pytest.raises(UserError, match=message):
        check_beside(open_source(registry.path), settings.canaries, settings.shadows)


@pytest.mark.parametrize("shares", [{"a@1": 0.0}, {"a@1": 1.1}, {"a@1": 0.6, "a@2": 0.6}])
def test_shares_that_are_none_are_refused(shares: dict[str, float]):
    with pytest.raises(ValueError, match="at most 1 together"):
        ServeSettings(bundle="x", anonymous=True, canaries=shares)


def test_a_canary_on_the_command_line():
    assert parse_canary("cells@2=0.1") == ("cells@2", 0.1)
    with pytest.raises(UserError, match="NAME@VERSION=SHARE"):
        parse_canary("cells@2")
