"""Three and eight classes on tiny networks: every way to score a cell gives the same answer."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from leuk_ray.bundles.bundle import load_bundle, write_ensemble
from leuk_ray.bundles.manifest import read_manifest
from leuk_ray.datasets.classes import BINARY, ClassSet
from leuk_ray.evaluation.calibration import class_probabilities
from leuk_ray.inference.answers import part_of, write_subjects
from leuk_ray.inference.check import check_answers, graph_difference
from leuk_ray.inference.classifier import Classifier
from leuk_ray.inference.engines import EngineName
from leuk_ray.inference.explain import explain_pixels
from leuk_ray.inference.onnx_export import export_bundle
from leuk_ray.inference.predictions import Failure, answers_schema
from leuk_ray.io.storage import read_table
from leuk_ray.io.tables import write_rows
from leuk_ray.models.settings import ModelSettings
from leuk_ray.models.zoo import build, class_logits, most_likely
from leuk_ray.utils.errors import UserError
from leuk_ray.workflows.predict import predict_to_table
from tests.support.serving_bundles import SIZE, cells, encode, predictions, write_small_bundle

NAMES = ("blast", "eosinophil", "Lymphozyt groß", "monocyte", "d", "e", "f", "g")


def bundle_of(path: Path, num_classes: int, seed: int = 0, **changes) -> Path:
    names = NAMES[:num_classes]
    return write_small_bundle(path, seed, classes=names, positive=names[:1], **changes)


@pytest.fixture(scope="module")
def pixels() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (5, SIZE, SIZE, 3), np.uint8)


@pytest.mark.parametrize(
    ("changes", "width"),
    [
        ({"architecture": "timm", "backbone": "resnet18"}, {2: 2, 3: 3}),
        ({"attention": "multi"}, {2: 2, 3: 3}),
        ({"architecture": "alexnet"}, {2: 2, 3: 3}),
        ({"architecture": "se_cnn", "attention": "se"}, {2: 1, 3: 3}),
    ],
)
def test_every_architecture_has_an_output_for_each_class(changes, width):
    settings = ModelSettings(**changes, input_size=64, weights="scratch")
    for num_classes, outputs in width.items():
        model = build(settings, load_weights=False, num_classes=num_classes).eval()
        found, _ = model(torch.zeros(2, 3, 64, 64))
        assert found.shape == (2, outputs)
        scores = class_logits(found)
        assert scores.shape == (2, num_classes - 1)
        if num_classes > 2:
            assert torch.equal(most_likely(scores), found.argmax(dim=1))


@pytest.mark.parametrize("num_classes", [3, 8])
def test_a_bundle_answers_alike_from_network_graph_and_table(num_classes, tmp_path: Path, pixels):
    path = bundle_of(tmp_path / "bundle", num_classes, temperature=1.5)
    bundle = load_bundle(path)
    assert bundle.manifest.class_set.names == NAMES[:num_classes]
    check_answers(bundle)
    export_bundle(path, tmp_path / "graph", onnx=True)
    exported = load_bundle(tmp_path / "graph")
    assert graph_difference(exported, exported.folder / "model.onnx") < 1e-4
    with torch.no_grad():
        outputs, _ = bundle.model(torch.from_numpy(pixels).permute(0, 3, 1, 2))
    expected = (outputs.double() / 1.5).softmax(dim=1).numpy()
    engines: list[tuple[EngineName, Path]] = [("pytorch", path), ("onnx", tmp_path / "graph")]
    for engine, where in engines:
        scores = Classifier.load(where, engine=engine).score(pixels)
        np.testing.assert_allclose(scores.probabilities, expected, atol=1e-5)
        np.testing.assert_allclose(scores.probability, expected[:, 0], atol=1e-5)
    images = [tmp_path / f"{n}.png" for n in range(3)]
    for image, cell in zip(images, cells(3), strict=True):
        image.write_bytes(encode(cell))
    predict_to_table(path, images, tmp_path / "answers.parquet", subject=r"(\d)\.png", workers=0)
    table = read_table(tmp_path / "answers.parquet")
    assert table.schema.names == answers_schema(bundle.manifest.class_set).names
    answers = predictions(
        Classifier.load(path, engine="pytorch").predict(
            [(image.name, image.read_bytes()) for image in images]
        )
    )
    for row, answer in zip(table.to_pylist(), answers, strict=True):
        stated = {name: row[f"probability:{name}"] for name in NAMES[:num_classes]}
        assert stated == pytest.approx(answer.probabilities, abs=1e-6)
        assert row["label"] == answer.label == max(stated, key=lambda name: stated[name])
        assert row["probability"] == pytest.approx(stated["blast"], abs=1e-9)
        assert "threshold" not in row
    subjects = read_table(tmp_path / "answers-subjects.parquet").to_pylist()
    assert [row["subject"] for row in subjects] == ["0", "1", "2"]
    assert [row[f"cells:{answers[0].label}"] for row in subjects[:1]] == [1]
    with pytest.raises(UserError, match="knows two classes"):
        predict_to_table(path, images, tmp_path / "other.csv", challenge=tmp_path / "c.zip")


def test_a_vote_of_many_classes(tmp_path: Path, pixels):
    paths = [
        bundle_of(tmp_path / name / "bundle", 3, seed, temperature=2.0 - seed)
        for seed, name in enumerate("ab")
    ]
    members = [Classifier.load(path).score(pixels).probabilities for path in paths]
    write_ensemble(tmp_path / "soft", paths, "soft")
    write_ensemble(tmp_path / "majority", paths, "majority")
    soft = Classifier.load(tmp_path / "soft").score(pixels)
    np.testing.assert_allclose(soft.probabilities, np.mean(members, axis=0), atol=1e-6)
    votes = np.mean([np.eye(3)[each.argmax(axis=1)] for each in members], axis=0)
    majority = Classifier.load(tmp_path / "majority").score(pixels)
    np.testing.assert_allclose(majority.probabilities, votes, atol=1e-6)
    other = write_small_bundle(tmp_path / "c" / "bundle")
    with pytest.raises(UserError, match="other classes"):
        write_ensemble(tmp_path / "mixed", [paths[0], other], "soft")


def test_a_named_class_is_explained(tmp_path: Path, pixels):
    classifier = Classifier.load(bundle_of(tmp_path / "bundle", 3))
    answered = explain_pixels(classifier, pixels)
    probabilities = classifier.score(pixels).probabilities
    assert [each.toward for each in answered] == [NAMES[k] for k in probabilities.argmax(axis=1)]
    asked = [explain_pixels(classifier, pixels, toward=name) for name in NAMES[:3]]
    chosen = probabilities.argmax(axis=1)
    for n, each in enumerate(answered):
        np.testing.assert_array_equal(asked[chosen[n]][n].heat, each.heat)
    assert not np.array_equal(asked[0][0].heat, asked[1][0].heat)
    with pytest.raises(UserError, match="not among blast, eosinophil"):
        explain_pixels(classifier, pixels, toward="ALL")


def test_a_bundle_of_the_version_before_loads_and_two_classes_are_written_as_before(
    tmp_path: Path, pixels
):
    path = write_small_bundle(tmp_path / "bundle")
    written = json.loads((path / "bundle.json").read_text())
    assert written["schema_version"] == 1
    assert written["classes"] == ["healthy", "ALL"]
    assert not {"positive", "ordered", "min_confidence"} & written.keys()
    assert read_manifest(path).class_set == BINARY
    scores = Classifier.load(path).score(pixels)
    assert scores.class_logits.shape == (5, 1)
    np.testing.assert_array_equal(scores.probability, scores.probabilities[:, 1])
    np.testing.assert_array_equal(
        class_probabilities(scores.class_logits, 1.0), scores.probabilities
    )
    three = json.loads((bundle_of(tmp_path / "three", 3) / "bundle.json").read_text())
    assert three["schema_version"] == 2
    assert three["positive"] == ["blast"]


def test_a_table_of_failures_has_the_columns_of_answers(tmp_path: Path):
    part = part_of([0], [Failure("a.png", "truncated")], ClassSet(NAMES[:3]))
    assert part["probability:blast"].to_pylist() == [None]
    assert not {"threshold", "probability"} & set(part.column_names)  # no class is positive
    table = part.append_column("path", part["name"])
    manifest = read_manifest(bundle_of(tmp_path / "bundle", 3))
    assert len(write_subjects(tmp_path / "t.csv", table, ["P1"], manifest)) == 1
    assert "Lymphozyt groß" in (tmp_path / "t-subjects.csv").read_text()


def test_a_column_name_that_looks_like_a_formula_gets_a_quote(tmp_path: Path):
    write_rows(tmp_path / "t.csv", pa.table({"=cmd": ["=1+1", "a"], "b": [1, 2]}))
    assert (tmp_path / "t.csv").read_text().splitlines()[:2] == ['"\'=cmd","b"', '"\'=1+1",1']
