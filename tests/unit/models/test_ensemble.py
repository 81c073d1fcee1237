"""Ensembles of bundles: the arithmetic of the vote, and the folder that holds it."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from leuk_ray.bundles.bundle import load_bundle, write_bundle, write_ensemble
from leuk_ray.bundles.manifest import EnsembleManifest, ModelManifest
from leuk_ray.cli.main import cli
from leuk_ray.datasets.images import StorageSettings
from leuk_ray.inference.classifier import Classifier
from leuk_ray.inference.explain import explain_pixels
from leuk_ray.models.ensemble import Ensemble, Member
from leuk_ray.models.ensemble import vote as vote_of
from leuk_ray.models.settings import ModelSettings
from leuk_ray.models.zoo import build
from leuk_ray.utils.errors import UserError

NETWORKS: dict[str, dict[str, Any]] = {
    "one": {"attention": "multi"},
    "two": {"architecture": "timm", "backbone": "resnet18"},
    "three": {"architecture": "se_cnn", "attention": "se"},
}


class Fixed(torch.nn.Module):
    """Answers with given log-odds, through one logit or two."""

    def __init__(self, log_odds: list[float], num_logits: int = 2) -> None:
        super().__init__()
        z = torch.tensor(log_odds)[:, None]
        self.logits = z if num_logits == 1 else torch.cat([torch.zeros_like(z), z], dim=1)

    def forward(self, images):
        return self.logits, torch.ones(len(self.logits), 3)


def vote(rule, *members: Member) -> np.ndarray:
    logits, embedding = Ensemble(members, rule)(torch.zeros(1))
    assert embedding.shape[1] == 3 * len(members)
    return torch.sigmoid(logits[:, 0]).numpy()


def sigmoid(x):
    return 1 / (1 + np.exp(-np.asarray(x)))


def test_a_soft_vote_is_the_mean_of_calibrated_probabilities():
    a, b = [2.0, -1.0, 0.0], [1.0, 4.0, -3.0]
    ours = vote("soft", Member(Fixed(a), 2.0, 0.5), Member(Fixed(b, 1), 0.5, 0.5))
    expected = (sigmoid(np.divide(a, 2.0)) + sigmoid(np.divide(b, 0.5))) / 2
    np.testing.assert_allclose(ours, expected, atol=1e-7)


def test_a_majority_vote_counts_decisions_and_a_tie_is_all():
    strict, lax = 0.9, 0.5
    three = [
        Member(Fixed([1.0, 1.0, -1.0]), 1.0, lax),
        Member(Fixed([1.0, -1.0, -1.0], 1), 1.0, lax),
        Member(Fixed([1.0, 1.0, -1.0]), 1.0, strict),  # sigmoid(1) = 0.73 does not reach it
    ]
    np.testing.assert_allclose(vote("majority", *three), [2 / 3, 1 / 3, 0], atol=1e-8)
    assert vote("majority", *three[:2])[1] >= 0.5  # one to one


def test_a_tie_of_many_classes_goes_to_the_higher_mean_probability():
    first = torch.tensor([[[0.5, 0.1, 0.4], [0.1, 0.6, 0.3], [0.3, 0.3, 0.4]]]).double()
    second = torch.tensor([[[0.1, 0.2, 0.7], [0.45, 0.35, 0.2], [0.25, 0.4, 0.35]]]).double()
    third = torch.tensor([[[0.9, 0.05, 0.05], [0.9, 0.05, 0.05], [0.1, 0.1, 0.8]]]).double()
    two = vote_of(torch.cat([first, second]), [0.5] * 2, "majority")
    assert two.argmax(dim=1).tolist() == [2, 1, 2]  # the means decide, not the order of classes
    np.testing.assert_allclose(two, [[0.5, 0, 0.5], [0.5, 0.5, 0], [0, 0.5, 0.5]], atol=2e-6)
    np.testing.assert_allclose(two.sum(dim=1), 1, atol=1e-15)
    three = vote_of(torch.cat([first, second, third]), [0.5] * 3, "majority")
    assert three.argmax(dim=1).tolist() == [0, 0, 2]  # two votes beat the mean


@pytest.fixture(scope="module")
def bundles(tmp_path_factory) -> list[Path]:
    folder, paths = tmp_path_factory.mktemp("runs"), []
    for number, (name, network) in enumerate(NETWORKS.items()):
        torch.manual_seed(number)
        settings = ModelSettings(**network, input_size=64, weights="scratch")
        manifest = ModelManifest(
            model=settings, storage=StorageSettings(size=48), temperature=1.0 + number,
            synthetic=True, protocol="subject-disjoint", dataset_fingerprint="0" * 64,
            recipe=name, seed=0,
        )  # fmt: skip
        paths.append(folder / name / "bundle")
        write_bundle(paths[-1], manifest, build(settings, load_weights=True).eval())
    return paths


def test_an_ensemble_bundle_scores_as_its_members_do_together(bundles, tmp_path: Path):
    arguments = ["ensemble", str(tmp_path / "voted"), *[str(path.parent) for path in bundles]]
    done = CliRunner().invoke(cli, arguments)
    assert done.exit_code == 0, done.output
    assert "soft vote of one, two, three" in done.output
    pixels = np.random.default_rng(0).integers(0, 256, (4, 48, 48, 3), np.uint8)
    members = [Classifier.load(path).score(pixels) for path in bundles]
    ours = Classifier.load(tmp_path / "voted").score(pixels)
    expected = np.mean([scores.probability for scores in members], axis=0)
    np.testing.assert_allclose(ours.probability, expected, atol=1e-6)
    assert ours.embedding.shape == (4, 256 + 512 + 128)
    card = (tmp_path / "voted" / "MODEL_CARD.md").read_text()
    assert "soft vote of one, two, three" in card
    assert "not a diagnosis" in card
    manifest = load_bundle(tmp_path / "voted").manifest
    assert isinstance(manifest, EnsembleManifest)
    assert manifest.recipe == "one + two + three"


@pytest.mark.parametrize("rule", ["soft", "majority"])
def test_a_round_trip_keeps_every_vote_to_the_last_digit(rule, bundles, tmp_path: Path):
    write_ensemble(tmp_path / "voted", bundles, rule)
    loaded = [load_bundle(path) for path in bundles]
    members = [Member(b.model, b.manifest.temperature, b.manifest.threshold) for b in loaded]
    pixels = torch.randint(0, 256, (4, 3, 48, 48), dtype=torch.uint8)
    with torch.no_grad():
        expected = Ensemble(members, rule).eval()(pixels)
        ours = load_bundle(tmp_path / "voted").model(pixels)
    assert all(torch.equal(a, b) for a, b in zip(ours, expected, strict=True))


def test_an_ensemble_that_is_not_what_was_written_is_refused(bundles, tmp_path: Path):
    write_ensemble(tmp_path / "voted", bundles[:2], "majority")
    weights = tmp_path / "voted" / "members" / "one" / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    with pytest.raises(UserError, match="changed since it was written"):
        load_bundle(tmp_path / "voted")
    manifest = json.loads((tmp_path / "voted" / "bundle.json").read_text())
    for name in ("../one", "/tmp/one", ".."):
        wrong = manifest | {"members": [name, "two"]}
        (tmp_path / "voted" / "bundle.json").write_text(json.dumps(wrong))
        with pytest.raises(UserError, match="not understood"):
            load_bundle(tmp_path / "voted")
    (tmp_path / "voted" / "bundle.json").write_text(json.dumps(manifest))
    # A member that is sound in itself, but another one.
    shutil.rmtree(weights.parent)
    shutil.copytree(bundles[2], weights.parent)
    with pytest.raises(UserError, match=r"members/one/bundle\.json: missing or changed"):
        load_bundle(tmp_path / "voted")


def test_what_cannot_vote_together_is_refused(bundles, tmp_path: Path):
    with pytest.raises(UserError, match="two bundles or more"):
        write_ensemble(tmp_path / "x", bundles[:1], "soft")
    with pytest.raises(UserError, match="different names"):
        write_ensemble(tmp_path / "x", [bundles[0], bundles[0]], "soft")
    write_ensemble(tmp_path / "voted", bundles[:2], "soft")
    with pytest.raises(UserError, match="an ensemble itself"):
        write_ensemble(tmp_path / "x", [bundles[0], tmp_path / "voted"], "soft")
    other = tmp_path / "other" / "bundle"
    third = load_bundle(bundles[2])
    assert isinstance(third.manifest, ModelManifest)
    changes = {"storage": StorageSettings(size=64)}
    write_bundle(other, third.manifest.model_copy(update=changes), third.model)
    with pytest.raises(UserError, match="prepared alike"):
        write_ensemble(tmp_path / "x", [bundles[0], other], "soft")
    assert not (tmp_path / "x").exists()


def test_an_ensemble_is_explained_by_its_members(bundles, tmp_path: Path):
    write_ensemble(tmp_path / "voted", bundles[:2], "soft")
    pixels = np.zeros((1, 48, 48, 3), np.uint8)
    with pytest.raises(UserError, match="explain one of BUNDLE/members/"):
        explain_pixels(Classifier.load(tmp_path / "voted"), pixels, "gradcam")
    member = Classifier.load(tmp_path / "voted" / "members" / "two")
    assert len(explain_pixels(member, pixels, "gradcam")) == 1
