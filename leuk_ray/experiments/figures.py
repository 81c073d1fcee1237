"""Figures of an experiment that no single run draws."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import torch
from torch.nn import functional as F

from leuk_ray.datasets.prepared import PreparedDataset
from leuk_ray.datasets.splits import rows_with_role
from leuk_ray.evaluation.figures import COLORS, GRID, INK, Stamp, plain_axes, stamped_figure
from leuk_ray.evaluation.metrics import CLASSES
from leuk_ray.experiments.settings import Pair
from leuk_ray.experiments.table_cells import SHARES, WORDS
from leuk_ray.inference.classifier import Classifier
from leuk_ray.inference.explain import explain_pixels, overlay
from leuk_ray.utils.wording import overlap_label

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FUNCTIONS = {
    "swish": (F.silu, "Swish, x sigmoid(x) (eq 6)"),
    "elu": (F.elu, "ELU"),
    "sigmoid": (torch.sigmoid, "sigmoid"),
    "relu": (F.relu, "ReLU"),
}
SERIES = ("#1B1B1B", "#D55E00", "#E69F00", "#0072B2", "#009E73")
SAMPLES_PER_CLASS = 4
EXPLAINED_PER_CLASS = 2
PLAIN = Stamp()


def activations_figure(names: Sequence[str]) -> Figure:
    """Draw the activation functions of a network."""
    figure = stamped_figure(1.9 * len(names), 1.9, PLAIN)
    values = torch.linspace(-5, 5, 201)
    for number, name in enumerate(names, 1):
        function, title = FUNCTIONS[name]
        axes = figure.add_subplot(1, len(names), number)
        axes.axhline(0, color=GRID, lw=1)
        axes.axvline(0, color=GRID, lw=1)
        axes.plot(values.numpy(), function(values).numpy(), color=INK, lw=1.6)
        axes.set_title(title, size=8)
        plain_axes(axes)
    return figure


def samples_figure(dataset: PreparedDataset, stamp: Stamp) -> Figure:
    """Cells of both classes, from as many subjects or fields as there are places."""
    labels = np.asarray([-1 if x is None else x for x in dataset.cells["label"].to_pylist()])
    groups = np.asarray(dataset.cells["group"].to_pylist(), object)
    figure = stamped_figure(1.7 * SAMPLES_PER_CLASS, 4.0, stamp)
    for label in (1, 0):
        own = np.flatnonzero(labels == label)
        _, first = np.unique(groups[own].astype(str), return_index=True)
        rows = own[np.sort(first)][:SAMPLES_PER_CLASS]
        for column, image in enumerate(dataset.reader().read(rows)):
            place = (1 - label) * SAMPLES_PER_CLASS + column + 1
            axes = figure.add_subplot(2, SAMPLES_PER_CLASS, place)
            axes.imshow(image)
            axes.set_xticks([])
            axes.set_yticks([])
            axes.spines[:].set(color=COLORS[CLASSES[label]], linewidth=2)
            uid = dataset.cells["uid"][int(rows[column])].as_py()
            axes.set_title(f"{CLASSES[label]}\n{uid[-26:]}", size=7, parse_math=False)
    return figure


def bars_figure(table: Mapping[str, Any], stamp: Stamp) -> Figure | None:
    """Draw a table's shares: reported, and ours by protocol with 95% intervals."""
    columns = [column["key"] for column in table["columns"] if column["key"] in SHARES]
    rows = [row for row in table["rows"] if any("cells" in line for line in row["ours"])]
    if not rows or not columns:
        return None
    figure = stamped_figure(7.6, 0.7 + 1.9 * len(rows), stamp)
    for number, row in enumerate(rows, 1):
        axes = figure.add_subplot(len(rows), 1, number)
        lines = [line for line in row["ours"] if "cells" in line]
        bars: list[tuple[str, list[float], list[dict[str, Any]] | None]] = [
            ("reported", [_reported(row, key) for key in columns], None)
        ]
        for line in lines:
            cells = [line["cells"][key] for key in columns]
            title = ", ".join(filter(None, [line["protocol"], overlap_label(line["leaky"])]))
            bars.append((title, [_share(cell["value"]) for cell in cells], cells))
        width = 0.8 / len(bars)
        for place, (title, heights, cells) in enumerate(bars):
            x = np.arange(len(columns)) + (place - (len(bars) - 1) / 2) * width
            axes.bar(x, heights, width * 0.92, color=SERIES[place % len(SERIES)], label=title)
            if cells is not None:
                _whiskers(axes, x, heights, cells)
        axes.set_xticks(range(len(columns)), [WORDS[key] for key in columns], size=8)
        axes.set_ylim(0, 105)
        axes.set_ylabel("percent", size=8)
        title = f"{row['name']} ({row['stand_in']})" if row["stand_in"] else row["name"]
        axes.set_title(title, size=9, loc="left", parse_math=False)
        plain_axes(axes)
        if number == 1:
            handles = axes.get_legend_handles_labels()
            figure.legend(*handles, loc="outside upper center", ncols=3, frameon=False, fontsize=8)
    return figure


def gradcam_figure(
    pairs: Sequence[tuple[Pair, Path, Path]],
    dataset: PreparedDataset,
    split: pa.Table,
    stamp: Stamp,
) -> Figure:
    """Test cells, and where each pair's baseline and full network look (saeed2022, Grad-CAM).

    Args:
        pairs: networks and their bundles, baseline then full, trained on `split`.
        dataset, split: where the test cells are from.
        stamp: of the picture.
    """
    rows = _explained_rows(dataset, split)
    pixels = dataset.reader().read(rows)
    columns: list[tuple[str, list[np.ndarray], list[str]]] = []
    for pair, *bundles in pairs:
        for title, bundle in zip(("without attention", "with attention"), bundles, strict=True):
            classifier = Classifier.load(bundle)
            explained = explain_pixels(classifier, pixels, "gradcam")
            pictures = [overlay(p, e.heat) for p, e in zip(pixels, explained, strict=True)]
            stated = classifier.score(pixels).probability
            columns.append((f"{pair.title}\n{title}", pictures, [f"{p:.2f}" for p in stated]))
    figure = stamped_figure(1.7 * (1 + len(columns)), 1.9 * len(rows) + 0.3, stamp)
    for place, row in enumerate(rows.tolist()):
        name = CLASSES[dataset.cells["label"][row].as_py()]
        shown = [("original", pixels[place], name)]
        shown += [(title, pictures[place], f"p(ALL) {p[place]}") for title, pictures, p in columns]
        for column, (title, picture, caption) in enumerate(shown):
            axes = figure.add_subplot(len(rows), len(shown), place * len(shown) + column + 1)
            axes.imshow(picture)
            axes.set_xticks([])
            axes.set_yticks([])
            axes.spines[:].set(color=COLORS[name], linewidth=1.5)
            axes.set_xlabel(caption, size=7)
            if place == 0:
                axes.set_title(title, size=7.5, parse_math=False)
    return figure


def _explained_rows(dataset: PreparedDataset, split: pa.Table) -> np.ndarray:
    """Return the first test cells of each class, by uid; chosen before any network saw them."""
    rows = np.unique(rows_with_role(dataset.cells, split, ("test",)))
    labels = np.asarray([dataset.cells["label"][row].as_py() for row in rows.tolist()])
    chosen = [rows[labels == label][:EXPLAINED_PER_CLASS] for label in (1, 0)]
    return np.concatenate(chosen)


def _reported(row: Mapping[str, Any], key: str) -> float:
    text = (row["reported"] or {}).get(key, "")
    return float(text.removesuffix("%")) if text.endswith("%") else np.nan


def _share(value: float | None) -> float:
    return np.nan if value is None else 100 * value


def _whiskers(axes: Any, x: np.ndarray, heights: list[float], cells: list[dict[str, Any]]) -> None:
    for at, height, cell in zip(x, heights, cells, strict=True):
        if cell.get("low") is not None and np.isfinite(height):
            ends = [min(max(100 * end, 0), 100) for end in (cell["low"], cell["high"])]
            axes.plot([at, at], ends, color=INK, lw=1)
