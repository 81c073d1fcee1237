"""SE-CNN of bukhari2022 against the paper's sizes and a float64 NumPy reference."""

import numpy as np
import pytest
import torch
from timm.layers.squeeze_excite import SEModule
from torch.nn import functional as F

from leuk_ray.augment.settings import AugmentSettings
from leuk_ray.datasets.plan import uid_keys
from leuk_ray.models.se_cnn import SECNN
from leuk_ray.models.settings import ModelSettings
from leuk_ray.models.zoo import build, class_logits
from leuk_ray.recipes.training import TrainingSettings
from leuk_ray.training.cells import EpochPlanner, TrainingCells
from leuk_ray.training.learner import Learner
from leuk_ray.training.loop import train
from leuk_ray.training.losses import classification_loss
from leuk_ray.training.state import TrainingState


def settings(**changes) -> ModelSettings:
    base = {"architecture": "se_cnn", "attention": "se", "input_size": 224, "weights": "scratch"}
    return ModelSettings(**(base | changes))


def num_parameters(module: torch.nn.Module) -> int:
    return sum(p.numel() for p in module.parameters() if p.requires_grad)


def test_parameters_are_those_of_the_papers_layers():
    with_se = build(settings(), load_weights=True)
    without = build(settings(attention="none"), load_weights=True)
    assert num_parameters(with_se) == 113_263
    assert num_parameters(with_se) - num_parameters(without) == 2_926
    blocks = [m for m in with_se.modules() if isinstance(m, SEModule)]
    assert sum(num_parameters(block) for block in blocks) == 2_926
    assert not any(isinstance(m, SEModule) for m in without.modules())


def test_maps_have_the_papers_sizes():
    sides = []
    model = build(settings(), load_weights=True).eval()
    for module in model.backbone.modules():
        if isinstance(module, torch.nn.Conv2d) and module.kernel_size == (3, 3):
            module.register_forward_hook(lambda *call: sides.append(call[2].shape[-1]))
        if isinstance(module, torch.nn.MaxPool2d):
            module.register_forward_hook(lambda *call: sides.append(call[2].shape[-1]))
    logits, embedding = model(torch.zeros(1, 3, 224, 224, dtype=torch.uint8))
    assert sides == [222, 111, 109, 54, 52, 26]
    assert logits.shape == (1, 1)
    assert embedding.shape == (1, 128)


def test_blocks_run_in_the_documented_order():
    names = [[name for name, _ in block.named_children()] for block in SECNN().blocks]
    assert names == [["conv", "relu", "norm", "se", "pool"]] * 3


@pytest.mark.parametrize(("channels", "hidden"), [(32, 2), (64, 4), (128, 8), (5, 1)])
def test_squeeze_and_excitation_is_equations_3_to_6(channels: int, hidden: int):
    torch.manual_seed(channels)
    block = SEModule(channels, rd_channels=hidden).double()
    f = torch.randn(3, channels, 6, 4, dtype=torch.float64)
    weights = [p.detach().numpy() for p in block.parameters()]
    w1, b1, w2, b2 = weights[0][:, :, 0, 0], weights[1], weights[2][:, :, 0, 0], weights[3]
    z = f.numpy().mean((2, 3))
    s = 1 / (1 + np.exp(-(np.maximum(z @ w1.T + b1, 0) @ w2.T + b2)))
    expected = f.numpy() * s[:, :, None, None]
    np.testing.assert_allclose(block(f).detach().numpy(), expected, atol=1e-5)


def test_gradients_of_squeeze_and_excitation():
    torch.manual_seed(0)
    block = SEModule(8, rd_channels=2).double()
    block.act = torch.nn.ReLU()  # gradcheck needs the input untouched
    f = torch.randn(2, 8, 3, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(block, (f,))


def test_stride_1_and_other_widths_are_options():
    narrow = settings(filters=(16, 32, 64), pool_stride=1, input_size=40)
    model = build(narrow, load_weights=True).eval()
    assert isinstance(model.backbone, SECNN)
    features = model.backbone.forward_features(torch.zeros(1, 3, 40, 40))
    assert features.shape == (1, 64, 31, 31)  # 38, 37, 35, 34, 32, 31


@pytest.mark.parametrize("attention", ["se", "none"])
def test_the_networks_train_a_step(attention: str):
    torch.manual_seed(0)
    model = build(settings(attention=attention, input_size=64), load_weights=True).train()
    images = torch.randint(0, 256, (4, 3, 80, 80), dtype=torch.uint8)
    labels = torch.tensor([0, 1, 1, 0])
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    losses = []
    for _ in range(5):
        loss = classification_loss(class_logits(model(images)[0]), labels).mean()
        optimizer.zero_grad()
        loss.backward()
        assert all(p.grad is not None for p in model.parameters())
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]


def test_one_logit_means_what_two_do():
    """A sigmoid over z is the softmax over (0, z): same log-odds, same loss."""
    z = torch.tensor([[-3.0], [0.0], [5.0]], dtype=torch.float64)
    two = torch.cat([torch.zeros_like(z), z], dim=1)
    labels = torch.tensor([1, 0, 1])
    torch.testing.assert_close(class_logits(z), class_logits(two))
    losses = classification_loss(class_logits(z), labels)
    torch.testing.assert_close(losses, F.cross_entropy(two, labels, reduction="none"))
    torch.testing.assert_close(
        losses, F.binary_cross_entropy(z[:, 0].sigmoid(), labels.double(), reduction="none")
    )


def test_the_training_loop_takes_a_network_with_one_logit():
    """Through the loop of any recipe: optimizer groups, frozen statistics, loss, accuracy."""
    generator = np.random.default_rng(0)
    labels = np.arange(24) % 2
    pixels = generator.integers(0, 100, (24, 3, 40, 40), np.uint8)
    pixels[labels == 1, :, 10:30, 10:30] += 100
    rows = np.arange(24)
    uids = [f"c{n}" for n in rows]
    cells = TrainingCells(uids, labels, uid_keys(uids), rows[:16], rows[16:])

    class Memory:
        def iter_batches(self, batches):
            yield from (torch.from_numpy(pixels[batch]) for batch in batches)

    torch.manual_seed(0)
    model = build(settings(input_size=40), load_weights=True)
    training = TrainingSettings(
        epochs=8, batch_size=8, optimizer="adam", lr=1e-2, frozen_norm="backbone"
    )
    state = train(
        Learner(model, training), TrainingState(), EpochPlanner(cells, training, 0),
        Memory(), Memory(), AugmentSettings(policy="bukhari2022-pixel"), lambda metrics, save: None,
    )  # fmt: skip
    assert state.history[-1]["train_loss"] < 0.7 * state.history[0]["train_loss"]
    assert state.history[-1]["train_accuracy"] > 0.8
    assert state.history[-1]["validation_accuracy"] == 1
