"""Runs side by side as one page: settings that differ, metrics, curves."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from leuk_ray.evaluation.figures import Stamp, plain_axes, stamped_figure
from leuk_ray.io.storage import refuse_existing, write_bytes
from leuk_ray.runs.folders import Figure, RunSummary, differing
from leuk_ray.utils.html import DOTS_PER_INCH, page_templates

if TYPE_CHECKING:
    from matplotlib import figure

_PANELS = (
    ("loss", "validation_loss", "train_loss"),
    ("accuracy", "validation_accuracy", "train_accuracy"),
    ("area under ROC", "validation_auc", "train_auc"),
)


def write_page(runs: Sequence[RunSummary], out: Path) -> None:
    """Write the page; it stands alone.

    Raises:
        UserError: `out` is there.
    """
    refuse_existing(out, "page")
    environment = page_templates(Path(__file__).parent)
    environment.filters |= {"setting": shown_setting, "figure": shown_figure}
    picture = io.BytesIO()
    _curves(runs).savefig(picture, dpi=DOTS_PER_INCH)
    page = environment.get_template("page.html.j2").render(
        runs=runs,
        synthetic=any(run.synthetic for run in runs),
        settings=differing(runs),
        metrics=metric_names(runs),
        curves=base64.b64encode(picture.getvalue()).decode(),
    )
    write_bytes(out, page.encode())


def metric_names(runs: Sequence[RunSummary]) -> list[str]:
    """Of the test cells, those that any of the runs has."""
    return list(dict.fromkeys(name for run in runs for name in run.metrics))


def shown_figure(metric: Figure | None) -> str:
    """`0.793 [0.701, 0.861] (119 of 150)`, as far as there is."""
    if metric is None or metric.value is None:
        return "none"
    interval = "" if metric.low is None else f" [{metric.low:.3f}, {metric.high:.3f}]"
    counts = ""
    if isinstance(metric.numerator, int):  # of an area under ROC it counts pairs
        counts = f" ({metric.numerator} of {metric.denominator})"
    return f"{metric.value:.3f}{interval}{counts}"


def shown_setting(value: Any) -> str:
    """Return a setting's value for people."""
    if value is None:
        return "not set"
    return value if isinstance(value, str) and value.isprintable() else json.dumps(value)


def _curves(runs: Sequence[RunSummary]) -> figure.Figure:
    from matplotlib import colormaps
    from matplotlib.ticker import MaxNLocator

    figure = stamped_figure(9.6, 3.4 + 0.18 * len(runs), Stamp(any(run.synthetic for run in runs)))
    colours = colormaps["tab10"].colors  # pyright: ignore[reportAttributeAccessIssue]
    for place, (title, *keys) in enumerate(_PANELS, start=1):
        axes = figure.add_subplot(1, len(_PANELS), place)
        axes.set_title(title, size=10, loc="left")
        for number, run in enumerate(runs):
            for key, style in zip(keys, ("-", "--"), strict=True):
                rows = [(row["epoch"], row[key]) for row in run.history if row.get(key) is not None]
                if rows:
                    label = run.name if style == "-" else None
                    colour = colours[number % len(colours)]
                    axes.plot(*zip(*rows, strict=True), style, color=colour, label=label)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        axes.set_xlabel("epoch", size=9)
        plain_axes(axes)
        if place == 1 and axes.lines:
            figure.legend(frameon=False, fontsize=8, loc="outside lower center")
    return figure
