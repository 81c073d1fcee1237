"""The report's figures, each a matplotlib Figure drawn from arrays.

Positive is always vermilion and negative always blue (Okabe and Ito's colour-blind safe set). A
stamp in the corner says when the cells are synthetic and when patients overlap, or may: pictures
travel alone.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from leuk_ray.evaluation.intervals import FloatArray, IntArray
from leuk_ray.evaluation.metrics import CLASSES, calibration_bins
from leuk_ray.evaluation.subjects import SubjectRow

if TYPE_CHECKING:  # matplotlib takes half a second to load: only whoever draws waits for it
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLORS = {"ALL": "#D55E00", "healthy": "#0072B2", "mixed": "#7A7A7A"}
TRAIN, VALIDATION = "#8A8A8A", "#1B1B1B"
INK, GRID, WARNING = "#222222", "#DDDDDD", "#A40000"
REMARK: dict[str, Any] = {"size": 8, "color": "#555555"}
POINT: dict[str, Any] = {"marker": "D", "linestyle": "", "color": INK, "markerfacecolor": "white"}
DASHED: dict[str, Any] = {"color": INK, "linewidth": 1, "linestyle": (0, (4, 3))}
FEW_CELLS = 10  # a calibration bin with fewer is drawn hollow
MAX_SUBJECTS = 80


@dataclass(frozen=True)
class Stamp:
    """What pictures say: synthetic cells, patient overlap, names of negative and positive class."""

    synthetic: bool = False
    overlap: str = ""
    names: tuple[str, str] = CLASSES


def roc_figure(
    label: IntArray, probability: FloatArray, threshold: float, area: str, stamp: Stamp
) -> Figure:
    """Plot the ROC curve and the threshold; `area` names the curve. Both classes occur."""
    from sklearn.metrics import roc_curve

    false_positive, true_positive, _ = roc_curve(label, probability, drop_intermediate=False)
    figure = stamped_figure(4.6, 4.4, stamp)
    axes = figure.add_subplot()
    axes.plot([0, 1], [0, 1], color=GRID, linewidth=1)
    axes.plot(false_positive, true_positive, color=INK, linewidth=1.8, label=area)
    negative, positive = stamp.names
    called = probability >= threshold
    point = (called[label == 0].mean(), called[label == 1].mean())
    axes.plot(*point, **POINT, label=f"threshold {threshold:.3g}")
    axes.set_xlabel(f"1 - specificity (of {int((label == 0).sum()):,} {negative} cells)")
    axes.set_ylabel(f"sensitivity (of {int((label == 1).sum()):,} {positive} cells)")
    axes.legend(loc="lower right", frameon=False, fontsize=9)
    _unit_square(axes)
    return figure


def precision_recall_figure(
    label: IntArray, probability: FloatArray, threshold: float, area: str, stamp: Stamp
) -> Figure:
    """Plot precision against recall, with the share of positives. Both classes occur."""
    from sklearn.metrics import precision_recall_curve

    precision, recall, _ = precision_recall_curve(label, probability)
    figure = stamped_figure(4.6, 4.4, stamp)
    axes = figure.add_subplot()
    prevalence = float(label.mean())
    axes.axhline(prevalence, color=TRAIN, linewidth=1, linestyle=(0, (2, 2)))
    axes.text(
        0.99, prevalence + 0.01, f"share of {stamp.names[1]} {prevalence:.3f}", ha="right", **REMARK
    )
    axes.step(recall, precision, where="post", color=INK, linewidth=1.8, label=area)
    called = probability >= threshold
    if called.any():
        point = (called[label == 1].mean(), label[called].mean())
        axes.plot(*point, **POINT, label=f"threshold {threshold:.3g}")
    axes.set_xlabel(f"recall (of {int(label.sum()):,} {stamp.names[1]} cells)")
    axes.set_ylabel("precision")
    axes.legend(loc="lower left", frameon=False, fontsize=9)
    _unit_square(axes)
    return figure


def calibration_figure(
    label: IntArray, probability: FloatArray, threshold: float | None, stamp: Stamp
) -> Figure:
    """Plot the observed share of positives against the probability, and how often each is stated.

    Without a threshold the positives are the cells classified correctly, of several classes.
    """
    negative, positive = stamp.names
    colors = [COLORS["ALL"], COLORS["healthy"]]
    observed_share, stated = f"observed share of {positive}", f"probability of {positive}"
    if threshold is None:
        negative, positive = "called wrong", "classified correctly"
        colors = [TRAIN, INK]
        observed_share, stated = f"observed share {positive}", "probability of the called class"
    cells, mean_probability, observed = calibration_bins(label, probability)
    figure = stamped_figure(4.6, 5.9, stamp)
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1.3))
    upper.plot([0, 1], [0, 1], color=GRID, linewidth=1)
    filled = cells > 0
    upper.plot(mean_probability[filled], observed[filled], color=INK, linewidth=1.2)
    for many, face in ((cells >= FEW_CELLS, INK), (filled & (cells < FEW_CELLS), "white")):
        points = (mean_probability[many], observed[many])
        upper.plot(*points, "o", color=INK, markerfacecolor=face, markersize=5)
    upper.set_ylabel(observed_share)
    upper.text(0.02, 0.95, f"hollow: fewer than {FEW_CELLS} cells in the bin", **REMARK)
    _unit_square(upper)
    upper.set_aspect("auto")  # so that both panels keep one width
    lower.hist(
        [probability[label == 1], probability[label == 0]],
        bins=np.linspace(0, 1, 16).tolist(),
        stacked=True,
        color=colors,
        label=[positive, negative],
    )
    if threshold is not None:
        lower.axvline(threshold, **DASHED)
        stated += " (dashed: threshold)"
    lower.set_xlabel(stated)
    lower.set_ylabel("cells")
    figure.legend(loc="outside upper center", ncols=2, frameon=False, fontsize=9)
    plain_axes(lower)
    return figure


def training_figure(
    history: Sequence[Mapping[str, Any]], best_epoch: int | None, stamp: Stamp
) -> Figure:
    """Plot loss, accuracy, area under ROC and learning rate by epoch; the best epoch is marked.

    Rows hold `epoch` and any of `train_loss`, `validation_loss`, `train_accuracy`,
    `validation_accuracy`, `train_auc`, `validation_auc`, `lr`; what is missing is not drawn.
    """
    from matplotlib.ticker import MaxNLocator

    epochs = [row["epoch"] for row in history]
    panels = (
        ("loss", ("train_loss", "validation_loss")),
        ("accuracy", ("train_accuracy", "validation_accuracy")),
        ("area under ROC", ("train_auc", "validation_auc")),
        ("learning rate", ("lr",)),
    )
    figure = stamped_figure(7.6, 5.2, stamp)
    for index, (title, keys) in enumerate(panels, start=1):
        axes = figure.add_subplot(2, 2, index)
        axes.set_title(title, size=10, loc="left")
        for key in keys:
            values = [row.get(key) for row in history]
            if all(value is None for value in values):
                continue
            train = key.startswith("train")
            axes.plot(
                epochs,
                [np.nan if value is None else value for value in values],
                "o--" if train else "o-",
                color=TRAIN if train else VALIDATION,
                markersize=3,
                drawstyle="steps-mid" if key == "lr" else "default",
                label=key.partition("_")[0],
            )
        if not axes.lines:
            axes.text(0.5, 0.5, "not recorded", transform=axes.transAxes, ha="center", size=9)
            axes.set_yticks([])
        elif title == "learning rate" and any(row.get("lr") for row in history):  # 0: a probe
            axes.set_yscale("log")
        elif title == "loss":
            axes.legend(frameon=False, fontsize=9)
        if best_epoch is not None and axes.lines:
            axes.axvline(best_epoch, color=INK, linewidth=1, linestyle=":", zorder=0)
            if index == 1:
                best = f"dotted: best epoch {best_epoch}"
                axes.set_title(best, size=8, loc="right", color=INK)
        axes.set_xlim(min(epochs) - 0.5, max(epochs) + 0.5)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        axes.set_xlabel("epoch", size=9)
        plain_axes(axes)
    return figure


def subject_figure(
    rows: Sequence[SubjectRow],
    subject: Sequence[str | None],
    label: IntArray,
    probability: FloatArray,
    threshold: float,
    stamp: Stamp,
) -> Figure:
    """Plot every cell's probability by subject, positive above negative, and how many are correct.

    Of more than 80 subjects, those with the largest share of wrong cells are drawn.
    """
    worst = sorted(rows, key=lambda row: row["correct"] / max(1, row["answered"]))[:MAX_SUBJECTS]
    # Drawn from the bottom up: healthy, mixed, ALL, each by mean probability.
    rank = {"healthy": 0, "mixed": 1, "ALL": 2}
    shown = sorted(worst, key=lambda row: (rank[row["label"]], row["mean_probability"]))
    figure = stamped_figure(7.6, 1.3 + 0.22 * len(shown), stamp)
    axes = figure.add_subplot()
    names = np.asarray(subject, dtype=object)
    jitter = np.random.default_rng(0).uniform(-0.28, 0.28, label.size)
    for height, row in enumerate(shown):
        own = names == row["subject"]
        colors = [COLORS[CLASSES[value]] for value in label[own]]
        places = (probability[own], height + jitter[own])
        axes.scatter(*places, s=7, c=colors, alpha=0.55, linewidths=0)
        axes.text(1.02, height, f"{row['correct']:,} / {row['answered']:,}", va="center", size=8)
    axes.axvline(threshold, **DASHED)
    axes.set_yticks(range(len(shown)), [_fitted(row["subject"], 24, 1) for row in shown], size=8)
    for tick, row in zip(axes.get_yticklabels(), shown, strict=True):
        tick.set_parse_math(False)
        tick.set_color(COLORS[row["label"]])
    axes.set_xlim(-0.01, 1.01)
    axes.set_ylim(-0.7, len(shown) - 0.3)
    axes.set_xlabel(f"probability of {stamp.names[1]} (dashed: threshold)")
    axes.text(1.02, len(shown) - 0.25, "right / answered", size=8)
    some = f"the {len(shown)} of {len(rows)} subjects with most wrong, by share"
    axes.set_title("one dot a cell" if len(shown) == len(rows) else some, size=9, loc="left")
    sides = zip(CLASSES[::-1], stamp.names[::-1], strict=True)
    handles = [axes.scatter([], [], s=18, c=COLORS[side], label=name) for side, name in sides]
    figure.legend(handles=handles, loc="outside upper center", ncols=2, frameon=False, fontsize=9)
    plain_axes(axes)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="y", color=GRID, linewidth=0.5)
    axes.set_axisbelow(True)
    return figure


def contact_sheet(
    images: Sequence[npt.NDArray[np.uint8]],
    captions: Sequence[tuple[str, str, str]],
    stamp: Stamp,
) -> Figure:
    """Plot cell pictures in rows of four.

    Args:
        images: each (H, W, 3).
        captions: (uid, a line of text, colour of the frame) of each image.
    """
    columns = min(4, len(images))
    rows = -(-len(images) // 4)
    figure = stamped_figure(1.9 * columns, 2.3 * rows + 0.2, stamp)
    for index, (image, (uid, text, color)) in enumerate(zip(images, captions, strict=True)):
        axes = figure.add_subplot(rows, columns, index + 1)
        axes.imshow(image)
        axes.set_xticks([])
        axes.set_yticks([])
        axes.spines[:].set(color=color, linewidth=2)
        caption = f"{_fitted(uid, 26, 2)}\n{text}"
        axes.set_title(caption, size=7.5, color=INK, parse_math=False)
    return figure


def stamped_figure(width: float, height: float, stamp: Stamp) -> Figure:
    """Make an empty figure of width x height inches with its stamp in a strip at the bottom."""
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    strip = 0.2 / height if stamp.synthetic or stamp.overlap else 0
    layout = ConstrainedLayoutEngine(rect=(0, strip, 1, 1 - strip))
    figure = Figure(figsize=(width, height), layout=layout, facecolor="white")
    if stamp.synthetic:
        figure.text(0.99, 0.03 / height, "synthetic cells", ha="right", size=7.5, color="#555555")
    if stamp.overlap:
        figure.text(0.01, 0.03 / height, stamp.overlap, size=10, weight="bold", color=WARNING)
    return figure


def plain_axes(axes: Axes) -> None:
    """Remove the frame above and to the right; write small ticks."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=9)


def _unit_square(axes: Axes) -> None:
    axes.set_xlim(-0.01, 1.01)
    axes.set_ylim(-0.01, 1.015)
    axes.set_aspect("equal", adjustable="box")
    axes.grid(color=GRID, linewidth=0.5)
    axes.set_axisbelow(True)
    plain_axes(axes)


def _fitted(name: str, width: int, lines: int) -> str:
    """Fit the name into some lines of some width; keep its end, where names of cells differ."""
    room = width * lines
    short = name if len(name) <= room else "…" + name[1 - room :]
    return "\n".join(textwrap.wrap(short, width)) or " "
