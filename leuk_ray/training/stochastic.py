"""What is random about a microbatch: functions of (seed, uid, copy index), without a generator."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from leuk_ray.augment.keys import DROP, uniform
from leuk_ray.augment.mixing import mix_parameters
from leuk_ray.augment.policies import augment_tensors
from leuk_ray.augment.settings import AugmentSettings
from leuk_ray.training.learner import Learner
from leuk_ray.utils.device import to_device


def random_parts(
    learner: Learner,
    augmentation: AugmentSettings,
    *,
    seed: int,
    keys: np.ndarray,
    copy_index: np.ndarray,
    samples: int,
    side: int,
) -> dict[str, Any]:
    """Compute `params`, `mix` and `chances` of a Microbatch, on the learner's device.

    Args:
        learner: of the microbatch.
        augmentation: of the recipe.
        seed, keys, copy_index: see `policies.augment_tensors`; where samples are mixed, those of
            their partners follow.
        samples: how many of them are no partners.
        side: of the images, pixels.
    """
    own: dict[str, Any] = {"seed": seed, "keys": keys[:samples], "copy_index": copy_index[:samples]}
    params = augment_tensors(augmentation, seed=seed, keys=keys, copy_index=copy_index, side=side)
    mix = mix_parameters(augmentation, **own, side=side)
    chances = None
    if layers := len(learner.drop_paths):
        numbers = uniform(**own, count=layers, stream=DROP).astype(np.float32)
        chances = to_device(torch.from_numpy(numbers), learner.device)
    return {
        "params": params and params.to(learner.device),
        "mix": mix and mix.to(learner.device),
        "chances": chances,
    }
