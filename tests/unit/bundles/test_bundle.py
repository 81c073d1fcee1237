import hashlib
import io
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch
from PIL import Image

from leuk_ray.bundles.bundle import load_bundle, write_bundle
from leuk_ray.bundles.manifest import ModelManifest, read_manifest
from leuk_ray.datasets.images import StorageSettings
from leuk_ray.inference.classifier import Classifier
from leuk_ray.inference.predictions import Failure, Prediction
from leuk_ray.models.settings import Architecture, ModelSettings
from leuk_ray.models.zoo import build
from leuk_ray.utils.errors import UserError


@pytest.fixture(scope="module")
def bundle(tmp_path_factory) -> Path:
    settings = ModelSettings(input_size=64, weights="scratch")
    manifest = ModelManifest(
        model=settings,
        storage=StorageSettings(size=64),
        temperature=2.0,
        synthetic=True,
        protocol="subject-disjoint",
        dataset_fingerprint="0" * 64,
        recipe="lite",
        seed=0,
    )
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("bundles") / "bundle"
    write_bundle(path, manifest, build(settings, load_weights=True).eval())
    return path


def png(seed: int, side: int = 450) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (side, side, 3), np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG")
    return out.getvalue()


def test_a_loaded_bundle_scores_like_the_network_that_was_saved(bundle: Path):
    pixels = np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3), np.uint8)
    scores = Classifier.load(bundle).score(pixels)
    torch.manual_seed(0)
    model = build(ModelSettings(input_size=64, weights="scratch"), load_weights=True).eval()
    with torch.no_grad():
        logits, embedding = model(torch.from_numpy(pixels).permute(0, 3, 1, 2))
    expected = (logits[:, 1] - logits[:, 0]).numpy()
    np.testing.assert_allclose(scores.class_logits[:, 0], expected, atol=1e-5)
    np.testing.assert_allclose(scores.embedding, embedding.numpy(), atol=1e-5)
    np.testing.assert_allclose(scores.probability, 1 / (1 + np.exp(-expected / 2)), atol=1e-6)


NETWORKS = {
    "multi_attention": {"input_size": 64},
    "multi_attention, none": {"input_size": 64, "attention": "none"},
    "timm": {"architecture": "timm", "backbone": "resnet18", "input_size": 64},
    "timm, ViT": {"architecture": "timm", "backbone": "vit_tiny_patch16_224", "input_size": 224},
    "alexnet": {"architecture": "alexnet", "input_size": 64},
    "se_cnn": {"architecture": "se_cnn", "attention": "se", "input_size": 64},
    "se_cnn, none": {"architecture": "se_cnn", "attention": "none", "input_size": 64},
}


def test_every_architecture_is_among_them():
    settings = [ModelSettings(**network, weights="scratch") for network in NETWORKS.values()]
    assert {one.architecture for one in settings} == set(get_args(Architecture))


@pytest.mark.parametrize("name", NETWORKS)
def test_a_round_trip_keeps_every_logit_to_the_last_digit(name: str, bundle: Path, tmp_path: Path):
    settings = ModelSettings(**NETWORKS[name], weights="scratch")
    torch.manual_seed(1)
    model = build(settings, load_weights=True).train()
    pixels = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (3, 3, 70, 70), np.uint8))
    with torch.no_grad():
        model(pixels)  # running statistics are no longer those of a fresh network
        expected = model.eval()(pixels)
    manifest = read_manifest(bundle).model_copy(update={"model": settings})
    assert isinstance(manifest, ModelManifest)
    write_bundle(tmp_path / "bundle", manifest, model)
    loaded = load_bundle(tmp_path / "bundle")
    assert isinstance(loaded.manifest, ModelManifest)
    assert loaded.manifest.model == settings
    with torch.no_grad():
        ours = loaded.model(pixels)
    for mine, theirs in zip(ours, expected, strict=True):
        assert torch.equal(mine, theirs)
    assert not torch.equal(ours[0][0], ours[0][1])  # of a network that tells images apart


def test_a_bad_image_among_good_ones_is_an_item(bundle: Path):
    answers = Classifier.load(bundle).predict([("a", png(1)), ("b", b"text"), ("c", png(2))])
    assert [type(answer) for answer in answers] == [Prediction, Failure, Prediction]
    assert [answer.name for answer in answers] == ["a", "b", "c"]
    assert "not_an_image" in answers[1].as_dict()["error"]
    alone, among = Classifier.load(bundle).predict([("c", png(2))])[0], answers[2]
    assert isinstance(alone, Prediction)
    assert isinstance(among, Prediction)
    assert alone.probability == pytest.approx(among.probability, abs=1e-6)


def test_the_card_says_what_it_is_not(bundle: Path):
    card = (bundle / "MODEL_CARD.md").read_text()
    assert "SYNTHETIC" in card
    assert "not a diagnosis" in card


def change_byte(copy: Path) -> None:
    data = bytearray((copy / "model.safetensors").read_bytes())
    data[-1] ^= 1
    (copy / "model.safetensors").write_bytes(data)


def pickle_inside(copy: Path) -> None:
    torch.save({"a": 1}, copy / "model.safetensors")


def pickle_with_its_own_hash(copy: Path) -> None:
    """By somebody who knows how bundles are made."""
    pickle_inside(copy)
    digest = hashlib.sha256((copy / "model.safetensors").read_bytes()).hexdigest()
    manifest = json.loads((copy / "bundle.json").read_text())
    manifest["files"]["model.safetensors"] = digest
    (copy / "bundle.json").write_text(json.dumps(manifest))


def members_outside(copy: Path) -> None:
    manifest = json.loads((copy / "bundle.json").read_text())
    del manifest["model"]
    manifest |= {"rule": "soft", "members": ["../other", "two"]}
    (copy / "bundle.json").write_text(json.dumps(manifest))


def manifest_with(**changes):
    def change(copy: Path) -> None:
        manifest = json.loads((copy / "bundle.json").read_text())
        for key, value in changes.items():
            target = manifest["model"] if key in ("backbone", "architecture") else manifest
            target[key] = value
        (copy / "bundle.json").write_text(json.dumps(manifest))

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (change_byte, "changed since it was written"),
        (pickle_inside, "changed since it was written"),
        (pickle_with_its_own_hash, "model.safetensors: holds another network"),
        (members_outside, "not understood"),
        (lambda copy: (copy / "model.safetensors").unlink(), "missing or changed"),
        (lambda copy: (copy / "bundle.json").unlink(), "is no bundle"),
        (lambda copy: (copy / "bundle.json").write_text("{"), "not valid JSON"),
        (manifest_with(code="print(1)"), "not understood"),
        (manifest_with(files={}), "missing or changed"),
        (manifest_with(files={"../../model.safetensors": "0" * 64}), "missing or changed"),
        (manifest_with(backbone="hf-hub:a/b"), "has none"),
        (manifest_with(backbone="local-dir:/tmp/model"), "has none"),
        (manifest_with(backbone="vit_tiny_patch16_224"), "gives no feature map|takes 224 pixels"),
        (manifest_with(backbone="resnet18"), "model.safetensors: holds another network"),
        (manifest_with(architecture="python"), "not understood"),
    ],
)
def test_a_bundle_that_is_not_what_was_written_is_refused(change, message, bundle, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(bundle, copy)
    change(copy)
    with pytest.raises(UserError, match=message) as caught:
        load_bundle(copy)
    assert "\n" not in str(caught.value)


def test_loading_needs_no_network(bundle: Path):
    code = f"""
import socket
def refuse(*a, **k): raise AssertionError("network")
socket.socket.connect = refuse
from pathlib import Path
from leuk_ray.bundles.bundle import load_bundle
load_bundle(Path({str(bundle)!r}))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
