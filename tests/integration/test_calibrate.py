"""A calibrated bundle answers most cells like those it was made from, and no other pictures."""

from pathlib import Path

import numpy as np

from leuk_ray.bundles.bundle import open_bundle
from leuk_ray.datasets.images import StorageSettings
from leuk_ray.inference.classifier import Classifier
from leuk_ray.inference.predictions import Prediction
from leuk_ray.runs.target import EvaluationTarget
from leuk_ray.workflows.calibrate import calibrate
from tests.support.serving_bundles import cells, encode, write_small_bundle


def test_cells_alike_are_answered_and_others_are_not(dataset, tmp_path: Path):
    storage = StorageSettings(size=64, crop="center")
    bundle = write_small_bundle(tmp_path / "plain", storage=storage)
    values = calibrate(EvaluationTarget.at(bundle), dataset, tmp_path / "new", abstain_share=0.1)
    assert values["cells"] == values["scope_cells"] == 121
    manifest = open_bundle(tmp_path / "new").manifest
    assert manifest.temperature == values["temperature"] != 1
    assert set(manifest.files) == {
        "model.safetensors",
        "MODEL_CARD.md",
        "scope.safetensors",
        "lineage.safetensors",
    }
    classifier = Classifier.load(tmp_path / "new")
    alike = classifier.predict([(str(i), encode(p)) for i, p in enumerate(cells(40, seed=11))])
    in_scope = [
        answer
        for answer in alike
        if isinstance(answer, Prediction) and set(answer.reasons) <= {"near_threshold"}
    ]
    assert len(in_scope) >= 36
    other = [
        np.random.default_rng(0).integers(0, 256, (300, 300, 3), np.uint8),
        np.full((300, 300, 3), 180, np.uint8),
        np.tile(cells(1)[0][::2, ::2], (2, 2, 1)),
        cells(1)[0][:, :, [1, 2, 0]],
    ]
    answers = classifier.predict([(str(i), encode(pixels)) for i, pixels in enumerate(other)])
    assert [answer.as_dict()["label"] for answer in answers] == ["abstain"] * 4
