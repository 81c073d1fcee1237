"""Parameters of the policies: a hash of (seed, uid, draw), apart from their application."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from leuk_ray.augment.keys import uniform


@dataclass(frozen=True)
class Draw:
    """Explicit parameters of a batch, one entry a sample.

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
    def identity(cls, count: int) -> Draw:
        """Parameters that change nothing."""
        one, no = np.ones(count), np.zeros(count, bool)
        return cls(np.zeros(count), one, no, no, np.zeros((count, 2)), np.ones((count, 2)), one)


def draw_saeed2022(seed: int, keys: np.ndarray, draws: np.ndarray, side: int) -> Draw:
    """A04: rotation from {0, 20, 30} degrees, brightness U(0.2, 1.2) and each flip with p 0.5.

    The paper gives no probabilities; these are ours.

    Args:
        seed: of the run.
        keys: (N,) uint64, one for each uid (`plan.uid_keys`).
        draws: (N,) uint64, number of the draw.
        side: of the images, pixels.
    """
    del side
    u = uniform(seed, keys, draws, 5)
    return replace(
        Draw.identity(len(keys)),
        angle=_choose((0.0, 20.0, 30.0), u[:, 0]),
        flip_x=u[:, 1] < 0.5,
        flip_y=u[:, 2] < 0.5,
        brightness=np.where(u[:, 3] < 0.5, 0.2 + u[:, 4], 1.0),
    )


def draw_bukhari2022(seed: int, keys: np.ndarray, draws: np.ndarray, side: int) -> Draw:
    """B03: rotation from {0, 60, 90} degrees; shift by up to 10% of the side in x and y.

    The paper's "random shift (-1, 1)" has no unit; see `draw_bukhari2022_pixel`.
    """
    del side
    u = uniform(seed, keys, draws, 3)
    angle = _choose((0.0, 60.0, 90.0), u[:, 0])
    return replace(Draw.identity(len(keys)), angle=angle, shift=0.2 * u[:, 1:] - 0.1)


def draw_bukhari2022_pixel(seed: int, keys: np.ndarray, draws: np.ndarray, side: int) -> Draw:
    """B03 to the letter: as above, but one pixel left or right and one up or down.

    That is what the list (-1, 1) means to Keras: one of its elements, in pixels.
    """
    u = uniform(seed, keys, draws, 3)
    angle = _choose((0.0, 60.0, 90.0), u[:, 0])
    shift = np.where(u[:, 1:] < 0.5, -1.0, 1.0) / side
    return replace(Draw.identity(len(keys)), angle=angle, shift=shift)


def draw_modern(seed: int, keys: np.ndarray, draws: np.ndarray, side: int) -> Draw:
    """Any rotation, flips with p 0.5, scale within 10%, each stain within 15%, light within 10%.

    A smear has no up and no left, and stains differ between batches; the size of a cell is
    a cue, so it changes little.
    """
    del side
    u = uniform(seed, keys, draws, 7)
    return replace(
        Draw.identity(len(keys)),
        angle=360 * u[:, 0],
        flip_x=u[:, 1] < 0.5,
        flip_y=u[:, 2] < 0.5,
        scale=0.9 + 0.2 * u[:, 3],
        stain=0.85 + 0.3 * u[:, 4:6],
        brightness=0.9 + 0.2 * u[:, 6],
    )


POLICIES: dict[str, Callable[[int, np.ndarray, np.ndarray, int], Draw]] = {
    "saeed2022": draw_saeed2022,
    "bukhari2022": draw_bukhari2022,
    "bukhari2022-pixel": draw_bukhari2022_pixel,
    "modern": draw_modern,
}


def _choose(values: tuple[float, ...], u: np.ndarray) -> np.ndarray:
    return np.asarray(values)[(u * len(values)).astype(np.int64)]
