"""The exported graph answers like the network, or there is none."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from leuk_ray.bundles.bundle import load_bundle, write_bundle, write_ensemble
from leuk_ray.bundles.manifest import ModelManifest
from leuk_ray.datasets.images import StorageSettings
from leuk_ray.inference import onnx_export
from leuk_ray.inference.check import TOLERANCE
from leuk_ray.inference.classifier import Classifier
from leuk_ray.inference.onnx_export import export_bundle
from leuk_ray.models.settings import ModelSettings
from leuk_ray.models.zoo import build
from leuk_ray.utils.errors import UserError


def write(path: Path, settings: ModelSettings, size: int) -> Path:
    manifest = ModelManifest(
        model=settings, storage=StorageSettings(size=size), temperature=0.7, synthetic=True,
        protocol="subject-disjoint", dataset_fingerprint="0" * 64, recipe="lite", seed=0,
    )  # fmt: skip
    torch.manual_seed(0)
    write_bundle(path, manifest, build(settings, load_weights=True).eval())
    return path


@pytest.fixture(scope="module")
def bundle(tmp_path_factory) -> Path:
    settings = ModelSettings(input_size=64, weights="scratch")
    return write(tmp_path_factory.mktemp("onnx") / "lite", settings, 96)


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> Path:
    settings = ModelSettings(
        architecture="se_cnn", attention="se", input_size=64, filters=(8, 16, 32), reduction=4,
        weights="scratch", views="dihedral",
    )  # fmt: skip
    return write(tmp_path_factory.mktemp("onnx") / "small", settings, 96)


@pytest.fixture(scope="module")
def exported(bundle: Path) -> Path:
    target = bundle.parent / "exported"
    values = export_bundle(bundle, target, onnx=True)
    assert 0 <= values["max_difference"] <= TOLERANCE
    return target


def test_both_engines_score_alike_at_any_batch_size(exported: Path):
    ours, theirs = Classifier.load(exported), Classifier.load(exported, engine="pytorch")
    assert (ours.engine.name, theirs.engine.name) == ("onnx", "pytorch")
    for num in (1, 2, 5, 16):
        pixels = np.random.default_rng(num).integers(0, 256, (num, 96, 96, 3), np.uint8)
        a, b = ours.score(pixels), theirs.score(pixels)
        np.testing.assert_allclose(a.probability, b.probability, atol=TOLERANCE)
        np.testing.assert_allclose(a.embedding, b.embedding, atol=1e-3)
        assert a.probabilities.dtype == np.float64


def test_the_cells_of_a_field_are_scored_alike_on_any_number_of_threads(exported: Path):
    pixels = np.random.default_rng(0).integers(0, 256, (7, 96, 96, 3), np.uint8)
    before = torch.get_num_threads()
    for engine in ("onnx", "pytorch"):
        logits = []
        for threads in (1, 3):
            torch.set_num_threads(threads)
            classifier = Classifier.load(exported, engine=engine)
            logits.append(classifier.score_field(pixels).class_logits)
            assert torch.get_num_threads() == threads
        torch.set_num_threads(before)
        np.testing.assert_array_equal(logits[0], logits[1])
        np.testing.assert_allclose(logits[0], classifier.score(pixels).class_logits, atol=1e-5)


def test_an_ensemble_of_networks_with_one_logit_is_exported_too(small: Path, tmp_path: Path):
    shutil.copytree(small, tmp_path / "twin")
    write_ensemble(tmp_path / "voted", [small, tmp_path / "twin"], "soft")
    values = export_bundle(tmp_path / "voted", tmp_path / "graph", onnx=True)
    assert values["max_difference"] <= TOLERANCE
    pixels = np.random.default_rng(0).integers(0, 256, (3, 96, 96, 3), np.uint8)
    a, b = Classifier.load(tmp_path / "graph"), Classifier.load(tmp_path / "voted")
    assert a.engine.name == "onnx"
    np.testing.assert_allclose(
        a.score(pixels).probability, b.score(pixels).probability, atol=TOLERANCE
    )
    turned = np.ascontiguousarray(pixels[:, ::-1].swapaxes(1, 2))  # the graph averages over views
    np.testing.assert_allclose(
        a.score(turned).probability, a.score(pixels).probability, atol=TOLERANCE
    )


def test_the_graph_is_one_of_the_bundles_files(bundle: Path, exported: Path, tmp_path: Path):
    manifest = json.loads((exported / "bundle.json").read_text())
    assert set(manifest["files"]) == {"model.safetensors", "model.onnx", "MODEL_CARD.md"}
    assert (exported / "model.safetensors").read_bytes() == (
        bundle / "model.safetensors"
    ).read_bytes()
    assert not (bundle / "model.onnx").exists()
    copy = tmp_path / "copy"
    shutil.copytree(exported, copy)
    graph = bytearray((copy / "model.onnx").read_bytes())
    graph[-1] ^= 1
    (copy / "model.onnx").write_bytes(graph)
    with pytest.raises(UserError, match="changed since it was written"):
        load_bundle(copy)


def test_a_graph_that_answers_otherwise_is_refused_and_nothing_is_left(
    small: Path, tmp_path: Path, monkeypatch
):
    right = onnx_export._write_graph

    def wrong(original, path):
        with torch.no_grad():
            original.model.head.classifier.bias[0] += 0.01
        right(original, path)
        with torch.no_grad():
            original.model.head.classifier.bias[0] -= 0.01

    monkeypatch.setattr(onnx_export, "_write_graph", wrong)
    with pytest.raises(UserError, match=r"differ by .* the limit is 0\.0001"):
        export_bundle(small, tmp_path / "wrong", onnx=True)
    assert not list(tmp_path.iterdir())


def test_without_a_graph_pytorch_scores_and_onnx_is_refused(small: Path, tmp_path: Path):
    assert Classifier.load(small).engine.name == "pytorch"
    with pytest.raises(UserError, match="leuk-ray export"):
        Classifier.load(small, engine="onnx")
    values = export_bundle(small, tmp_path / "plain", onnx=False)
    assert values["max_difference"] is None
    assert Classifier.load(tmp_path / "plain").engine.name == "pytorch"
