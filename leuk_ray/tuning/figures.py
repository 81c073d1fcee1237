"""Figures of a sweep."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from leuk_ray.evaluation.figures import GRID, INK, Stamp, plain_axes, stamped_figure
from leuk_ray.runs.table import RunRecord
from leuk_ray.tuning.settings import Dimension

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLORS = {"finished": "#0072b2", "stopped": "#999999", "failed": "#a40000"}
MAP = "viridis"


def best_so_far_figure(records: Sequence[RunRecord], metric: str, stamp: Stamp) -> Figure:
    """Draw each run's score in the order in which the runs ended, and the best until then."""
    from matplotlib.ticker import MaxNLocator

    figure = stamped_figure(6.4, 3.2, stamp)
    axes = figure.add_subplot()
    scored = [(n, r) for n, r in enumerate(records, 1) if r.score is not None]
    for status, color in COLORS.items():
        points = [(n, shown(r.score, metric)) for n, r in scored if r.status == status]
        if points:
            axes.scatter(*zip(*points, strict=True), s=22, color=color, label=status, zorder=3)
    best = np.maximum.accumulate([r.score or 0.0 for _, r in scored])
    ends, heights = [n for n, _ in scored], [shown(b, metric) for b in best]
    axes.step(ends, heights, where="post", color=INK, lw=1.2, label="best so far")
    axes.set_xlabel("runs ended")
    axes.set_ylabel(words(metric))
    axes.grid(color=GRID, linewidth=0.5)
    axes.legend(fontsize=8, frameon=False)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    plain_axes(axes)
    return figure


def curves_figure(records: Sequence[RunRecord], metric: str, stamp: Stamp) -> Figure:
    """Draw every run's score, epoch by epoch; runs that ended early are short and grey."""
    from matplotlib.ticker import MaxNLocator

    figure = stamped_figure(6.4, 3.2, stamp)
    axes = figure.add_subplot()
    for record in records:
        epochs = range(1, len(record.curve) + 1)
        values = [shown(value, metric) for value in record.curve]
        width = 1.4 if record.status == "finished" else 0.9
        axes.plot(epochs, values, color=COLORS[record.status], lw=width, marker=".", ms=4)
    axes.set_xlabel("epoch")
    axes.set_ylabel(words(metric))
    axes.grid(color=GRID, linewidth=0.5)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    plain_axes(axes)
    return figure


def parallel_figure(
    records: Sequence[RunRecord], search: Mapping[str, Dimension], metric: str, stamp: Stamp
) -> Figure:
    """Draw one line a run over its settings to its score; the better, the lighter and higher."""
    from matplotlib import colormaps

    figure = stamped_figure(1.8 + 1.5 * len(search), 3.6, stamp)
    axes = figure.add_subplot()
    scored = sorted((r for r in records if r.score is not None), key=lambda r: r.score or 0.0)
    scores = np.asarray([r.score for r in scored])
    heights = _unit(scores)
    places = [_places([r.overrides[key] for r in scored], d) for key, d in search.items()]
    lines = np.stack([*(place for place, _ in places), heights], axis=1)
    for line, height, record in zip(lines, heights, scored, strict=True):
        alpha = 0.35 if record.status == "stopped" else 0.95
        axes.plot(range(lines.shape[1]), line, color=colormaps[MAP](height), alpha=alpha, lw=1.6)
    for column, (_, ticks) in enumerate(places):
        _scale(axes, column, ticks)
    worst, best = (f"{shown(end, metric):.3g}" for end in (scores.min(), scores.max()))
    _scale(axes, len(search), {0: worst, 1: best})
    names = [key.rpartition(".")[2] for key in search]
    axes.set_xticks(range(len(names) + 1), [*names, words(metric)])
    axes.set_yticks([])
    axes.spines[["top", "right", "left", "bottom"]].set_visible(False)
    axes.tick_params(length=0, labelsize=9)
    axes.margins(x=0.12)
    return figure


def map_figure(
    records: Sequence[RunRecord],
    across: tuple[str, Dimension],
    up: tuple[str, Dimension],
    metric: str,
    stamp: Stamp,
) -> Figure:
    """Draw where in the plane of two settings the good runs lie."""
    figure = stamped_figure(5.4, 3.8, stamp)
    axes = figure.add_subplot()
    scored = sorted((r for r in records if r.score is not None), key=lambda r: r.score or 0.0)
    points = axes.scatter(
        [float(r.overrides[across[0]]) for r in scored],
        [float(r.overrides[up[0]]) for r in scored],
        c=[shown(r.score, metric) for r in scored],
        cmap=MAP,
        s=60,
        edgecolor=INK,
        linewidth=0.5,
    )
    axes.set_xlabel(across[0])
    axes.set_ylabel(up[0])
    for axis, (_, dimension) in ((axes.xaxis, across), (axes.yaxis, up)):
        set_scale = axes.set_xscale if axis is axes.xaxis else axes.set_yscale
        set_scale("log" if is_logarithmic(dimension) else "linear")
        if dimension.choice is not None:
            axis.set_ticks(dimension.extremes, [f"{mark:g}" for mark in dimension.extremes])
            axis.set_ticks([], minor=True)
        elif axis is axes.xaxis:
            axes.set_xlim(*dimension.extremes)
        else:
            axes.set_ylim(*dimension.extremes)
    figure.colorbar(points, label=words(metric))
    axes.grid(color=GRID, linewidth=0.5)
    axes.set_axisbelow(True)
    plain_axes(axes)
    return figure


def importance_figure(importance: Mapping[str, float], stamp: Stamp) -> Figure:
    """Draw how much of the variance of the score each setting explains."""
    figure = stamped_figure(5.4, 0.9 + 0.4 * len(importance), stamp)
    axes = figure.add_subplot()
    names = list(importance)[::-1]
    axes.barh(names, [importance[name] for name in names], color=COLORS["finished"])
    axes.set_xlim(0, 1)
    axes.set_xlabel("share of the variance of the score (fANOVA)")
    plain_axes(axes)
    return figure


def shown(score: float | None, metric: str) -> float:
    """Return a score as the metric it stands for: losses are compared negated."""
    assert score is not None
    return -score if metric.endswith("loss") else score


def words(metric: str) -> str:
    """`validation_auc` is called validation AUC."""
    return metric.replace("_", " ").replace("auc", "AUC")


def is_numeric(dimension: Dimension) -> bool:
    """Say whether all values lie on a number line."""
    return all(isinstance(v, int | float) and not isinstance(v, bool) for v in dimension.extremes)


def is_logarithmic(dimension: Dimension) -> bool:
    """Say whether values belong on a logarithmic axis: sampled so, or chosen fourfold apart."""
    if dimension.log_uniform is not None:
        return True
    values = dimension.extremes
    chosen = dimension.choice is not None and is_numeric(dimension) and min(values) > 0
    return chosen and max(values) >= 4 * min(values)


def _places(values: list[Any], dimension: Dimension) -> tuple[np.ndarray, dict[float, str]]:
    """Heights 0..1 of values on their scale, and its ticks."""
    if not is_numeric(dimension):
        options = list(dict.fromkeys(map(str, dimension.extremes)))
        step = 1 / max(1, len(options) - 1)
        heights = np.asarray([options.index(str(value)) * step for value in values])
        return heights, {number * step: option for number, option in enumerate(options)}
    scale = math.log if is_logarithmic(dimension) else float
    low, high = min(dimension.extremes), max(dimension.extremes)
    span = scale(high) - scale(low) or 1.0
    heights = np.asarray([(scale(value) - scale(low)) / span for value in values])
    marked = dimension.extremes if dimension.choice is not None else (low, high)
    return heights, {(scale(mark) - scale(low)) / span: f"{mark:g}" for mark in marked}


def _unit(values: np.ndarray) -> np.ndarray:
    span = float(np.ptp(values)) or 1.0
    return (values - values.min()) / span


def _scale(axes: Axes, column: int, ticks: Mapping[float, str]) -> None:
    axes.axvline(column, color=INK, lw=0.8, zorder=0)
    for height, text in ticks.items():
        axes.annotate(text, (column, height), (4, 2), textcoords="offset points", size=7.5)
