"""Augmentation as a part of a training step, and beside torchvision; one thread, no Ray.

    python benchmarks/augmentation.py [--rounds 9] [--results F.json]

The step is that of the recipe `lite` at 160 px with the 8 cells that each of two workers has,
policy saeed2022. torchvision's v2 transforms do the same policy a uint8 tensor at a time, as in a
DataLoader's dataset: rotation by 0, 20 or 30 degrees (bilinear), flips and brightness, each done
only where it is drawn. Noise for pixels, which costs what cells cost. The allocator is set as in a
training worker.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from results import Result, finish, ratios
from torch import Tensor
from torch.nn import functional as F
from torchvision.transforms import v2

from leuk_ray.augment.policies import apply, augment_tensors
from leuk_ray.augment.settings import AugmentSettings
from leuk_ray.cluster.ray_cluster import LOCAL_ENVIRONMENT
from leuk_ray.models.zoo import build
from leuk_ray.recipes.recipe import load_recipe
from leuk_ray.training.learner import Learner

POLICY = AugmentSettings(policy="saeed2022")


def pixels(num: int, side: int) -> Tensor:
    """(num, 3, side, side) uint8, channels last in memory, as a loader delivers them."""
    generator = torch.Generator().manual_seed(side)
    shape = (num, side, side, 3)
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator).permute(0, 3, 1, 2)


def augment(images: Tensor, copy: int) -> Tensor:
    """What a step does to a batch before the network sees it."""
    keys = np.arange(len(images), dtype=np.uint64)
    copy_index = np.full(len(images), copy, np.uint64)
    params = augment_tensors(
        POLICY, seed=0, keys=keys, copy_index=copy_index, side=images.shape[-1]
    )
    return apply(images, params, POLICY.fill)


def torchvision_policy() -> Callable[[Tensor], Tensor]:
    turns = [
        v2.RandomRotation((angle, angle), v2.InterpolationMode.BILINEAR) for angle in (20.0, 30.0)
    ]
    return v2.Compose(
        [
            v2.RandomChoice([v2.Identity(), *turns]),
            v2.RandomHorizontalFlip(0.5),
            v2.RandomVerticalFlip(0.5),
            v2.RandomApply([v2.ColorJitter(brightness=(0.2, 1.2))], 0.5),
        ]
    )


def seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def share_of_step(rounds: int) -> Result:
    """Seconds of the augmentation over those of the whole step."""
    recipe = load_recipe("lite")
    images = pixels(recipe.training.batch_size // 2, recipe.model.input_size)
    labels = torch.arange(len(images)).remainder(2).float()
    learner = Learner(build(recipe.model, load_weights=True), recipe.training)
    learner.start_epoch(0)
    keys = np.arange(len(images), dtype=np.uint64)

    def step(number: int) -> None:
        params = augment_tensors(
            POLICY, seed=0, keys=keys, copy_index=keys + np.uint64(number), side=images.shape[-1]
        )
        log_odds = learner.class_logits(images, params)[:, 0]
        learner.backward(F.binary_cross_entropy_with_logits(log_odds, labels))
        learner.step()

    for number in range(3):
        step(number)
    shares = []
    for number in range(3 * rounds):
        alone = seconds(lambda number=number: augment(images, number))
        shares.append(alone / seconds(lambda number=number: step(number)))
    return Result("augmentation, of a step of `lite` at 160 px", shares, 0.03, better="less")


def against_torchvision(side: int, rounds: int, num: int = 64) -> Result:
    """Images/s of whole batches over those of torchvision, a sample at a time."""
    images, policy = pixels(num, side), torchvision_policy()
    samples = [image.contiguous() for image in images]  # as it decodes and likes them
    batches = images.split(8)
    own, peer = [], []
    for number in range(rounds + 1):
        theirs = seconds(lambda: [policy(sample) for sample in samples])
        ours = seconds(lambda number=number: [augment(batch, number) for batch in batches])
        if number:  # the first round warms up
            own.append(num / ours)
            peer.append(num / theirs)
    return ratios(f"augmentation at {side} px, of torchvision v2", own, peer, 1.3)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--results", type=Path)
    options = parser.parse_args()
    if os.environ.keys().isdisjoint(LOCAL_ENVIRONMENT):  # glibc reads it when a process starts
        os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | LOCAL_ENVIRONMENT)
    torch.set_num_threads(1)
    torch.manual_seed(0)
    results = [share_of_step(options.rounds)]
    results += [against_torchvision(side, options.rounds) for side in (160, 300)]
    finish(results, options.results)


if __name__ == "__main__":
    main()
