"""Whether the network can classify an image: its pixels and embedding against the training's.

Without statistics in the bundle only what is wrong for any network is found: blank, blurred beyond
use, several parts on black. With them, a picture must look like a training cell: shape,
sharpness, colour, and the embedding's distance to the training cells' (Lee et al. 2018), with
a covariance of few directions and one variance for the rest (Tipping and Bishop 1999).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file
from scipy import ndimage
from scipy.spatial import ConvexHull

from leuk_ray.bundles.manifest import FEATURES, SCOPE_FILE, Range, ScopeSettings
from leuk_ray.datasets.images import cell_mask
from leuk_ray.utils.errors import DataError

BLANK, BLURRED = "blank", "blurred"
NOT_A_SINGLE_CELL, OUT_OF_SCOPE = "not_a_single_cell", "out_of_scope"
REASONS = (BLANK, BLURRED, NOT_A_SINGLE_CELL, OUT_OF_SCOPE)

_SHAPE_SIDE = 150  # outlines are measured on at most twice as many pixels
_EMPTY, _FLAT = 0.01, 1.5  # share of the picture; grey levels
_MAX_DIRECTIONS, _VARIANCE = 32, 0.9
_QUANTILE, _MARGIN, _LEAST_WIDTH = 0.005, 0.15, 0.01
_ACCEPTED = 0.99
_FOLDS, _SLACK = 5, 1.25

# What a value below and above its range means.
_MEANING: dict[str, tuple[str, str]] = {
    "covered": (NOT_A_SINGLE_CELL, NOT_A_SINGLE_CELL),
    "border": (NOT_A_SINGLE_CELL, NOT_A_SINGLE_CELL),
    "second_part": (NOT_A_SINGLE_CELL, NOT_A_SINGLE_CELL),
    "solidity": (NOT_A_SINGLE_CELL, NOT_A_SINGLE_CELL),
    "elongation": (NOT_A_SINGLE_CELL, NOT_A_SINGLE_CELL),
    "straight": (NOT_A_SINGLE_CELL, NOT_A_SINGLE_CELL),
    "contrast": (BLURRED, OUT_OF_SCOPE),
    "sharpness": (BLURRED, OUT_OF_SCOPE),
    "red": (OUT_OF_SCOPE, OUT_OF_SCOPE),
    "green": (OUT_OF_SCOPE, OUT_OF_SCOPE),
}
assert tuple(_MEANING) == FEATURES
_RATIOS = ("elongation", "contrast", "sharpness")  # vary by factors
_IS_RATIO = np.asarray([name in _RATIOS for name in FEATURES])
_KINDS = tuple(  # shape, texture, colour
    [FEATURES.index(name) for name in FEATURES if _MEANING[name] == meaning]
    for meaning in dict.fromkeys(_MEANING.values())
)
_ANYWHERE: dict[str, Range] = {
    "second_part": (None, 0.25),
    "sharpness": (0.02, None),
}


class Neighbourhood:
    """Where the training cells' embeddings lie.

    mean: (D,). directions: (K, D), orthonormal. variances: (K,) along them; rest: of each
    other direction.
    """

    def __init__(
        self, mean: np.ndarray, directions: np.ndarray, variances: np.ndarray, rest: float
    ) -> None:
        self.mean, self.directions, self.variances, self.rest = mean, directions, variances, rest

    @classmethod
    def fit(cls, embedding: np.ndarray) -> Neighbourhood:
        """From the training cells' embeddings, (N, D), N >= 2."""
        embedding = embedding.astype(np.float64)
        mean = embedding.mean(axis=0)
        _, singular, rows = np.linalg.svd(embedding - mean, full_matrices=False)
        variances = singular**2 / (len(embedding) - 1)
        share = np.cumsum(variances) / max(variances.sum(), 1e-30)
        wanted = int(np.searchsorted(share, _VARIANCE)) + 1
        num = max(1, min(wanted, _MAX_DIRECTIONS, len(embedding) // 10))
        rest = variances[num:].sum() / max(embedding.shape[1] - num, 1)
        floor = max(1e-6 * variances[0], 1e-12)
        return cls(mean, rows[:num], np.maximum(variances[:num], floor), float(max(rest, floor)))

    def distance(self, embedding: np.ndarray) -> np.ndarray:
        """Mahalanobis distance per root of D: (N, D) -> (N,), about 1 for training cells.

        Raises:
            UserError: the embedding is another network's.
        """
        if embedding.shape[1:] != self.mean.shape:
            raise DataError(
                f"{SCOPE_FILE}: knows embeddings of {len(self.mean)} numbers, the network's have "
                f"{embedding.shape[1]}; calibrate the bundle anew"
            )
        centred = embedding.astype(np.float64) - self.mean
        along = centred @ self.directions.T
        left = np.maximum((centred**2).sum(axis=1) - (along**2).sum(axis=1), 0)
        squared = (along**2 / self.variances).sum(axis=1) + left / self.rest
        return np.sqrt(squared / embedding.shape[1])

    def save(self, path: Path) -> None:
        """Write as safetensors."""
        tensors = {"mean": self.mean, "directions": self.directions, "variances": self.variances}
        tensors["rest"] = np.asarray([self.rest])
        save_file({name: np.ascontiguousarray(value) for name, value in tensors.items()}, path)

    @classmethod
    def load(cls, path: Path) -> Neighbourhood:
        """Read what `save` wrote; a UserError if that is not what lies there."""
        try:
            read = load_file(path)
            found = cls(read["mean"], read["directions"], read["variances"], read["rest"].item())
        except (KeyError, ValueError, SafetensorError) as error:
            raise DataError(f"{path}: is not understood; calibrate the bundle anew") from error
        width, num = found.mean.shape[-1:], found.variances.shape[-1:]
        shapes = (found.mean.shape, found.directions.shape, found.variances.shape)
        finite = all(np.isfinite(each).all() for each in read.values())
        if shapes != (width, (*num, *width), num) or not finite or not found.spreads:
            raise DataError(f"{path}: contradicts itself; calibrate the bundle anew")
        return found

    @property
    def spreads(self) -> bool:
        """Whether every variance is one that can be divided by."""
        return bool((self.variances > 0).all() and self.rest > 0)


def measure(pixels: np.ndarray) -> dict[str, float]:
    """Measure the FEATURES of storage pixels, (S, S, 3) uint8.

    covered: share of the picture that is not black. border: the same of its outermost pixels.
    second_part: area of the second largest connected part as a share of the largest's.
    solidity: area of the largest part in that of its convex hull. elongation: ratio of its
    axes. straight: longest side of that hull over the root of its area, 0.2 for a disc and 1.6
    for half of one. contrast: standard deviation of green, 0..255, inside the part.
    sharpness: standard deviation of green's Laplacian over `contrast`. red, green: shares in
    the mean colour. A black picture has `covered` alone, and a contrast of 0.
    """
    mask = cell_mask(pixels)
    covered = float(mask.mean())
    if covered < _EMPTY:
        return {"covered": covered, "contrast": 0.0}
    border = np.concatenate([mask[0], mask[-1], mask[:, 0], mask[:, -1]]).mean()
    step = max(1, mask.shape[0] // _SHAPE_SIDE)
    coarse = mask[::step, ::step]
    colour = pixels[::step, ::step][coarse].sum(axis=0, dtype=np.float64)
    red, green = colour[:2] / max(colour.sum(), 1)
    shape = _shape(coarse)
    texture = _texture(np.ascontiguousarray(pixels[:, :, 1]), mask)
    values = (covered, border, *shape, *texture, red, green)
    return {name: float(value) for name, value in zip(FEATURES, values, strict=True)}


def pixel_reasons(features: dict[str, float], settings: ScopeSettings | None) -> list[str]:
    """Say why an image with these features cannot be classified, clearest first; [] if it can."""
    if features["covered"] < _EMPTY or features["contrast"] < _FLAT:
        return [BLANK]
    ranges = _ANYWHERE if settings is None else settings.ranges
    found: set[str] = set()
    for name, (low, high) in ranges.items():
        below, above = _MEANING[name]
        if low is not None and features[name] < low:
            found.add(below)
        if high is not None and features[name] > high:
            found.add(above)
    return [reason for reason in REASONS if reason in found]


def fit_scope(
    features: Sequence[dict[str, float]], embedding: np.ndarray, groups: Sequence[str]
) -> tuple[ScopeSettings, Neighbourhood]:
    """Fit the scope of a network to its training cells.

    What is accepted is set by cells of groups left out of the fit: the network knows its
    training cells better than any others, and few cells do not show how far others stray. The
    ranges hold all but the outermost cells, and a margin for each kind of feature, as wide as all
    but one in a hundred of those left out need; the distance is the largest but for one in a
    hundred of them, with slack.

    Args:
        features: of N cells, from `measure`; at least 20.
        embedding: (N, D) of the same cells.
        groups: (N,) what must not be parted.
    """
    _, numbers = np.unique(np.asarray(groups), return_inverse=True)
    folds = [numbers % _FOLDS == fold for fold in range(_FOLDS)]
    folds = [out for out in folds if out.any() and (~out).sum() >= 2]
    values = np.asarray([[cell.get(name, np.nan) for name in FEATURES] for cell in features])
    scaled = np.where(_IS_RATIO, np.log(np.maximum(values, 1e-6)), values)
    low, high = _inner(scaled)
    margin = _MARGIN * _width(low, high)
    if folds:
        strayed = np.concatenate([_strayed(scaled[out], _inner(scaled[~out])) for out in folds])
        for kind in _KINDS:
            needed = np.quantile(strayed[:, kind].max(axis=1), _ACCEPTED)
            margin[kind] *= max(1.0, needed / _MARGIN)
    ends = np.stack([low - margin, high + margin], axis=1)
    ends = np.where(_IS_RATIO[:, None], np.exp(ends), ends)
    ranges: dict[str, Range] = dict(zip(FEATURES, map(tuple, ends.tolist()), strict=True))
    typical = {
        name: (float(np.nanmean(column)), float(np.nanstd(column)))
        for name, column in zip(FEATURES, values.T, strict=True)
    }
    outside = [Neighbourhood.fit(embedding[~out]).distance(embedding[out]) for out in folds]
    neighbourhood = Neighbourhood.fit(embedding)
    distances = np.concatenate(outside) if outside else neighbourhood.distance(embedding)
    distance = _SLACK * float(np.quantile(distances, _ACCEPTED))
    typical["distance"] = (float(distances.mean()), float(distances.std()))
    return ScopeSettings(ranges=ranges, distance=distance, typical=typical), neighbourhood


def _inner(scaled: np.ndarray) -> np.ndarray:
    """Range of each feature without the outermost cells: (N, F) -> (2, F)."""
    return np.nanquantile(scaled, [_QUANTILE, 1 - _QUANTILE], axis=0)


def _width(low: np.ndarray, high: np.ndarray) -> np.ndarray:
    # Cells that all have, say, nothing at the border do not say how little would be too much.
    return np.maximum(high - low, _LEAST_WIDTH)


def _strayed(scaled: np.ndarray, inner: np.ndarray) -> np.ndarray:
    """How far each cell lies outside of each range, in widths of it, 0 inside: (N, F)."""
    low, high = inner
    beyond = np.maximum(low - scaled, scaled - high) / _width(low, high)
    return np.nan_to_num(np.maximum(beyond, 0))


def _texture(channel: np.ndarray, mask: np.ndarray) -> tuple[float, float]:
    inner = np.zeros_like(mask)
    inner[3:-3, 3:-3] = (
        mask[3:-3, 3:-3] & mask[:-6, 3:-3] & mask[6:, 3:-3] & mask[3:-3, :-6] & mask[3:-3, 6:]
    )
    if not inner.any():
        inner = mask
    values = channel.astype(np.int16)
    laplacian = np.zeros_like(values)
    laplacian[1:-1, 1:-1] = (
        values[:-2, 1:-1] + values[2:, 1:-1] + values[1:-1, :-2] + values[1:-1, 2:]
        - 4 * values[1:-1, 1:-1]
    )  # fmt: skip
    contrast = float(values[inner].std())
    return contrast, float(laplacian[inner].std()) / max(contrast, 1e-6)


def _shape(mask: np.ndarray) -> tuple[float, float, float, float]:
    """second_part, solidity, elongation, straight: see `measure`."""
    labels, _ = ndimage.label(mask)  # pyright: ignore[reportGeneralTypeIssues]
    areas = np.bincount(labels.ravel(), minlength=2)
    areas[0] = 0
    largest = int(areas.argmax())
    area = int(areas[largest])
    if area < 3:  # specks
        return 0.0, 1.0, 1.0, 0.0
    second = np.partition(areas, -2)[-2] / area
    rows, columns = np.nonzero(labels == largest)  # rows ascend
    first = np.flatnonzero(np.diff(rows, prepend=-1))
    last = np.append(first[1:], len(rows)) - 1
    ends = np.stack([rows, columns], axis=1)[np.concatenate([first, last])]
    corners = np.concatenate([ends + offset for offset in ((0, 0), (0, 1), (1, 0), (1, 1))])
    hull = ConvexHull(corners)
    outline = corners[hull.vertices]
    sides = np.hypot(*(outline - np.roll(outline, 1, axis=0)).T)
    straight = sides.max() / np.sqrt(hull.volume)  # in a plane, `volume` is the area
    small, large = np.linalg.eigvalsh(np.cov(np.stack([rows, columns])))
    elongation = np.sqrt((large + 1 / 12) / (small + 1 / 12))  # 1/12: a pixel has a width
    return float(second), area / float(hull.volume), float(elongation), float(straight)
