"""What a classifier reaches that sees no cell: only its area, its file, or its mean colour.

An area under ROC well above 0.5 means that a network can be right for the wrong reason. Scores
come from group cross-validation, so a subject's own cells do not help.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedGroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from leuk_ray.datasets.images import cell_mask
from leuk_ray.datasets.prepared import PixelReader
from leuk_ray.datasets.splits import eligible
from leuk_ray.utils.wording import counted

FOLDS = 5
MAX_CELLS = 20_000
_ROWS_PER_READ = 64


def shortcut_baselines(
    cells: pa.Table,
    reader: PixelReader,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[dict[str, dict], dict[str, dict[str, dict]]]:
    """Area under ROC without looking at a cell.

    Args:
        cells: `PreparedDataset.cells`; the labelled, kept ones are used, of more than 20,000 so
            many, evenly spaced.
        reader: reads the pixels of these rows, 64 at a time.
        progress: called with (cells read, cells in all).

    Returns:
        name -> {logistic_regression, gradient_boosting: AUC or None, cells, folds, note}, None
        with a note where the feature never varies or a class has fewer than two groups; and the
        same for each source that has both classes, where there are several sources.
    """
    row_of = {uid: row for row, uid in enumerate(cells["uid"].to_pylist())}
    used = eligible(cells)
    if len(used) > MAX_CELLS:
        used = used.take(np.linspace(0, len(used) - 1, MAX_CELLS).astype(np.int64))
    rows = np.asarray([row_of[uid] for uid in used["uid"].to_pylist()], np.int64)
    area, color = _pixel_features(reader, rows, progress)
    resolution, file = _file_features(used)
    features = {
        "cell area": area[:, None],
        "image resolution": resolution,
        "file format and size": file,
        "mean colour": color,
    }
    labels = np.asarray(used["label"].to_pylist(), np.int64)
    groups = np.asarray(used["group"].to_pylist(), object)
    sources = np.asarray(used["source"].fill_null("unnamed source").to_pylist(), object)

    def measured(own: np.ndarray) -> dict[str, dict]:
        return {
            name: _baseline(values[own], labels[own], groups[own])
            for name, values in features.items()
        }

    several = {name: sources == name for name in dict.fromkeys(sources.tolist())}
    both = {name: own for name, own in several.items() if len(set(labels[own].tolist())) == 2}
    with threadpool_limits(
        1
    ):  # small fits: threads that wait for each other take ten times as long
        return measured(np.ones(len(labels), bool)), {
            name: measured(own) for name, own in both.items() if len(several) > 1
        }


def _pixel_features(
    reader: PixelReader, rows: np.ndarray, progress: Callable[[int, int], None]
) -> tuple[np.ndarray, np.ndarray]:
    """Share of the stored square that is cell, (n,), and mean RGB of the cell, (n, 3)."""
    area, color = np.zeros(len(rows)), np.zeros((len(rows), 3))
    for start in range(0, len(rows), _ROWS_PER_READ):
        part = slice(start, start + _ROWS_PER_READ)
        for row, image in enumerate(reader.read(rows[part]), start=start):
            cell = cell_mask(image)
            area[row] = cell.mean()
            color[row] = image[cell].mean(axis=0) if cell.any() else 0
        progress(min(start + _ROWS_PER_READ, len(rows)), len(rows))
    return area, color


def _file_features(cells: pa.Table) -> tuple[np.ndarray, np.ndarray]:
    """Width and height in pixels, (n, 2); bytes, and which format, (n, 1 + formats)."""
    width, height, size = (
        np.asarray(cells[name].to_pylist(), float) for name in ("width", "height", "file_bytes")
    )
    formats = np.asarray(cells["format"].to_pylist())
    kinds = [formats == name for name in np.unique(formats)]
    return np.stack([width, height], axis=1), np.stack([size, *kinds], axis=1)


def _baseline(features: np.ndarray, labels: np.ndarray, groups: np.ndarray) -> dict:
    smallest = min(len(set(groups[labels == label])) for label in (0, 1))
    folds = min(FOLDS, smallest)
    out = {"cells": len(labels), "folds": folds, "note": ""}
    scores = dict.fromkeys(_MODELS)
    if folds < 2:
        out["note"] = f"a class has {counted(smallest, 'group')}, cross-validation needs 2"
    elif np.ptp(features, axis=0).max() == 0:
        out["note"] = "the same for every cell"
    else:
        splitter = StratifiedGroupKFold(folds, shuffle=True, random_state=0)
        parts = list(splitter.split(features, labels, groups))
        scores = {
            name: _cross_validated(make(), features, labels, parts)
            for name, make in _MODELS.items()
        }
    return {**scores, **out}


def _cross_validated(
    model: Any, features: np.ndarray, labels: np.ndarray, parts: list
) -> float | None:
    """AUC over the pooled scores of the held-out folds."""
    scores = np.zeros(len(labels))
    for train, test in parts:
        if len(set(labels[train])) < 2:
            return None
        model.fit(features[train], labels[train])
        scores[test] = model.predict_proba(features[test])[:, 1]
    return float(roc_auc_score(labels, scores))


_MODELS: dict[str, Callable[[], Any]] = {
    "logistic_regression": lambda: make_pipeline(StandardScaler(), LogisticRegression()),
    "gradient_boosting": lambda: HistGradientBoostingClassifier(
        max_iter=100,
        max_depth=3,
        early_stopping=False,  # pyright: ignore[reportArgumentType]
        random_state=0,
    ),
}
