"""What a classifier reaches that sees no cell: only its area, its file, or its mean colour.

An area under ROC above what chance reaches means that a network can be right for the wrong reason.
Scores come from cross-validation by group, so a subject's own cells do not help; and chance is
what the same classifier reaches when whole subjects exchange their labels, since the cells of one
subject resemble each other in all of these properties.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from scipy.stats import rankdata

from leuk_ray.datasets.classes import ClassSet
from leuk_ray.datasets.images import cell_mask
from leuk_ray.datasets.prepared import PixelReader
from leuk_ray.datasets.splits import eligible
from leuk_ray.utils.wording import counted

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

CHANCE = 0.05  # of properties that say nothing, the share that is warned of
MAX_CELLS = 3000
PERMUTATIONS = 499
FOLDS = 10
_BINS = 10
_RIDGE = 1.0
_AT_ONCE = 100  # permutations scored together: bounds memory
_ROWS_PER_READ = 64


def shortcut_baselines(
    cells: pa.Table,
    classes: ClassSet,
    reader: PixelReader,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[dict[str, dict[str, Any]], dict[str, dict[str, dict[str, Any]]]]:
    """Measure the area under ROC without looking at a cell.

    Args:
        cells: `PreparedDataset.cells`; the labelled, kept ones are used, of more than 3,000 so
            many, evenly spaced.
        classes: what the labels mean; positive classes are compared with the others.
        reader: reads the pixels of these rows, 64 at a time.
        progress: called with (cells read, cells in all).

    Returns:
        name -> what `measure_shortcut` returns; and the same for each source that has both
        classes, where there are several sources. Both are empty where no class is positive.
    """
    if not classes.positive:
        return {}, {}
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
    labels = classes.binary_labels(np.asarray(used["label"].to_pylist(), np.int64))
    groups = np.asarray(used["group"].to_pylist(), object)
    sources = np.asarray(used["source"].fill_null("unnamed source").to_pylist(), object)

    def measured(own: np.ndarray) -> dict[str, dict[str, Any]]:
        return {
            name: measure_shortcut(values[own], labels[own], groups[own])
            for name, values in features.items()
        }

    several = {name: sources == name for name in dict.fromkeys(sources.tolist())}
    both = {name: own for name, own in several.items() if len(set(labels[own].tolist())) == 2}
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


def measure_shortcut(
    features: FloatArray, labels: IntArray, groups: npt.NDArray[np.object_]
) -> dict[str, Any]:
    """Measure how well features alone tell ALL from healthy, and how well chance does.

    The classifier is ridge regression on bins of each feature. Its fit is linear in the labels,
    so it is fitted to all permutations of them at once. Groups of one class exchange their
    labels; within a group of both classes its cells do.

    Args:
        features: (N, D).
        labels: (N,) 1 ALL, 0 healthy.
        groups: (N,) the group of each cell.

    Returns:
        auc; chance, the area that CHANCE of the permutations exceed; p, the share of them that
        reach auc; cells; few, where there are too few groups to distinguish any result from
        chance; note. auc, chance and p are None with a note where the feature never varies or a
        class has fewer than two groups.
    """
    smallest = min(len(set(groups[labels == label])) for label in (0, 1))
    out = {"auc": None, "chance": None, "p": None, "cells": len(labels), "few": False, "note": ""}
    if smallest < 2:
        return out | {"note": f"a class has {counted(smallest, 'group')}, 2 are needed"}
    if np.ptp(features, axis=0).max() == 0:
        return out | {"note": "the same for every cell"}
    member = np.unique(groups.astype(str), return_inverse=True)[1]
    generator = np.random.default_rng(0)
    design = _binned(features)
    fold = generator.permutation(np.arange(member.max() + 1) % FOLDS)[member]
    found, few = _permuted(labels, member, generator)
    parts = np.array_split(found, math.ceil(len(found) / _AT_ONCE))
    areas = np.concatenate([_areas(_held_out(design, own.T, fold), own.T) for own in parts])
    area, others = areas[0], areas[1:] - 1e-12  # ties count against a shortcut
    return out | {
        "auc": float(area),
        "chance": float(np.quantile(others, 1 - CHANCE, method="higher")),
        "p": float((1 + (areas[1:] >= area - 1e-12).sum()) / len(areas)),
        "few": few,
        "note": "too few groups to tell a shortcut from chance" if few else "",
    }


def _binned(features: FloatArray) -> FloatArray:
    """(N, B) which bin of each feature a cell lies in: its values if few, else equal counts."""
    columns = []
    for values in features.T:
        edges = np.unique(values)
        if len(edges) > _BINS:
            edges = np.unique(np.quantile(values, np.linspace(0, 1, _BINS + 1)[1:-1]))
        place = np.searchsorted(edges, values)
        columns += [place == number for number in np.unique(place)]
    return np.stack(columns, axis=1).astype(np.float64)


def _permuted(
    labels: IntArray, member: IntArray, generator: np.random.Generator
) -> tuple[FloatArray, bool]:
    """(1 + PERMUTATIONS, N) labels, the true ones first; and whether there are few arrangements."""
    cells = np.bincount(member)
    positive = np.bincount(member, labels)
    pure = np.flatnonzero((positive == 0) | (positive == cells))
    mixed = np.flatnonzero((positive > 0) & (positive < cells))
    rows = [np.flatnonzero(member == group) for group in mixed]
    found = np.repeat(labels[None].astype(np.float64), 1 + PERMUTATIONS, axis=0)
    class_of = (positive > 0).astype(np.float64)
    for own in found[1:]:
        swapped = class_of.copy()
        swapped[pure] = generator.permutation(class_of[pure])
        own[:] = swapped[member]
        for cells_of_one in rows:
            own[cells_of_one] = generator.permutation(labels[cells_of_one])
    arrangements = math.comb(len(pure), int(class_of[pure].sum())) * math.prod(
        math.comb(len(own), int(labels[own].sum())) for own in rows
    )
    return found, arrangements * CHANCE < 2  # two classes that change places do as well


def _held_out(design: FloatArray, labels: FloatArray, fold: IntArray) -> FloatArray:
    """(N, P) scores of cells by ridge regression on the other folds, for each of P labellings."""
    scores = np.empty(labels.shape)
    for number in np.unique(fold):
        train, test = fold != number, fold == number
        centre = design[train].mean(axis=0)
        known = design[train] - centre
        weights = np.linalg.solve(
            known.T @ known + _RIDGE * np.eye(design.shape[1]),
            known.T @ (labels[train] - labels[train].mean(axis=0)),
        )
        scores[test] = (design[test] - centre) @ weights
    return np.round(scores, 9)  # equal bins give equal scores


def _areas(scores: FloatArray, labels: FloatArray) -> FloatArray:
    """(P,) area under ROC of each column."""
    positive = labels.sum(axis=0)
    ranks = (rankdata(scores, axis=0) * labels).sum(axis=0)
    return (ranks - positive * (positive + 1) / 2) / (positive * (len(labels) - positive))
