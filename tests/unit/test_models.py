import numpy as np
import pytest
import torch
from PIL import Image

from leuk_ray.errors import UserError
from leuk_ray.models.preprocess import Preprocess
from leuk_ray.models.settings import ModelSettings
from leuk_ray.models.zoo import build, positive_logit


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

    def similarity(network: torch.nn.Module) -> float:
        with torch.no_grad():
            features = network.backbone.forward_features(network.preprocess(pictures)).mean((2, 3))
        return float(torch.cosine_similarity(features[0], features[1], dim=0))

    assert similarity(model) < 0.9 < similarity(scratch)
    state = model.backbone.state_dict()
    # The stem's first BatchNorm has seen a million photographs.
    assert state["bn1.running_var"].std() > 0.1


def test_building_for_a_checkpoint_reads_no_weights(monkeypatch):
    def refuse(*arguments, **options):
        raise AssertionError("weights were read")

    monkeypatch.setattr("leuk_ray.models.weights.load_imagenet", refuse)
    build(ModelSettings(), load_weights=False)


@pytest.mark.parametrize("attention", ["none", "channel_spatial", "weighted_average", "multi"])
def test_every_attention_variant_trains_a_step(attention):
    settings = ModelSettings(input_size=64, attention=attention, weights="scratch")
    model = build(settings, load_weights=True)
    logits, embedding = model(torch.randint(0, 256, (4, 3, 80, 80), dtype=torch.uint8))
    assert logits.shape == (4, 2)
    assert embedding.shape == (4, 256)
    positive_logit(logits).sum().backward()
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
        ("vit_base_patch16_224.augreg2_in21k_ft_in1k", "gives no feature map"),
    ],
)
def test_unusable_backbones_are_refused(backbone: str, message: str):
    with pytest.raises(UserError, match=message):
        build(ModelSettings(backbone=backbone, input_size=224), load_weights=False)


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
