"""Test-time augmentation inside the network: answers that no flip or quarter turn changes."""

from pathlib import Path

import numpy as np
import pytest
import torch

from leuk_ray.bundles.bundle import write_bundle
from leuk_ray.bundles.manifest import ModelManifest
from leuk_ray.datasets.images import StorageSettings
from leuk_ray.inference.classifier import Classifier
from leuk_ray.inference.gradcam import evidence
from leuk_ray.models.settings import ModelSettings, Views
from leuk_ray.models.views import sum_upright, views_of
from leuk_ray.models.zoo import build

FLIPS = ((3,), (2,), (2, 3))


def network(views: Views):
    torch.manual_seed(0)
    settings = ModelSettings(
        architecture="se_cnn", attention="se", input_size=48, filters=(4, 8, 8), reduction=2,
        weights="scratch", views=views,
    )  # fmt: skip
    return settings, build(settings, load_weights=True).eval()


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    return 255 * torch.rand(3, 3, 64, 64, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(("views", "turned"), [("one", 0), ("flips", 3), ("dihedral", 7)])
def test_outputs_are_invariant_to_the_group_that_is_averaged_over(images, views: Views, turned):
    """And to no more: a plain network tells every view apart."""
    _, model = network(views)
    others = [images.flip(dims) for dims in FLIPS]
    others += [one.transpose(2, 3) for one in (images, *others)]
    with torch.inference_mode():
        outputs, embedding = model(images)
        same = [
            torch.allclose(one, two, rtol=1e-4, atol=1e-5)
            for other in others
            for one, two in [(torch.cat(model(other), 1), torch.cat([outputs, embedding], 1))]
        ]
    assert same == [True] * turned + [False] * (7 - turned)


def test_outputs_are_the_mean_of_those_of_every_view_and_training_takes_one(images):
    (_, plain), (_, averaging) = network("one"), network("dihedral")
    with torch.inference_mode():
        each = plain(views_of(images, "dihedral"))[0].unflatten(0, (8, 3))
        torch.testing.assert_close(averaging(images)[0], each.mean(dim=0))
        for model in (plain, averaging):
            model.train()
        assert torch.equal(averaging(images)[0], plain(images)[0])


def test_evidence_is_of_the_upright_image(images):
    maps = images[:, 0]
    counts: tuple[tuple[Views, int], ...] = (("flips", 4), ("dihedral", 8))
    for views, count in counts:
        stacked = views_of(maps[:, None], views)[:, 0]
        torch.testing.assert_close(sum_upright(stacked, views), count * maps)
    _, model = network("dihedral")
    labels = torch.ones(3, dtype=torch.int64)
    found, _ = evidence(model, images, "hirescam", labels)
    turned, _ = evidence(model, images.transpose(2, 3).flip(3), "hirescam", labels)
    torch.testing.assert_close(turned, found.transpose(1, 2).flip(2), rtol=1e-3, atol=1e-5)


def test_a_bundle_keeps_its_views(tmp_path: Path):
    settings, model = network("dihedral")
    manifest = ModelManifest(
        model=settings, storage=StorageSettings(size=64), temperature=1.0, synthetic=True,
        protocol="subject-disjoint", dataset_fingerprint="0" * 64, recipe="lite", seed=0,
    )  # fmt: skip
    write_bundle(tmp_path / "bundle", manifest, model)
    classifier = Classifier.load(tmp_path / "bundle")
    pixels = np.random.default_rng(0).integers(0, 256, (5, 64, 64, 3), np.uint8)
    turned = np.ascontiguousarray(pixels[:, ::-1].swapaxes(1, 2))
    np.testing.assert_allclose(
        classifier.score(turned).probability, classifier.score(pixels).probability, atol=1e-5
    )
    plain = ModelSettings(weights="scratch").model_dump()
    assert "views" not in plain, "bundles that ask for nothing are written as before"
