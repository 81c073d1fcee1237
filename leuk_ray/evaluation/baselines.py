"""Classical baselines: what a linear model sees in a cell's area, an SVM in colour and texture.

They are fitted on the training rows of a split alone and score the same rows as a network, so the
same report evaluates them. Area is the shortcut that every network should beat.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import pyarrow as pa
from sklearn.calibration import CalibratedClassifierCV
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

from leuk_ray.datasets.images import cell_mask
from leuk_ray.datasets.prepared import PixelReader
from leuk_ray.datasets.splits import EVALUATED_ROLES, rows_with_role
from leuk_ray.utils.errors import ConfigError, DataError
from leuk_ray.utils.wording import counted

BaselineName = Literal["area", "texture-svm"]
BASELINES: tuple[BaselineName, ...] = get_args(BaselineName)

_FOLDS = 5  # of the training groups, for the SVM's probabilities
_LEVELS = 16  # of grey, in the co-occurrence matrix
_OFFSETS = ((0, 1), (1, 0), (1, 1), (1, -1))  # neighbours to the right, below, and diagonal
_DISTANCES = (1, 4)  # pixels
_HUE_BINS = 8
_ROWS_PER_READ = 64


@dataclass(frozen=True)
class Features:
    """What a baseline sees in cells.

    rows: (N,) rows of the dataset, ascending. values: (N, F) float64.
    """

    rows: np.ndarray
    values: np.ndarray

    def of(self, rows: np.ndarray) -> np.ndarray:
        """Features of some of the rows, in their order: (n,) -> (n, F)."""
        places = np.searchsorted(self.rows, rows)
        assert np.array_equal(self.rows[places], rows), "not all rows were measured"
        return self.values[places]


@dataclass(frozen=True)
class BaselineScores:
    """rows: (N,) validation and test rows of the dataset, in the order of the split.

    logits: (N,) float64, their log-odds of ALL.
    """

    rows: np.ndarray
    logits: np.ndarray


def measure(names: Sequence[BaselineName], reader: PixelReader, rows: np.ndarray) -> list[Features]:
    """Measure what each baseline sees in cells, which depends on no split.

    Args:
        names: baselines.
        reader: reads the pixels of the rows.
        rows: (N,) of the dataset, ascending.
    """
    found: list[list[np.ndarray]] = [[] for _ in names]
    for start in range(0, len(rows), _ROWS_PER_READ):
        for image in reader.read(rows[start : start + _ROWS_PER_READ]):
            for name, values in zip(names, found, strict=True):
                values.append(_BASELINES[name][0](image))
    return [Features(rows, np.asarray(values)) for values in found]


def score_baseline(
    name: BaselineName, cells: pa.Table, split: pa.Table, seed: int, features: Features
) -> BaselineScores:
    """Fit a baseline on a split's training rows and score its validation and test rows.

    Args:
        name: `area`, logistic regression on the share of the picture that is cell, or
            `texture-svm`, an SVM with a radial kernel on colour and texture.
        cells, split: what to fit and score on.
        seed: of the folds that give the SVM its probabilities.
        features: of all rows that the split gives a role.

    Raises:
        UserError: a split of copies, which only training can augment, or a training set with
            too few groups of a class.
    """
    if "copy" in split.column_names:
        raise ConfigError(
            f"baseline {name}: the split is of augmented copies (paper-literal); it takes cells "
            "as they are, so give another protocol"
        )
    train = rows_with_role(cells, split, ("train",))
    rows = rows_with_role(cells, split, EVALUATED_ROLES)
    labels = np.asarray(cells["label"].take(pa.array(train)).to_pylist(), np.int64)
    groups = np.asarray(cells["group"].take(pa.array(train)).to_pylist(), object)
    smallest = min(len(set(groups[labels == label].tolist())) for label in (0, 1))
    if smallest < 2:
        raise DataError(
            f"baseline {name}: a class has {counted(smallest, 'group')} among the training cells, "
            "2 are needed; give it more subjects"
        )
    known = features.of(train)
    folds = StratifiedGroupKFold(min(_FOLDS, smallest), shuffle=True, random_state=seed)
    model = _BASELINES[name][1](list(folds.split(known, labels, groups)))
    model.fit(known, labels)
    probability = np.clip(model.predict_proba(features.of(rows))[:, 1], 1e-12, 1 - 1e-12)
    return BaselineScores(rows, np.log(probability) - np.log1p(-probability))


def area_features(image: np.ndarray) -> np.ndarray:
    """Measure the share of the picture that is cell, (1,), of (H, W, 3) uint8."""
    return np.asarray([cell_mask(image).mean()])


def texture_features(image: np.ndarray) -> np.ndarray:
    """Measure colour and texture of the cell in a picture, (77,), of (H, W, 3) uint8.

    Mean, spread and skewness of each channel, a histogram of hue weighted by saturation, and
    Haralick's contrast, homogeneity, energy, correlation and entropy (Haralick et al. 1973) of
    co-occurring levels of grey: four directions, two distances, cell pixels alone, and their
    means and ranges over the directions. Levels are cut at quantiles of the cell, so that they
    know nothing of its brightness.
    """
    mask = cell_mask(image)
    if mask.sum() < 2 * _LEVELS:
        return np.zeros(_NUM_TEXTURE)
    pixels = image[mask].astype(np.float64)
    mean, spread = pixels.mean(axis=0), pixels.std(axis=0) + 1e-9
    skewness = (((pixels - mean) / spread) ** 3).mean(axis=0)
    grey = image.astype(np.float64) @ (0.299, 0.587, 0.114)
    edges = np.quantile(grey[mask], np.linspace(0, 1, _LEVELS + 1)[1:-1])
    levels = np.searchsorted(edges, grey)
    texture = []
    for distance in _DISTANCES:
        found = np.asarray(
            [
                _haralick(_co_occurrence(levels, mask, dy * distance, dx * distance))
                for dy, dx in _OFFSETS
            ]
        )
        texture += [*found.ravel(), *found.mean(axis=0), *np.ptp(found, axis=0)]
    return np.concatenate([mean, spread, skewness, _hues(pixels), texture])


_NUM_TEXTURE = 9 + _HUE_BINS + len(_DISTANCES) * 5 * (len(_OFFSETS) + 2)


def _hues(pixels: np.ndarray) -> np.ndarray:
    """Histogram of hue, (8,), of (n, 3) pixels; each counts by its saturation."""
    red, green, blue = pixels.T
    opponent = np.sqrt(3) * (green - blue), 2 * red - green - blue
    turn = (np.arctan2(*opponent) / (2 * np.pi)) % 1
    weight = np.ptp(pixels, axis=1)
    index = np.minimum((turn * _HUE_BINS).astype(np.int64), _HUE_BINS - 1)
    return np.bincount(index, weight, minlength=_HUE_BINS) / max(1e-9, weight.sum())


def _co_occurrence(levels: np.ndarray, mask: np.ndarray, dy: int, dx: int) -> np.ndarray:
    """How often two levels are neighbours within the mask: (16, 16), symmetric, sum 1."""
    height, width = levels.shape
    here = slice(0, height - dy), slice(max(0, -dx), width - max(0, dx))
    there = slice(dy, height), slice(max(0, dx), width - max(0, -dx))
    both = mask[here] & mask[there]
    pairs = levels[here][both] * _LEVELS + levels[there][both]
    counts = np.bincount(pairs, minlength=_LEVELS**2).reshape(_LEVELS, _LEVELS)
    symmetric = (counts + counts.T).astype(np.float64)
    return symmetric / max(1.0, symmetric.sum())


def _haralick(matrix: np.ndarray) -> list[float]:
    """Contrast, homogeneity, energy, correlation, entropy of a co-occurrence matrix."""
    row, column = np.indices(matrix.shape)
    apart = (row - column) ** 2
    mean = (row * matrix).sum()
    variance = ((row - mean) ** 2 * matrix).sum()
    correlation = ((row - mean) * (column - mean) * matrix).sum() / max(1e-12, variance)
    filled = matrix[matrix > 0]
    return [
        float((apart * matrix).sum()),
        float((matrix / (1 + apart)).sum()),
        float(np.sqrt((matrix**2).sum())),
        float(correlation),
        float(-(filled * np.log(filled)).sum()),
    ]


Folds = list[tuple[np.ndarray, np.ndarray]]  # rows to fit on and rows held out, a pair a fold


def _logistic(_: Folds) -> Any:
    return make_pipeline(StandardScaler(), LogisticRegression(class_weight="balanced"))


def _svm(folds: Folds) -> Any:
    """Probabilities by a sigmoid on decisions about held-out groups (Platt 1999)."""
    svm = make_pipeline(StandardScaler(), SVC(C=1.0, gamma="scale", class_weight="balanced"))
    options: Any = {"ensemble": False}  # a bool, which its annotation forgets
    return CalibratedClassifierCV(svm, method="sigmoid", cv=folds, **options)


_BASELINES: dict[
    BaselineName, tuple[Callable[[np.ndarray], np.ndarray], Callable[[Folds], Any]]
] = {
    "area": (area_features, _logistic),
    "texture-svm": (texture_features, _svm),
}
