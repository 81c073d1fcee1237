"""The confusion matrix as a figure, readable from 2 classes to dozens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from leuk_ray.evaluation.figures import INK, Stamp, stamped_figure
from leuk_ray.utils.wording import counted

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MAX_LABELLED = 30  # classes; of more, the squares carry no numbers


def shortened(name: str, width: int) -> str:
    """Shorten a class's name to at most so many letters."""
    return name if len(name) <= width else name[: width - 1] + "…"


def confusion_figure(
    confusion: npt.ArrayLike,
    names: Sequence[str],
    stamp: Stamp,
    colors: Sequence[str] = (),
) -> Figure:
    """Plot truth by call: cells, and the share of each row.

    Args:
        confusion: (K, K) cells, by true class, then by called class.
        names: of the K classes.
        stamp: see `Stamp`.
        colors: of the K names; none in ink.
    """
    cells = np.asarray(confusion)
    num_classes, several = len(names), len(names) > 2
    side = 4.6 if not several else 2.2 + 0.62 * min(num_classes, MAX_LABELLED)
    figure = stamped_figure(side, 3.7 if not several else side, stamp)
    axes = figure.add_subplot()
    totals = cells.sum(axis=1)
    share = cells / np.maximum(totals[:, None], 1)
    # The grey scale runs on past 1, so that black text stays readable on the darkest square.
    axes.imshow(share, cmap="Greys", vmin=0, vmax=2.6)
    large, small = (17, 9) if not several else (9, 6.5)
    middle: dict[str, Any] = {"ha": "center", "va": "center", "color": INK}
    for row, column in np.ndindex(cells.shape) if num_classes <= MAX_LABELLED else ():
        if several and not cells[row, column]:
            continue  # so that what is confused stands out
        number = share[row, column]
        percent = (f"{number:.0%}" if several else f"{number:.2%} of row") if totals[row] else ""
        shift = (0.14, 0.24) if several else (0.07, 0.17)
        axes.text(column, row - shift[0], f"{cells[row, column]:,}", size=large, **middle)
        axes.text(column, row + shift[1], percent or "no cells", size=small, **middle)
    short = [shortened(name, 24) if several else name for name in names]
    calls = short if several else [f"called {name}" for name in short]
    axes.set_xticks(range(num_classes), calls, rotation=90 if several else 0)
    axes.set_yticks(
        range(num_classes),
        [
            f"{name} ({total:,})" if several else f"{name}\n{counted(int(total), 'cell')}"
            for name, total in zip(short, totals.tolist(), strict=True)
        ],
    )
    axes.xaxis.tick_top()
    axes.tick_params(length=0, labelsize=9 if several else 10)
    for tick in (*axes.get_xticklabels(), *axes.get_yticklabels()):
        tick.set_parse_math(False)
    for tick, color in zip(axes.get_yticklabels(), colors, strict=False):
        tick.set_color(color)
    axes.set_ylabel("truth (cells)" if several else "truth", size=10)
    if several:
        axes.set_xlabel("called", size=10)
        axes.xaxis.set_label_position("top")
    axes.spines[:].set_visible(False)
    for edge in np.arange(num_classes - 1) + 0.5:
        axes.axhline(edge, color="white", linewidth=3 if not several else 1)
        axes.axvline(edge, color="white", linewidth=3 if not several else 1)
    return figure
