"""Reading here, scoring in another deployment: the same answers; deployments without a cluster."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from ray import serve
from ray.exceptions import RayActorError
from ray.serve.exceptions import BackPressureError
from starlette.testclient import TestClient

from leuk_ray.bundles.registry import Registry
from leuk_ray.inference.check import check_answers
from leuk_ray.inference.classifier import Classifier
from leuk_ray.inference.predictions import Prediction
from leuk_ray.serving.api import create_api
from leuk_ray.serving.app import Predict
from leuk_ray.serving.models import Models
from leuk_ray.serving.monitoring import Metrics
from leuk_ray.serving.replica import RemoteBackend, remote_runners
from leuk_ray.serving.settings import Limits, ServeSettings
from tests.support.serving_bundles import LOOPBACK, cells, encode, portal_of, write_small_bundle

FILES = [(f"{i}.png", encode(pixels)) for i, pixels in enumerate(cells(3))]


@pytest.fixture(scope="module")
def registry(tmp_path_factory) -> Registry:
    folder = tmp_path_factory.mktemp("split")
    registry = Registry(folder / "registry", check_answers)
    for seed in (1, 2):
        registry.add(write_small_bundle(folder / f"b{seed}", seed=seed), "small")
    registry.promote("small", 1)
    return registry


@pytest.fixture(scope="module")
def client(registry: Registry):
    settings = ServeSettings(
        bundle=str(registry.path), anonymous=True, split=True, max_models=1,
        canaries={"small@2": 0.5}, shadows=("small@2",),
    )  # fmt: skip
    predict: Any = Predict
    handle = serve.run(predict.bind(settings), name="split", _local_testing_mode=True)
    metrics = Metrics()
    models = Models(settings, metrics, remote_runners(handle, metrics))
    with TestClient(create_api(models, Limits(), None, metrics), LOOPBACK) as client:
        portal_of(client).call(models.start)
        yield client


def ask(client: TestClient, request_id: str, **query) -> dict:
    answer = client.post(
        "/v1/predict", params=query, files=[("file", file) for file in FILES],
        headers={"X-Request-ID": request_id},
    )  # fmt: skip
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_the_answers_are_those_of_one_process(client: TestClient, registry: Registry):
    answers = {}
    for number in range(12):
        answer = ask(client, f"r{number}")
        answers[answer["model"]["version"]] = answer
    assert set(answers) == {"1", "2"}, "champion and canary"
    for version, answer in answers.items():
        expected = Classifier.load(registry.resolve(f"small@{version}")).predict(FILES)
        for item, reference in zip(answer["predictions"], expected, strict=True):
            assert isinstance(reference, Prediction)
            assert item["probability"] == pytest.approx(reference.probability, abs=1e-5)
            assert item["label"] == reference.label
    assert client.get("/readyz").json() == {"status": "ready"}
    assert client.get("/v1/models").json()["models"][0]["info"]["engine"] == "pytorch"


def test_heat_comes_from_where_the_network_is(client: TestClient):
    items = ask(client, "r", explain=True)["predictions"]
    assert len({item["explanation"]["picture"] for item in items}) == len(FILES)


def test_a_bundle_that_cannot_be_loaded_there_is_told_here(client, registry, tmp_path: Path):
    registry.add(write_small_bundle(tmp_path / "b3", seed=3), "small")
    (registry.path / "small" / "versions" / "3" / "model.safetensors").write_bytes(b"")
    answer = client.post("/v1/predict?model=small@3", content=FILES[0][1])
    assert answer.status_code == 503, answer.text
    assert answer.json()["detail"] == "small@3 cannot be loaded"


@pytest.mark.parametrize(
    ("error", "reason"),
    [(BackPressureError(1, 1), "overload"), (RayActorError(), "lost")],
    ids=["full", "gone"],
)
def test_a_predictor_that_is_full_or_gone_is_another_try(client, monkeypatch, error, reason: str):
    class Broken:
        class score:  # noqa: N801 (stands for a method of a handle)
            @staticmethod
            async def remote(*_):
                raise error

    real = RemoteBackend.score

    async def through_broken(self, pixels):
        monkeypatch.setattr(self, "_predictor", Broken)
        return await real(self, pixels)

    monkeypatch.setattr(RemoteBackend, "score", through_broken)
    answer = client.post("/v1/predict", content=FILES[0][1])
    assert answer.status_code == 503, answer.text
    assert (answer.headers["retry-after"], answer.json()["reason"]) == ("1", reason)
