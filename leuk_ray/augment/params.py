"""Augmentation parameters of each policy, a pure function of (seed, uid, copy index)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from leuk_ray.augment.keys import uniform


@dataclass(frozen=True)
class AugmentParams:
    """Augmentation parameters of a batch, one entry a sample.

    angle: (N,) degrees counter-clockwise.
    scale: (N,) factor on the cell's size, about the image's centre.
    flip_x, flip_y: (N,) bool, horizontal and vertical flip, after the rotation.
    shift: (N, 2) fraction of the side to the right and down, after the flips.
    stain: (N, 2) factors on the optical density of the blue and the red stain.
    brightness: (N,) factor that multiplies every pixel.
    """

    angle: np.ndarray
    scale: np.ndarray
    flip_x: np.ndarray
    flip_y: np.ndarray
    shift: np.ndarray
    stain: np.ndarray
    brightness: np.ndarray

    @classmethod
    def identity(cls, count: int) -> AugmentParams:
        """Return parameters that change nothing."""
        one, no = np.ones(count), np.zeros(count, bool)
        return cls(np.zeros(count), one, no, no, np.zeros((count, 2)), np.ones((count, 2)), one)


def saeed2022_params(
    seed: int, keys: np.ndarray, copy_index: np.ndarray, side: int
) -> AugmentParams:
    """Rotate by 0, 20 or 30 degrees, scale brightness by U(0.2, 1.2), flip with p 0.5 each.

    saeed2022, augmentation (section 3.A). The paper gives no probabilities; these are ours.

    Args:
        seed: of the run.
        keys: (N,) uint64, one for each uid (`plan.uid_keys`).
        copy_index: (N,) uint64, which copy of its row each sample is.
        side: of the images, pixels.
    """
    del side
    u = uniform(seed, keys, copy_index, 5)
    return replace(
        AugmentParams.identity(len(keys)),
        angle=_choose((0.0, 20.0, 30.0), u[:, 0]),
        flip_x=u[:, 1] < 0.5,
        flip_y=u[:, 2] < 0.5,
        brightness=np.where(u[:, 3] < 0.5, 0.2 + u[:, 4], 1.0),
    )


def bukhari2022_params(
    seed: int, keys: np.ndarray, copy_index: np.ndarray, side: int
) -> AugmentParams:
    """Rotate by 0, 60 or 90 degrees; shift by up to 10% of the side in x and y.

    bukhari2022, augmentation. Its "random shift (-1, 1)" has no unit; see
    `bukhari2022_pixel_params`.
    """
    del side
    u = uniform(seed, keys, copy_index, 3)
    angle = _choose((0.0, 60.0, 90.0), u[:, 0])
    return replace(AugmentParams.identity(len(keys)), angle=angle, shift=0.2 * u[:, 1:] - 0.1)


def bukhari2022_pixel_params(
    seed: int, keys: np.ndarray, copy_index: np.ndarray, side: int
) -> AugmentParams:
    """Rotate by 0, 60 or 90 degrees; shift one pixel left or right and one up or down.

    bukhari2022, augmentation, to the letter: of the list (-1, 1) Keras takes one, in pixels.
    """
    u = uniform(seed, keys, copy_index, 3)
    angle = _choose((0.0, 60.0, 90.0), u[:, 0])
    shift = np.where(u[:, 1:] < 0.5, -1.0, 1.0) / side
    return replace(AugmentParams.identity(len(keys)), angle=angle, shift=shift)


def modern_params(seed: int, keys: np.ndarray, copy_index: np.ndarray, side: int) -> AugmentParams:
    """Rotate by any angle, flip with p 0.5; vary size and light by 10%, each stain by 15%.

    A smear has no up and no left, and stains differ between batches; the size of a cell is
    a cue, so it changes little.
    """
    del side
    u = uniform(seed, keys, copy_index, 7)
    return replace(
        AugmentParams.identity(len(keys)),
        angle=360 * u[:, 0],
        flip_x=u[:, 1] < 0.5,
        flip_y=u[:, 2] < 0.5,
        scale=0.9 + 0.2 * u[:, 3],
        stain=0.85 + 0.3 * u[:, 4:6],
        brightness=0.9 + 0.2 * u[:, 6],
    )


POLICIES: dict[str, Callable[[int, np.ndarray, np.ndarray, int], AugmentParams]] = {
    "saeed2022": saeed2022_params,
    "bukhari2022": bukhari2022_params,
    "bukhari2022-pixel": bukhari2022_pixel_params,
    "modern": modern_params,
}


def _choose(values: tuple[float, ...], u: np.ndarray) -> np.ndarray:
    return np.asarray(values)[(u * len(values)).astype(np.int64)]
