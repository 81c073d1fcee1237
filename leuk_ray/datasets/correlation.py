"""Normalised cross-correlation of many pictures at every shift at once, by Fourier transform."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.fft import next_fast_len

_LEAST_VARIANCE = 1.0  # grey levels squared: what is flatter correlates with nothing
_MIN_OVERLAP = 0.25  # of the area
_AT_ONCE = 32  # transforms whose product is held


class TemplateBank:
    """Templates to be found in images of any shape."""

    def __init__(self, templates: Sequence[np.ndarray]) -> None:
        """Take (h, w) arrays of grey levels."""
        self._number = len(templates)
        self._groups: dict[tuple[int, ...], tuple[np.ndarray, np.ndarray]] = {}
        shapes = [template.shape for template in templates]
        for shape in set(shapes):
            rows = np.asarray([row for row, other in enumerate(shapes) if other == shape])
            stack = np.stack([templates[row] for row in rows]).astype(np.float32)
            self._groups[shape] = rows, stack - stack.mean(axis=(1, 2), keepdims=True)
        self._spectra: dict[tuple[tuple[int, ...], tuple[int, ...]], np.ndarray] = {}

    def search(self, image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Find where each template lies best within an image, (H, W) of grey levels.

        Returns:
            (n,) correlations, -1 where a template is larger than the image, and (n, 2) rows and
            columns of the templates' corners.
        """
        values, corners = np.full(self._number, -1.0), np.zeros((self._number, 2), np.int64)
        image = image.astype(np.float32) - np.float32(image.mean())
        shape = tuple(_fast_length(side) for side in image.shape)
        spectrum = np.fft.rfft2(image, shape)
        for size, (rows, stack) in self._groups.items():
            height, width = (
                whole - part + 1 for whole, part in zip(image.shape, size, strict=True)
            )
            if height < 1 or width < 1:
                continue
            spectra = self._spectra_of(size, stack, shape)
            scale = 1 / np.sqrt(_window_spread(image, *size))
            energy = np.sqrt(np.maximum((stack**2).sum(axis=(1, 2)), _LEAST_VARIANCE))
            for start in range(0, len(rows), _AT_ONCE):
                part = slice(start, start + _AT_ONCE)
                product = np.fft.irfft2(spectrum * spectra[part], shape)[:, :height, :width]
                match = (product * scale).reshape(len(product), -1)
                best = match.argmax(axis=1)
                values[rows[part]] = match[np.arange(len(best)), best] / energy[part]
                corners[rows[part]] = np.stack(np.divmod(best, width), axis=1)
        return values, corners

    def _spectra_of(
        self, size: tuple[int, ...], stack: np.ndarray, shape: tuple[int, ...]
    ) -> np.ndarray:
        if (size, shape) not in self._spectra:
            self._spectra[size, shape] = np.conj(np.fft.rfft2(stack, shape))
        return self._spectra[size, shape]


@dataclass(frozen=True)
class Shiftable:
    """An image's transform, and its sums over what it shares with another at every shift.

    shape: of the image. spectrum: of it, with room for all shifts. sums, spreads: (2, N, M), of
    grey levels and of their squared differences from the mean, with the image as the first and
    as the second.
    """

    shape: tuple[int, ...]
    spectrum: np.ndarray
    sums: np.ndarray
    spreads: np.ndarray

    @classmethod
    def of(cls, image: np.ndarray) -> Shiftable:
        """Prepare (h, w) grey levels."""
        image = image.astype(np.float32) - np.float32(image.mean())
        shape, number = _room(image.shape), _shared_area(image.shape)
        total, squares = _integral(image), _integral(image**2)
        sums, spreads = [], []
        for second in (False, True):
            spans = [
                _spans(side, room, second) for side, room in zip(image.shape, shape, strict=True)
            ]
            part, square = (_rectangles(values, *spans) for values in (total, squares))
            sums.append(part)
            spreads.append(square - part**2 / np.maximum(number, 1))
        spread = np.maximum(np.stack(spreads), _LEAST_VARIANCE * np.maximum(number, 1))
        return cls(
            image.shape,
            np.fft.rfft2(image, shape),
            np.stack(sums).astype(np.float32),
            spread.astype(np.float32),
        )


def best_overlaps(first: Shiftable, others: Sequence[Shiftable]) -> tuple[np.ndarray, np.ndarray]:
    """Find the best correlation of an image with others of its shape over what shifts leave shared.

    Returns:
        (n,) correlations over a quarter of the area or more, and (n, 2), how far below and right
        of `first`'s corner those of the others lie.
    """
    room, number = _room(first.shape), _shared_area(first.shape)
    enough = number >= _MIN_OVERLAP * math.prod(first.shape)
    values, shifts = np.zeros(len(others)), np.zeros((len(others), 2), np.int64)
    for place, other in enumerate(others):
        product = np.fft.irfft2(first.spectrum * np.conj(other.spectrum), room)
        covariance = product - first.sums[0] * other.sums[1] / np.maximum(number, 1)
        match = covariance / np.sqrt(first.spreads[0] * other.spreads[1])
        match[~enough] = -1
        best = np.unravel_index(int(match.argmax()), match.shape)
        values[place] = match[best]
        shifts[place] = [
            _shift(side, size)[at] for side, size, at in zip(first.shape, room, best, strict=True)
        ]
    return values, shifts


def _room(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(_fast_length(2 * side) for side in shape)


def _fast_length(side: int) -> int:
    return next_fast_len(side, real=True)  # pyright: ignore[reportReturnType]


def _shift(side: int, room: int) -> np.ndarray:
    """Return the shift that each place of a transform of `room` values stands for."""
    places = np.arange(room)
    return np.where(places < side, places, places - room)


def _spans(side: int, room: int, second: bool) -> tuple[np.ndarray, np.ndarray]:
    """First and last row of what is shared at each shift, in the first or the second image."""
    shift = _shift(side, room)
    low, high = np.maximum(shift, 0), np.minimum(side + shift, side)
    low, high = (low - shift, high - shift) if second else (low, high)
    return np.clip(low, 0, side), np.clip(np.maximum(high, low), 0, side)


def _shared_area(shape: tuple[int, ...]) -> np.ndarray:
    spans = [_spans(side, room, False) for side, room in zip(shape, _room(shape), strict=True)]
    return np.outer(*(stop - start for start, stop in spans)).astype(np.float32)


def _window_spread(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Sum of squared differences from the mean in every window: (H - h + 1, W - w + 1)."""
    total, squares = (_windows(_integral(values), height, width) for values in (image, image**2))
    area = height * width
    return np.maximum(squares - total**2 / area, _LEAST_VARIANCE * area).astype(np.float32)


def _windows(total: np.ndarray, height: int, width: int) -> np.ndarray:
    return (
        total[height:, width:] - total[:-height, width:]
        - total[height:, :-width] + total[:-height, :-width]
    )  # fmt: skip


def _rectangles(
    total: np.ndarray, rows: tuple[np.ndarray, np.ndarray], columns: tuple[np.ndarray, np.ndarray]
) -> np.ndarray:
    """Return sums over [top[i], bottom[i]) x [left[j], right[j]) for all i, j."""
    (top, bottom), (left, right) = rows, columns
    return (
        total[np.ix_(bottom, right)] - total[np.ix_(top, right)]
        - total[np.ix_(bottom, left)] + total[np.ix_(top, left)]
    )  # fmt: skip


def _integral(image: np.ndarray) -> np.ndarray:
    summed = image.astype(np.float64).cumsum(axis=0).cumsum(axis=1)
    return np.pad(summed, ((1, 0), (1, 0)))
