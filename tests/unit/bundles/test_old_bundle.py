"""A bundle that leuk_ray wrote before classes were data (27 November 2026) answers as it did.

tests/data/bundle-version-1: an untrained CNN of two classes, calibrated, as `write_bundle` of
commit 9cde23a left it; the answers are those of the same commit to SYNTHETIC cells. Its head
magnifies small differences between cells, and with them the last bits of float32.
"""

from pathlib import Path

import numpy as np
import pytest

from leuk_ray.bundles.bundle import load_bundle
from leuk_ray.datasets.classes import BINARY
from leuk_ray.inference.classifier import Classifier
from leuk_ray.inference.predictions import Prediction
from tests.support.serving_bundles import cells, client_of, encode

BUNDLE = Path(__file__).parents[2] / "data" / "bundle-version-1"
ANSWERS = [
    ("ALL", 0.7737011867756762),
    ("healthy", 0.10669059394565118),
    ("healthy", 0.23008256623569492),
    ("ALL", 0.5353818444602123),
    ("ALL", 0.5525799485528984),
    ("healthy", 0.27765248506737555),
]


def test_a_bundle_of_version_1_loads_answers_and_serves():
    manifest = load_bundle(BUNDLE).manifest
    assert (manifest.schema_version, manifest.class_set) == (1, BINARY)
    assert (manifest.temperature, manifest.threshold) == (1.5, 0.4)
    assert manifest.abstain_band == (0.39, 0.41)
    assert manifest.decisions is not None
    files = [(f"{number}.png", encode(pixels)) for number, pixels in enumerate(cells(6))]
    found = Classifier.load(BUNDLE).predict(files)
    answers = [answer for answer in found if isinstance(answer, Prediction)]
    assert [answer.label for answer in answers] == [label for label, _ in ANSWERS]
    stated = [answer.probability for answer in answers]
    np.testing.assert_allclose(np.asarray(stated, float), [p for _, p in ANSWERS], atol=1e-3)
    parts = [("file", (name, data, "image/png")) for name, data in files]
    with client_of(BUNDLE) as client:
        served = client.post("/v1/predict", files=parts).json()["predictions"]
    assert [item["label"] for item in served] == [label for label, _ in ANSWERS]
    assert [item["probability"] for item in served] == pytest.approx(stated, abs=1e-3)
