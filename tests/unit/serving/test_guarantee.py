"""Prediction sets over HTTP, and a guarantee that a shift suspends while it lasts."""

from __future__ import annotations

import base64
from pathlib import Path

import numpy as np
import pytest

from leuk_ray.bundles.manifest import ScopeSettings
from leuk_ray.datasets.images import StorageSettings, to_storage
from leuk_ray.evaluation.conformal import ClassLimit, Conformal
from leuk_ray.inference.classifier import Classifier
from leuk_ray.inference.predictions import Prediction
from leuk_ray.inference.scope import measure
from leuk_ray.serving.drift import WINDOW
from leuk_ray.serving.schemas import GuaranteeOut, ModelsOut, PredictOut
from tests.support.serving_bundles import SIZE, cells, client_of, encode, turned, write_small_bundle

ORDINARY = [encode(pixels) for pixels in cells(8)]
TURNED = [encode(turned(pixels, 60)) for pixels in cells(8)]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory) -> Path:
    """Of the eight cells some have a set of one class and some of two."""
    folder = tmp_path_factory.mktemp("guarantee")
    plain = Classifier.load(write_small_bundle(folder / "plain"))
    stored = [to_storage(pixels, StorageSettings(size=SIZE)) for pixels in cells(8)]
    logits = plain.score(np.stack(stored)).class_logits[:, 0]
    middle = float(np.median(logits))
    limits = [
        ClassLimit(patients=9, cells=9, log_odds=limit, pooled=0, attainable=0.9, share=0.9)
        for limit in (-float(logits.max()) - 1, middle)
    ]
    red = [measure(pixels)["red"] for pixels in stored]
    scope = ScopeSettings(ranges={}, typical={"red": (float(np.mean(red)), float(np.std(red)))})
    return write_small_bundle(
        folder / "sets", conformal=Conformal(coverage=0.9, limits=tuple(limits)), scope=scope
    )


def test_answers_carry_the_set_by_every_way(bundle):
    files = [(f"{number}.png", data) for number, data in enumerate(ORDINARY)]
    expected = [
        one for one in Classifier.load(bundle).predict(files) if isinstance(one, Prediction)
    ]
    sets = [one.prediction_set for one in expected]
    assert {("healthy",), ("healthy", "ALL")} == set(sets)
    for one in expected:
        alone = one.prediction_set is not None and len(one.prediction_set) == 1
        assert (one.label, one.reasons) == (
            ("healthy", ()) if alone else ("abstain", ("uncertain_set",))
        )
        assert one.threshold is None
    with client_of(bundle) as client:
        parts = [("file", (name, data, "image/png")) for name, data in files]
        body = PredictOut(**client.post("/v1/predict", files=parts).json())
        tensor = [base64.b64encode(data).decode() for data in ORDINARY]
        request = {"name": "image", "shape": [8], "datatype": "BYTES", "data": tensor}
        v2 = client.post("/v2/models/sets/infer", json={"inputs": [request]}).json()
    assert body.guarantee == GuaranteeOut(coverage=0.9, state="stated")
    assert [one.model_dump()["prediction_set"] for one in body.predictions] == [
        list(one or ()) for one in sets
    ]
    assert v2["parameters"]["guarantee"] == "stated"


def test_a_shift_suspends_the_guarantee_until_it_is_gone(bundle):
    with client_of(bundle) as client:

        def send(bodies: list[bytes], times: int) -> str:
            assert times > 0
            answer = None
            for _ in range(times):
                parts = [("file", (f"{n}.png", one, "image/png")) for n, one in enumerate(bodies)]
                answer = PredictOut(**client.post("/v1/predict", files=parts).json())
            assert answer is not None
            assert answer.guarantee is not None
            (listed,) = ModelsOut(**client.get("/v1/models").json()).models
            assert listed.guarantee == answer.guarantee
            assert (listed.drift is not None and listed.drift.alarm) == (
                answer.guarantee.state == "suspended"
            )
            return answer.guarantee.state

        full = WINDOW // len(ORDINARY)
        assert send(ORDINARY, full) == "stated"
        assert send(TURNED, full) == "suspended"
        assert send(ORDINARY, full) == "stated"
