"""Compound scaling by the equations is what timm's networks are."""

import pytest
import timm
from timm.models.efficientnet import EfficientNet

from leuk_ray.models.scaling import ALPHA, BETA, GAMMA, CompoundScaling


def stages(name: str) -> list[tuple[int, int]]:
    """Blocks and output channels of each stage."""
    network = timm.create_model(name, pretrained=False)
    assert isinstance(network, EfficientNet)
    return [
        (
            len(list(stage.children())),
            [p.shape[0] for p in stage.parameters() if p.ndim == 4][-1],  # of its last convolution
        )
        for stage in network.blocks.children()
    ]


def test_phi_2_gives_the_stages_of_b3():
    scaling = CompoundScaling(2)
    scaled = [(scaling.repeats(n), scaling.channels(c)) for n, c in stages("efficientnet_b0")]
    assert scaled == stages("efficientnet_b3")
    assert 224 * scaling.resolution == pytest.approx(300, rel=0.02)


def test_the_constraint_and_phi_0():
    assert pytest.approx(2, rel=0.05) == ALPHA * BETA**2 * GAMMA**2
    assert min(ALPHA, BETA, GAMMA) >= 1
    assert CompoundScaling(0).flops == 1
    assert CompoundScaling(3).flops == pytest.approx(2**3, rel=0.15)
