from typing import Any, get_args

import numpy as np
import pytest
import torch
from PIL import Image
from pydantic import ValidationError
from torch.utils._python_dispatch import TorchDispatchMode

from leuk_ray.models.drop_path import CounterDropPath, drop_paths
from leuk_ray.models.network import ImageClassifier
from leuk_ray.models.preprocess import Preprocess
from leuk_ray.models.settings import Attention, ModelSettings
from leuk_ray.models.zoo import build, class_logits
from leuk_ray.utils.errors import UserError

VIT = "vit_tiny_patch16_224.augreg_in21k"
SWIN = "swin_tiny_patch4_window7_224.ms_in1k"


def test_offline_weights_fit_strictly_and_know_imagenet():
    """Random weights give features that barely differ between images; trained ones do."""
    model = build(ModelSettings(), load_weights=True).eval()
    scratch = build(ModelSettings(weights="scratch"), load_weights=True).eval()
    pictures = torch.from_numpy(
        np.stack(
            [
                np.asarray(Image.linear_gradient("L").resize((160, 160)).convert("RGB")),
                np.asarray(Image.radial_gradient("L").resize((160, 160)).convert("RGB")),
            ]
        )
    ).permute(0, 3, 1, 2)

    def similarity(network: ImageClassifier) -> float:
        backbone: Any = network.backbone
        with torch.no_grad():
            features = backbone.forward_features(network.preprocess(pictures)).mean((2, 3))
        return float(torch.cosine_similarity(features[0], features[1], dim=0))

    assert similarity(model) < 0.9 < similarity(scratch)
    state = model.backbone.state_dict()
    # The stem's first BatchNorm has seen a million photographs.
    assert state["bn1.running_var"].std() > 0.1


def test_building_for_a_checkpoint_reads_no_weights(monkeypatch):
    def refuse(*arguments, **options):
        raise AssertionError("weights were read")

    monkeypatch.setattr("leuk_ray.models.zoo.initialise", refuse)
    build(ModelSettings(), load_weights=False)


@pytest.mark.parametrize("attention", get_args(Attention))
def test_every_attention_variant_trains_a_step(attention):
    settings = ModelSettings(input_size=64, attention=attention, weights="scratch")
    model = build(settings, load_weights=True)
    logits, embedding = model(torch.randint(0, 256, (4, 3, 80, 80), dtype=torch.uint8))
    assert logits.shape == (4, 2)
    assert embedding.shape == (4, 256)
    class_logits(logits).sum().backward()
    assert all(p.grad is not None for p in model.parameters())


def test_preprocessing_scales_0_to_255_and_resizes_once():
    preprocess = Preprocess(8, (0.5, 0.5, 0.5), (0.25, 0.5, 1.0))
    white = preprocess(torch.full((1, 3, 8, 8), 255, dtype=torch.uint8))
    assert white[0, :, 0, 0].tolist() == pytest.approx([2.0, 1.0, 0.5])
    assert preprocess(torch.zeros(1, 3, 32, 32)).shape == (1, 3, 8, 8)
    small = torch.rand(2, 3, 8, 8) * 255
    torch.testing.assert_close(preprocess(small)[:, 2], small[:, 2] / 255 - 0.5)


@pytest.mark.parametrize(
    ("backbone", "message"),
    [
        ("efficientnet_b99", "timm .* has none"),
        ("tf_efficientnet_lite0.nonsense", "has none; close: tf_efficientnet_lite0.in1k"),
        ("hf-hub:someone/model", "has none"),
        ("local-dir:/tmp/model", "has none"),
        ("vit_tiny_patch16_224.augreg_in21k", "gives no feature map"),
    ],
)
def test_unusable_backbones_are_refused(backbone: str, message: str):
    with pytest.raises(UserError, match=message) as caught:
        build(ModelSettings(backbone=backbone, input_size=224), load_weights=False)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"backbone": VIT, "input_size": 225}, "multiples of its patches of 16 .*input_size=224"),
        ({"backbone": SWIN, "input_size": 160}, "takes 224 pixels and no other size"),
        ({"architecture": "alexnet", "input_size": 32}, "32: AlexNet cannot take it"),
        ({"backbone": "inception_v3.tv_in1k", "input_size": 64}, "64: .* cannot take it"),
    ],
)
def test_a_size_the_network_cannot_take_is_refused_in_one_line(changes: dict, message: str):
    settings: dict[str, Any] = {"architecture": "timm"} | changes
    with pytest.raises(UserError, match=message) as caught:
        build(ModelSettings(**settings), load_weights=False)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("architecture", ["timm", "multi_attention"])
def test_a_transformer_pools_its_own_way(architecture):
    attention: Any = {"attention": "none"} if architecture == "multi_attention" else {}
    settings = ModelSettings(
        architecture=architecture, backbone=VIT, input_size=224, weights="scratch", **attention
    )
    logits, embedding = build(settings, load_weights=True)(torch.zeros(2, 3, 224, 224))
    assert logits.shape == (2, 2)
    assert embedding.shape == (2, 192 if architecture == "timm" else 256)


@pytest.mark.parametrize("backbone", ["vgg11.tv_in1k", "mobilenetv3_small_050.lamb_in1k"])
def test_what_follows_the_feature_map_is_left_out_where_attention_pools(backbone: str):
    """Unused parameters would stop DistributedDataParallel and swell every bundle."""
    settings = ModelSettings(backbone=backbone, input_size=64, attention="eca", weights="scratch")
    model = build(settings, load_weights=True)
    logits, _ = model(torch.zeros(2, 3, 64, 64))
    logits.sum().backward()
    assert all(p.grad is not None for p in model.parameters())
    assert sum(p.numel() for p in model.parameters()) < 12e6


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"architecture": "se_cnn", "attention": "multi", "weights": "scratch"}, "se or none"),
        ({"architecture": "se_cnn", "attention": "se"}, "no ImageNet weights"),
        ({"architecture": "se_cnn", "backbone": "resnet18"}, "backbone does not apply to"),
        ({"architecture": "timm", "attention": "none"}, "attention does not apply to"),
        ({"filters": (1, 2, 3)}, "filters does not apply to architecture multi_attention"),
        ({"weights": "imagenett"}, "neither imagenet, scratch"),
    ],
)
def test_settings_that_do_not_apply_are_refused(values: dict, message: str):
    with pytest.raises(ValidationError, match=message):
        ModelSettings(**values)


def test_settings_are_written_as_far_as_they_apply_and_read_back():
    settings = ModelSettings(architecture="se_cnn", attention="se", weights="scratch")
    written = settings.model_dump(mode="json")
    assert "backbone" not in written
    assert ModelSettings(**written) == settings
    assert "architecture" in ModelSettings().model_dump()


def test_weights_that_cannot_be_had_are_told_in_one_line(monkeypatch):
    def offline(*arguments, **options):
        if options.get("pretrained"):
            raise OSError("no route to host\nmore lines")
        return create(*arguments, **options)

    import timm

    create = timm.create_model
    monkeypatch.setattr(timm, "create_model", offline)
    with pytest.raises(UserError, match=r"no route to host\); .*weights=scratch") as caught:
        build(ModelSettings(backbone="resnet18.a1_in1k", input_size=64), load_weights=True)
    assert "\n" not in str(caught.value)


class _Convolutions(TorchDispatchMode):
    """Notes the device of every convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.devices: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten.convolution.default:
            self.devices.append(args[0].device.type)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("attention", ["none", "multi"])
def test_building_a_network_computes_nothing(attention: str):
    """A trial on real pixels took most of the time of small commands."""
    settings = ModelSettings.model_validate({"attention": attention})
    with _Convolutions() as seen:
        model = build(settings, load_weights=False)
    assert set(seen.devices) == {"meta"}
    assert {parameter.device.type for parameter in model.parameters()} == {"cpu"}


def test_stochastic_depth_drops_samples_by_the_numbers_handed_in():
    layer = CounterDropPath(0.25)
    layer.chance = torch.tensor([0.1, 0.3, 0.9])
    kept = layer(torch.ones(3, 2, 1, 1))[:, 0, 0, 0]
    torch.testing.assert_close(kept, torch.tensor([0.0, 4 / 3, 4 / 3]))
    assert torch.equal(layer.eval()(torch.ones(3)), torch.ones(3))
    settings = ModelSettings(weights="scratch", input_size=32, drop_path=0.2)
    rates = [one.rate for one in drop_paths(build(settings, load_weights=True))]
    assert rates == pytest.approx(np.linspace(0.0125, 0.1875, 15))  # as timm sets them
    with pytest.raises(UserError, match=r"drop_path 0\.2: .* has no stochastic depth"):
        build(
            ModelSettings(architecture="timm", backbone="vgg11", input_size=32, drop_path=0.2,
                          weights="scratch"),
            load_weights=True,
        )  # fmt: skip
