"""Grad-CAM and HiResCAM: against captum, on every kind of network, and as a sanity check."""

import io
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from captum.attr import LayerGradCam, LayerGradientXActivation
from click.testing import CliRunner
from PIL import Image
from scipy.stats import spearmanr

from leuk_ray.bundles.bundle import write_bundle
from leuk_ray.bundles.manifest import ModelManifest
from leuk_ray.cli.main import cli
from leuk_ray.datasets.images import StorageSettings
from leuk_ray.datasets.synthetic import SyntheticSpec, draw_cells, render
from leuk_ray.inference.classifier import Classifier
from leuk_ray.inference.explain import explain_pixels
from leuk_ray.inference.gradcam import evidence, heat, share_inside, target_layer
from leuk_ray.models.network import ImageClassifier
from leuk_ray.models.settings import ModelSettings
from leuk_ray.models.zoo import build, class_logits
from leuk_ray.training.losses import classification_loss
from leuk_ray.utils.errors import UserError

SE = {"architecture": "se_cnn", "attention": "se", "input_size": 64}
NETWORKS = {
    "multi": {"input_size": 64, "attention": "multi"},
    "none": {"input_size": 64, "attention": "none"},
    "cbam": {"input_size": 64, "attention": "cbam"},
    "timm": {"architecture": "timm", "backbone": "resnet18", "input_size": 64},
    "densenet": {"architecture": "timm", "backbone": "densenet121", "input_size": 64},
    "vit": {
        "architecture": "timm", "backbone": "vit_tiny_patch16_224", "input_size": 224,
    },
    "vgg": {"backbone": "vgg11", "attention": "eca", "input_size": 64},
    "alexnet": {"architecture": "alexnet", "input_size": 64},
    "se_cnn": SE,
}  # fmt: skip


def network(**settings) -> ImageClassifier:
    torch.manual_seed(0)
    return build(ModelSettings(**settings, weights="scratch"), load_weights=True).eval()


def noise(count: int, side: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (count, 3, side, side), dtype=torch.uint8, generator=generator)


class PatchesAsMap(torch.nn.Module):
    """Tokens in, the same tokens out; on the way those of patches are a map (N, C, 14, 14)."""

    def __init__(self, norm: torch.nn.Module) -> None:
        super().__init__()
        self.norm = norm
        self.map = torch.nn.Identity()

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        tokens = self.norm(tokens)
        patches = self.map(tokens[:, 1:].transpose(1, 2).unflatten(2, (14, 14)))
        return torch.cat([tokens[:, :1], patches.flatten(2).transpose(1, 2)], dim=1)


def ones(images: torch.Tensor) -> torch.Tensor:
    return torch.ones(len(images), dtype=torch.int64)


def one_tensor(attributed: object) -> torch.Tensor:
    assert isinstance(attributed, torch.Tensor)
    return attributed


@pytest.mark.parametrize("name", NETWORKS)
def test_both_methods_agree_with_captum(name: str):
    model = network(**NETWORKS[name]).double()
    images = noise(2, 64).double()

    def log_odds(batch: torch.Tensor) -> torch.Tensor:
        return class_logits(model(batch)[0])[:, 0]

    def as_maps(values: torch.Tensor) -> torch.Tensor:
        if name != "vit":
            return values
        return values[:, 1:].transpose(1, 2).unflatten(2, (14, 14))  # without the class token

    layer = target_layer(model)
    product = as_maps(one_tensor(LayerGradientXActivation(log_odds, layer).attribute(images))).sum(
        1
    )
    ours, logit = evidence(model, images, "hirescam", ones(images))
    scale = product.abs().max()
    assert scale > 0
    torch.testing.assert_close(ours / scale, product / scale, atol=1e-4, rtol=0)
    torch.testing.assert_close(logit, log_odds(images).detach())
    ours, _ = evidence(model, images, "gradcam", ones(images))
    if name == "vit":  # captum takes dimension 1 for channels, and tokens have positions there
        tokens = PatchesAsMap(layer)
        (last,) = (n for n, module in model.named_modules() if module is layer)
        model.set_submodule(last, tokens)
        layer = tokens.map
    expected = one_tensor(LayerGradCam(log_odds, layer).attribute(images))[:, 0]
    scale = expected.abs().max()
    torch.testing.assert_close(ours / scale, expected.detach() / scale, atol=1e-4, rtol=0)


def test_where_a_global_average_is_classified_linearly_both_methods_are_one():
    """Draelos and Carin 2020: then every position has the same gradient."""
    model = network(**NETWORKS["timm"])
    images = noise(2, 64)
    grad, hires = (
        evidence(model, images, "gradcam", ones(images))[0],
        evidence(model, images, "hirescam", ones(images))[0],
    )
    torch.testing.assert_close(grad, hires)


def test_hirescam_adds_up_to_the_logit_where_it_should():
    model = network(**NETWORKS["timm"])
    found, logit = evidence(model, noise(3, 64), "hirescam", torch.ones(3).long())
    bias = class_logits(model.get_parameter("head.classifier.bias")[None])[:, 0]
    torch.testing.assert_close(found.sum(dim=(1, 2)) + bias, logit, atol=1e-4, rtol=1e-4)


def test_heat_is_scaled_turned_and_empty_where_nothing_speaks():
    found = torch.tensor([[[2.0, -1.0], [0.0, 1.0]]]).repeat(3, 1, 1)
    found[1] *= -1.0
    found[2] = -1.0
    pictures = heat(found, 8)
    assert pictures.shape == (3, 8, 8)
    assert pictures[:2].amax(dim=(1, 2)).tolist() == [1, 1]
    assert pictures[0].argmax() == 0
    assert pictures[1].argmax() in (6, 7)  # bilinear: the two outermost pixels are equal
    assert (pictures[2] == 0).all()
    inside = share_inside(pictures, torch.ones(3, 8, 8))
    assert inside[:2].tolist() == [1, 1]
    assert math.isnan(inside[2])


def test_explaining_changes_nothing_in_the_network():
    model = network(**SE)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    images = noise(1, 64)
    with torch.inference_mode():
        first = model(images)[0]
    evidence(model, images, "gradcam", ones(images))
    assert all(p.grad is None for p in model.parameters())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    with torch.inference_mode():
        assert torch.equal(model(images)[0], first)


def discs(count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Noise on black; label 1 has a bright disc somewhere. Images, labels, discs."""
    generator = np.random.default_rng(seed)
    y, x = np.mgrid[:64, :64]
    centers = generator.uniform(14, 50, (count, 2, 1, 1))
    masks = np.hypot(y - centers[:, 0], x - centers[:, 1]) < 10
    labels = np.arange(count) % 2
    images = generator.integers(0, 120, (count, 64, 64, 3))
    images[(labels[:, None, None] == 1) & masks] += 120
    pixels = torch.from_numpy(images.astype(np.uint8)).permute(0, 3, 1, 2)
    return pixels, torch.from_numpy(labels), torch.from_numpy(masks)


@pytest.fixture(scope="module")
def trained() -> ImageClassifier:
    model = network(**SE, filters=(8, 16, 32), reduction=4).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for step in range(40):
        images, labels, _ = discs(16, step)
        loss = classification_loss(class_logits(model(images)[0]), labels).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.eval()


@pytest.mark.parametrize("method", ["gradcam", "hirescam"])
def test_heat_lies_where_the_signal_is(method, trained):
    images, labels, masks = discs(40, 1000)
    images, masks = images[labels == 1], masks[labels == 1]
    found, logit = evidence(trained, images, method, ones(images))
    assert (logit > 0).float().mean() > 0.9
    share = share_inside(heat(found, 64), masks)
    area = masks.float().mean()  # what heat without aim would reach: 8%
    assert share.nanmean() > 3 * area


@pytest.mark.parametrize("method", ["gradcam", "hirescam"])
def test_randomised_weights_change_the_heat(method, trained):
    """Adebayo 2018: a map that survives a random network explains the image, not the network."""
    images, labels, _ = discs(40, 1000)
    images = images[labels == 1]
    ours, _ = evidence(trained, images, method, ones(images))
    other = network(**SE, filters=(8, 16, 32), reduction=4)
    theirs, _ = evidence(other, images, method, ones(images))
    similar = [
        np.abs(np.asarray(spearmanr(a.flatten(), b.flatten()))[0])
        for a, b in zip(ours, theirs, strict=True)
    ]
    assert np.mean(similar) < 0.5


def test_a_backbone_without_a_map_is_refused():
    model = network(architecture="timm", backbone="mixer_s16_224", input_size=224)
    with pytest.raises(UserError, match="gives no feature map"):
        evidence(model, noise(1, 224), "gradcam", torch.ones(1).long())


def test_the_share_on_rendered_cells_is_that_of_the_pixels_that_are_not_black(tmp_path: Path):
    """Where it lies is the network's affair: an untrained one proves the count, no more."""
    pixels = np.stack([render(c)[75:375:4, 75:375:4] for c in draw_cells(SyntheticSpec(4, 4))])
    settings = ModelSettings(**SE, weights="scratch")
    manifest = ModelManifest(
        model=settings, storage=StorageSettings(size=75), synthetic=True, recipe="se", seed=0,
        protocol="subject-disjoint", dataset_fingerprint="0" * 64,
    )  # fmt: skip
    write_bundle(tmp_path / "bundle", manifest, network(**SE))
    classifier = Classifier.load(tmp_path / "bundle")
    assert isinstance(classifier.model, ImageClassifier)
    for image, explained in zip(
        pixels, explain_pixels(classifier, pixels, "hirescam"), strict=True
    ):
        cell = image.any(axis=2)
        assert explained.cell == pytest.approx(cell.mean())
        assert 0.1 < explained.cell < 0.9
        inside, whole = explained.heat[cell].sum(), explained.heat.sum()
        assert explained.inside_cell == pytest.approx(inside / whole, rel=1e-4)
        assert explained.heat.max() == 1
        batch = torch.from_numpy(image[None]).permute(0, 3, 1, 2)
        found, logit = evidence(classifier.model, batch, "hirescam", ones(batch))
        agrees = (found > 0) == (logit > 0)
        expected = (found.abs() * agrees).sum() / found.abs().sum()
        assert explained.agreeing == pytest.approx(expected.item(), abs=1e-4)
    full = explain_pixels(classifier, np.maximum(pixels, 1), "gradcam")
    assert all(explained.inside_cell is None for explained in full)


def png(pixels: np.ndarray) -> bytes:
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG")
    return out.getvalue()


def test_the_command_writes_pictures_and_numbers(trained, tmp_path: Path):
    manifest = ModelManifest(
        model=ModelSettings(**SE, filters=(8, 16, 32), reduction=4, weights="scratch"),
        storage=StorageSettings(size=64, crop="full"), synthetic=True,
        protocol="subject-disjoint", dataset_fingerprint="0" * 64, recipe="se", seed=0,
    )  # fmt: skip
    write_bundle(tmp_path / "run" / "bundle", manifest, trained)
    images, _, masks = discs(2, 5)
    cell = images[1].permute(1, 2, 0).numpy() * masks[1, :, :, None].numpy()
    (tmp_path / "cell.png").write_bytes(png(cell))
    long = "f" * 246 + ".png"  # as long as a file system takes
    (tmp_path / long).write_bytes(png(images[1].permute(1, 2, 0).numpy() | 16))
    (tmp_path / "text.png").write_text("text")
    names = [str(tmp_path / name) for name in ("cell.png", long, "text.png")]
    command = ["explain", str(tmp_path / "run"), *names, "--out", str(tmp_path / "why")]
    done = CliRunner().invoke(cli, [*command, "--json"])
    assert done.exit_code == 0, done.output
    items = json.loads((tmp_path / "why" / "explanations.json").read_text())
    assert json.loads(done.output)["explanations"] == items
    first, second = items[0]["explanation"], items[1]["explanation"]
    assert first["method"] == "hirescam"
    assert first["toward"] == items[0]["label"]
    assert first["heat_inside_cell"] > first["cell_area"] > 0
    assert 0 < first["evidence_share"] <= 1
    assert second["heat_inside_cell"] is None  # no black surrounds it
    assert "not_an_image" in items[2]["error"]
    with Image.open(tmp_path / "why" / first["picture"]) as picture:
        assert picture.size == (128, 64)
    again = CliRunner().invoke(cli, command)
    assert "never overwritten" in str(again.exception)
