"""Mixup and CutMix: what is mixed, how much, and what the loss makes of it."""

import numpy as np
import pytest
import torch

from leuk_ray.augment.mixing import mix_images, mix_parameters
from leuk_ray.augment.settings import AugmentSettings
from leuk_ray.datasets.plan import plan_epoch, uid_keys
from leuk_ray.training.learner import Learner, Microbatch
from tests.support.toy_training import SETTINGS, make_model

SIDE, NUM = 40, 400
KEYS = uid_keys([f"c{n}" for n in range(NUM)])


def mixed(copy: int = 0, **settings):
    mix = mix_parameters(
        AugmentSettings(**settings),
        seed=0, keys=KEYS, copy_index=np.full(NUM, copy, np.uint64), side=SIDE,
    )  # fmt: skip
    assert mix is not None
    return mix


def test_mixup_blends_by_the_share_of_the_label():
    mix = mixed(mixup=0.4)
    images = mix_images(torch.ones(NUM, 3, SIDE, SIDE), torch.zeros(NUM, 3, SIDE, SIDE), mix)
    torch.testing.assert_close(images, mix.share[:, None, None, None].expand_as(images))
    assert mix.share.min() >= 0.5
    assert mix.share.max() <= 1
    # The mean of max(x, 1 - x) of Beta(0.4, 0.4), by 10 million samples of NumPy's.
    assert float(mix.share.mean()) == pytest.approx(0.840, abs=0.02)


def test_cutmix_pastes_a_square_whose_area_is_the_partners_share():
    mix = mixed(cutmix=1.0)
    images = mix_images(torch.ones(NUM, 3, SIDE, SIDE), torch.zeros(NUM, 3, SIDE, SIDE), mix)
    assert set(images.unique().tolist()) == {0.0, 1.0}
    torch.testing.assert_close(images.mean(dim=(1, 2, 3)), mix.share)
    assert mix.share.min() >= 0.5
    corners = mix.box[:, :2][mix.share < 1]
    assert len(corners.unique(dim=0)) > 200, "boxes lie anywhere"


def test_parameters_are_a_hash_of_sample_and_copy():
    first, again, other = (mixed(copy=copy, mixup=0.4, cutmix=1.0) for copy in (0, 0, 1))
    assert torch.equal(first.share, again.share)
    assert not torch.equal(first.share, other.share)
    cut = (first.box[:, 0] < first.box[:, 2]).float().mean()
    assert 0.4 < cut < 0.6
    assert mix_parameters(
        AugmentSettings(), seed=0, keys=KEYS, copy_index=np.zeros(NUM, np.uint64), side=SIDE
    ) is None  # fmt: skip


def test_partners_are_others_of_the_batch_each_once():
    rows = np.arange(23)
    plan = plan_epoch(rows, rows % 2, seed=0, epoch=0, balance="none", batch_size=8)
    for batch in range(len(plan)):
        parts = [plan.share(batch, rank, 3) for rank in range(3)]
        partners = np.concatenate([plan.partners(batch, part) for part in parts])
        whole = np.arange(plan.bounds[batch], plan.bounds[batch + 1])
        assert sorted(partners) == whole.tolist()
        assert not (partners == whole).any()


def test_the_loss_is_shared_as_the_label_is():
    """Shares of 1 and 0.5 of the same pictures: labels alone tell the losses apart."""
    mix = mixed(mixup=0.4)
    mix = mix._replace(share=torch.tensor([1.0, 0.5]), box=torch.zeros(2, 4, dtype=torch.int32))
    learner = Learner(make_model(), SETTINGS)
    learner.start_epoch(0)
    image = 255 * torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    images, ones = image.expand(4, -1, -1, -1), torch.ones(4)

    def loss(labels: list[int], how) -> float:
        count = len(labels) if how is None else len(labels) // 2
        labels_of = torch.tensor(labels)
        with torch.no_grad():
            found = learner.class_logits(images[:count], None)
        assert found.shape == (count, 1)
        used = images[: len(labels)], None, labels_of, ones[: len(labels)], 1.0, how
        return float(learner.learn(Microbatch(*used))[0])

    zero, one = loss([0, 0], None) / 2, loss([1, 1], None) / 2
    assert loss([0, 0, 1, 1], mix) == pytest.approx(zero + (zero + one) / 2, rel=1e-4)
