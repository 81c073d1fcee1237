"""Commands on folders of runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from leuk_ray.cli.base import PATH, command


@click.group("runs")
def run_folders() -> None:
    """List runs, show one, or compare their settings and metrics."""


@run_folders.command("list", epilog="Example: leuk-ray runs list runs")
@click.argument("folder", type=PATH)
@command
def list_runs(folder: Path) -> tuple[dict[str, Any], str]:
    """List the runs in FOLDER and below: state, metrics of the test cells, disk used."""
    from leuk_ray.cli.run_messages import runs_text
    from leuk_ray.runs.folders import find_runs

    runs = find_runs(folder)
    return {"runs": [run.as_dict() for run in runs]}, runs_text(runs)


@run_folders.command(epilog="Example: leuk-ray runs show runs/lite")
@click.argument("run", type=PATH)
@command
def show(run: Path) -> tuple[dict[str, Any], str]:
    """Show a run: settings other than the shipped recipe's, metrics, what it was made with."""
    from leuk_ray.cli.run_messages import run_text
    from leuk_ray.runs.folders import beside_recipe, read_run

    summary = read_run(run)
    changed = beside_recipe(summary)
    return summary.as_dict() | {"changed": changed}, run_text(summary, changed)


@run_folders.command(epilog="Example: leuk-ray runs diff runs/lite runs/none --out both.html")
@click.argument("runs", nargs=-1, required=True, type=PATH, metavar="RUN_OR_FOLDER...")
@click.option("--out", type=PATH, metavar="PAGE.html", help="Also write a page with curves.")
@command
def diff(runs: tuple[Path, ...], out: Path | None) -> tuple[dict[str, Any], str]:
    """Print the settings that differ between runs, and their metrics side by side.

    Whether one is better than the other is a question for `leuk-ray compare`.
    """
    from leuk_ray.cli.run_messages import diff_text
    from leuk_ray.runs.folders import differing, side_by_side
    from leuk_ray.runs.page import write_page

    found = side_by_side(runs)
    if out is not None:
        write_page(found, out)
    values = {
        "runs": [run.as_dict() for run in found],
        "settings": differing(found),
        "out": None if out is None else str(out),
    }
    return values, diff_text(found, out)
