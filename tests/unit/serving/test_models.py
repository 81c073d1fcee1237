"""The models behind the HTTP contract: loaded, checked, from a registry."""

import asyncio
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from leuk_ray.bundles.registry import Registry
from leuk_ray.inference.check import check_answers
from leuk_ray.inference.classifier import Classifier, Scores
from leuk_ray.serving import models as models_module
from leuk_ray.serving.schemas import ModelsOut
from leuk_ray.serving.served_model import LocalBackend
from leuk_ray.serving.sources import Found
from leuk_ray.utils.errors import DataError, StorageError, UserError
from tests.support.serving_bundles import (
    cells,
    client_of,
    encode,
    models_from,
    models_of,
    network_here,
    portal_of,
    write_small_bundle,
)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory) -> Path:
    return write_small_bundle(tmp_path_factory.mktemp("served") / "small")


def test_callers_of_a_check_share_one_run(bundle: Path, monkeypatch):
    runs: list[bool] = []
    works = True

    async def check(self: LocalBackend) -> None:
        runs.append(works)
        await asyncio.sleep(0.05)
        if not works:
            raise RuntimeError("the model output is not finite")

    monkeypatch.setattr(LocalBackend, "check", check)

    async def ask() -> None:
        nonlocal works
        models = models_from(bundle)
        await models.start()
        await asyncio.gather(*(models.check() for _ in range(10)))
        await models.check()
        assert runs == [True], "one run, and its success holds for a while"
        monkeypatch.setattr(models_module, "_CHECK_SECONDS", 0)
        works = False
        failed = await asyncio.gather(*(models.check() for _ in range(3)), return_exceptions=True)
        assert runs == [True, False]
        assert [str(error) for error in failed] == ["the model output is not finite"] * 3
        works = True
        await models.check()
        assert runs == [True, False, True], "a failure is not kept"

    asyncio.run(ask())


def test_a_network_without_a_number_answers_nobody(tmp_path: Path):
    path = write_small_bundle(tmp_path / "small")
    with client_of(path) as client:
        runner = portal_of(client).call(models_of(client).get, "small")
        classifier = network_here(runner).classifier
        for parameter in classifier.model.parameters():
            parameter.data.fill_(float("nan"))
        answer = client.post("/v1/predict", content=encode(cells(1)[0]))
        assert (answer.status_code, answer.json()["reason"]) == (500, "no_number")
        (item,) = classifier.predict([("cell.png", encode(cells(1)[0]))])
    assert item.as_dict() == {"name": "cell.png", "error": "the model output is not finite"}


def test_a_registry_answers_by_name_version_and_alias_and_follows_its_champion(tmp_path: Path):
    registry = Registry(tmp_path / "registry", check_answers)
    for seed in (1, 2):
        registry.add(write_small_bundle(tmp_path / f"b{seed}", seed=seed), "one")
    registry.add(write_small_bundle(tmp_path / "b3", seed=3), "two")
    registry.promote("one", 1)
    cell = encode(cells(1)[0])
    with client_of(registry.path, max_models=2) as client:

        def version(query: str = "") -> str:
            answer = client.post(f"/v1/predict{query}", content=cell)
            assert answer.status_code == 200, answer.text
            return answer.json()["model"]["version"]

        assert version() == "1"
        assert version("?model=one@2") == "2"
        assert client.post("/v1/predict?model=two", content=cell).status_code == 404
        assert version("?model=two@1") == "1"
        registry.promote("one", 2)
        seen = set()
        for _ in range(200):
            seen.add(version())
            if "2" in seen:
                break
        assert "2" in seen, "a promotion is followed without a restart"
        registry.promote("two", 1)
        portal_of(client).call(models_of(client)._resolved.clear)
        refused = client.post("/v1/predict", content=cell)
        assert refused.status_code == 422
        assert "one, two" in refused.json()["detail"]


def champions(tmp_path: Path) -> tuple[Registry, bytes]:
    """A registry of two versions, of which the first is the champion, and a cell."""
    registry = Registry(tmp_path / "registry", check_answers)
    for seed in (1, 2):
        registry.add(write_small_bundle(tmp_path / f"b{seed}", seed=seed), "one")
    registry.promote("one", 1)
    return registry, encode(cells(1)[0])


def test_a_new_champion_answers_from_its_first_request_on(tmp_path: Path):
    registry, cell = champions(tmp_path)
    with client_of(registry.path) as client:
        assert client.post("/v1/predict", content=cell).json()["model"]["version"] == "1"
        registry.promote("one", 2)
        models = models_of(client)
        wait(lambda: len(models._loaded) == 2)
        assert client.post("/v1/predict", content=cell).json()["model"]["version"] == "2"


@pytest.mark.parametrize(
    ("kind", "reason"),
    [(DataError, "broken_model"), (RuntimeError, "broken_model"), (StorageError, "storage")],
)
def test_a_champion_that_cannot_be_loaded_leaves_the_old_one_answering(
    kind: type[Exception], reason: str, tmp_path: Path, monkeypatch, caplog
):
    registry, cell = champions(tmp_path)
    loads: list[str] = []
    load = LocalBackend.__init__

    def fails(self: LocalBackend, found: Found, *args) -> None:
        loads.append(found.version)
        if found.version == "2" and broken:
            raise kind("weights of another network")
        load(self, found, *args)

    monkeypatch.setattr(LocalBackend, "__init__", fails)
    monkeypatch.setattr(models_module, "_RESOLVE_SECONDS", 0.05)
    monkeypatch.setattr(models_module, "_BROKEN_SECONDS", (2.0, 2.0))
    broken, told = True, []
    with client_of(registry.path) as client:

        def answer() -> tuple[int, str]:
            answer = client.post("/v1/predict", content=cell)
            return answer.status_code, answer.json()["model"]["version"]

        assert answer() == (200, "1")
        monkeypatch.setattr(models_of(client)._metrics, "broken", lambda *state: told.append(state))
        registry.promote("one", 2)
        wait(lambda: told != [])
        assert {answer() for _ in range(30)} == {(200, "1")}
        refused = client.post("/v1/predict?model=one@2", content=cell)
        assert (refused.status_code, refused.json()["reason"]) == (503, reason)
        assert loads == ["1", "2"], "no load at every request"
        cause = "RuntimeError" if kind is RuntimeError else "weights of another network"
        lines = [r.getMessage() for r in caplog.records if "one@2" in r.getMessage()]
        assert lines == [f"one@2 cannot be loaded: {cause}"]
        broken = False
        wait(lambda: answer() == (200, "2"))
    assert told == [("one", "2", True), ("one", "2", False)]


def wait(holds: Callable[[], bool]) -> None:
    end = time.monotonic() + 20
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_a_network_that_gives_no_number_is_not_loaded(tmp_path: Path, monkeypatch):
    score = Classifier.score

    def nothing(self: Classifier, pixels: np.ndarray) -> Scores:
        scores = score(self, pixels)
        scores.probabilities[:] = np.nan
        return scores

    monkeypatch.setattr(Classifier, "score", nothing)
    with client_of(write_small_bundle(tmp_path / "small")) as client:
        answer = client.post("/v1/predict", content=encode(cells(1)[0]))
    assert (answer.status_code, answer.json()["reason"]) == (503, "broken_model")


def registry_of(folder: Path, *names: str) -> Registry:
    registry = Registry(folder / "registry", check_answers)
    for seed, name in enumerate(names):
        registry.add(write_small_bundle(folder / name, seed=seed), name)
        registry.promote(name, 1)
    return registry


def test_listing_loads_nothing_and_leaves_a_broken_model_out(tmp_path: Path):
    registry = registry_of(tmp_path, "a", "b", "c")
    with client_of(registry.path, max_models=1) as client:
        portal_of(client).call(models_of(client).start)
        (registry.path / "b" / "versions" / "1" / "bundle.json").write_text("{}")
        answer = client.get("/v1/models")
        assert answer.status_code == 200, answer.text
        listed = ModelsOut(**answer.json()).models
        assert [(model.name, model.info.engine) for model in listed] == [
            ("a", "pytorch"), ("c", None),
        ]  # fmt: skip
        assert len(models_of(client)._loaded) == 1
        client.post("/v1/predict?model=c", content=encode(cells(1)[0]))
        again = ModelsOut(**client.get("/v1/models").json()).models
    assert [model.info.engine for model in again] == [None, "pytorch"]
    assert [model.info.fingerprint for model in again] == [m.info.fingerprint for m in listed]


def test_models_load_one_at_a_time(tmp_path: Path, monkeypatch):
    registry = registry_of(tmp_path, "a", "b", "c")
    busy = threading.Lock()
    load = LocalBackend.__init__

    def alone_or_fail(self: LocalBackend, *args) -> None:
        assert busy.acquire(blocking=False), "two loads at once"
        time.sleep(0.05)  # time for the others to begin
        load(self, *args)
        busy.release()

    monkeypatch.setattr(LocalBackend, "__init__", alone_or_fail)

    async def ask() -> None:
        models = models_from(registry.path, max_models=2)
        found = await asyncio.gather(*(models.get(name) for name in ("a", "b", "c", "a")))
        assert [runner.info.name for runner in found] == ["a", "b", "c", "a"]
        assert len(models._loaded) == 2

    asyncio.run(ask())


def test_no_path_of_the_server_is_told(tmp_path: Path, caplog):
    registry = registry_of(tmp_path, "a", "b")
    with client_of(registry.path) as client:
        weights = registry.path / "a" / "versions" / "1" / "model.safetensors"
        weights.write_bytes(weights.read_bytes()[:-1])
        broken = client.post("/v1/predict?model=a", content=b"x")
        absent = [client.post(f"/v1/predict?model={name}", content=b"x") for name in (
            "none", "b@none", "b@01", "b@" + "1" * 150, "b@%C2%B2",
        )]  # fmt: skip
    assert (broken.status_code, broken.json()["detail"]) == (503, "a@1 cannot be loaded")
    for answer in absent:
        assert answer.status_code == 404, answer.text
        assert answer.json()["detail"] == "no such model here; see /v1/models"
    assert str(tmp_path) in caplog.text, "the log knows why"


def test_what_is_no_model_is_refused_before_anything_starts(tmp_path: Path):
    with pytest.raises(UserError, match="nor a registry"):
        client_of(tmp_path)
    Registry(tmp_path / "registry", check_answers).add(write_small_bundle(tmp_path / "b"), "one")
    with pytest.raises(UserError, match="no model has a champion"):
        client_of(tmp_path / "registry")
