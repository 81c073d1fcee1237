"""Attention against float64 NumPy references written from the equations of saeed2022."""

import numpy as np
import pytest
import torch

from leuk_ray.models.attention import (
    AttendedAverage,
    ChannelAttention,
    ChannelSpatialPooling,
    SpatialAttention,
    WeightedAttentionAverage,
    global_weighted_average,
)
from leuk_ray.models.multi_attention import MultiAttentionHead

SHAPES = [(1, 16, 5, 5), (3, 32, 7, 4), (2, 48, 1, 1)]


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def features(shape: tuple[int, ...]) -> torch.Tensor:
    generator = torch.Generator().manual_seed(sum(shape))
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def array(parameter: torch.Tensor) -> np.ndarray:
    return parameter.detach().numpy()


def channel_reference(module: ChannelAttention, f: np.ndarray) -> np.ndarray:
    w0, w1 = array(module.w0.weight), array(module.w1.weight)
    average, maximum = f.mean((2, 3)), f.max((2, 3))
    return sigmoid(np.maximum(average @ w0.T, 0) @ w1.T + np.maximum(maximum @ w0.T, 0) @ w1.T)


def spatial_reference(module: SpatialAttention, f: np.ndarray) -> np.ndarray:
    pooled = np.stack([f.mean(1), f.max(1)], axis=1)
    padded = np.pad(pooled, ((0, 0), (0, 0), (1, 1), (1, 1)))
    kernel, (height, width) = array(module.conv.weight)[0], f.shape[2:]
    out = np.zeros((len(f), height, width))
    for y in range(3):
        for x in range(3):
            window = padded[:, :, y : y + height, x : x + width]
            out += np.einsum("nchw,c->nhw", window, kernel[:, y, x])
    return sigmoid(out)


def gwap_reference(f: np.ndarray, attention: np.ndarray) -> np.ndarray:
    return (attention[:, None] * f).sum((2, 3)) / attention.sum((1, 2))[:, None]


def weighted_average_reference(module: WeightedAttentionAverage, f: np.ndarray) -> np.ndarray:
    w = array(module.score.weight)[0]
    out = np.zeros(f.shape[:2])
    for n, image in enumerate(f):
        h = image.reshape(len(w), -1).T
        e = h @ w
        a = np.exp(e - e.max()) / np.exp(e - e.max()).sum()
        out[n] = a @ h
    return out


@pytest.mark.parametrize("shape", SHAPES)
def test_every_equation(shape):
    f = features(shape)
    channel = ChannelAttention(shape[1], reduction=16).double()
    np.testing.assert_allclose(
        array(channel.attention(f))[:, :, 0, 0], channel_reference(channel, f.numpy()), atol=1e-5
    )
    spatial = SpatialAttention().double()
    attention = spatial(f)
    np.testing.assert_allclose(
        array(attention)[:, 0], spatial_reference(spatial, f.numpy()), atol=1e-5
    )
    np.testing.assert_allclose(
        array(global_weighted_average(f, attention)),
        gwap_reference(f.numpy(), spatial_reference(spatial, f.numpy())),
        atol=1e-5,
    )
    average = WeightedAttentionAverage(shape[1]).double()
    np.testing.assert_allclose(
        array(average(f)), weighted_average_reference(average, f.numpy()), atol=1e-5
    )


@pytest.mark.parametrize("shape", SHAPES)
def test_the_branch_is_channel_then_spatial_then_gwap(shape):
    f, branch = features(shape), ChannelSpatialPooling(shape[1]).double()
    rescaled = f.numpy() * channel_reference(branch.channel, f.numpy())[:, :, None, None]
    expected = gwap_reference(rescaled, spatial_reference(branch.spatial, rescaled))
    np.testing.assert_allclose(array(branch(f)), expected, atol=1e-5)


@pytest.mark.parametrize("branch", [ChannelSpatialPooling(8, 2), WeightedAttentionAverage(8)])
def test_gradients(branch):
    f = features((2, 8, 3, 3)).requires_grad_()
    assert torch.autograd.gradcheck(branch.double(), (f,))


@pytest.mark.parametrize(
    ("attention", "merge", "width"),
    [
        ("se", "concat", 32),
        ("eca", "concat", 32),
        ("cbam", "concat", 32),
        ("channel_spatial", "concat", 32),
        ("weighted_average", "concat", 32),
        ("multi", "concat", 64),
        ("multi", "add", 32),
    ],
)
def test_head_variants(attention, merge, width):
    head = MultiAttentionHead(
        32,
        attention=attention,
        merge=merge,
        reduction=16,
        hidden=256,
        dropout=0.0,
        num_classes=2,
    )
    logits, embedding = head.eval()(torch.randn(3, 32, 5, 5))
    assert logits.shape == (3, 2)
    assert embedding.shape == (3, 256)
    assert head.norm.num_features == width
    expected = torch.nn.functional.elu(
        head.hidden(head.norm(torch.cat([b(torch.ones(1, 32, 5, 5)) for b in head.branches], 1)))
        if merge == "concat"
        else head.hidden(head.norm(sum(b(torch.ones(1, 32, 5, 5)) for b in head.branches)))
    )
    torch.testing.assert_close(head(torch.ones(1, 32, 5, 5))[1], expected)


def test_without_attention_the_head_takes_what_the_backbone_pooled():
    head = MultiAttentionHead(
        32, attention="none", merge="concat", reduction=16, hidden=8, dropout=0.0, num_classes=2
    )
    logits, embedding = head(torch.randn(3, 32))
    assert logits.shape == (3, 2)
    assert embedding.shape == (3, 8)


def test_eca_is_a_convolution_along_the_channels():
    """Wang 2020: sigmoid(conv1d(average)), its size the odd number nearest (log2 C + 1) / 2."""
    pooling = AttendedAverage("eca", 512).double()
    (kernel,) = [array(p) for p in pooling.parameters()]
    assert kernel.shape == (1, 1, 5)
    f = features((2, 512, 3, 4))
    padded = np.pad(f.numpy().mean((2, 3)), ((0, 0), (2, 2)))
    scores = np.sum([padded[:, k : k + 512] * kernel[0, 0, k] for k in range(5)], axis=0)
    expected = f.numpy().mean((2, 3)) * sigmoid(scores)
    np.testing.assert_allclose(array(pooling(f)), expected, atol=1e-5)


def test_cbam_is_channel_then_spatial_attention_then_average():
    torch.manual_seed(0)
    pooling = AttendedAverage("cbam", 32).double().eval()
    channel = ChannelAttention(32).double()
    for ours, theirs in (("w0", "fc1"), ("w1", "fc2")):
        kernel = pooling.get_parameter(f"block.channel.{theirs}.weight")
        channel.get_parameter(f"{ours}.weight").data = kernel[:, :, 0, 0]
    f = features((2, 32, 5, 5))
    rescaled = channel(f)
    expected = pooling.get_submodule("block.spatial")(rescaled).mean((2, 3))
    torch.testing.assert_close(pooling(f), expected)
