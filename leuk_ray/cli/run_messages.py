"""Format the results of `leuk-ray runs` and `doctor` as text."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from leuk_ray.cli.messages import size_text
from leuk_ray.cluster.doctor import Check
from leuk_ray.runs.folders import RunSummary, differing
from leuk_ray.runs.page import metric_names, shown_figure, shown_setting
from leuk_ray.utils.wording import counted

_WIDTH = 44  # of a column of values


def runs_text(runs: Sequence[RunSummary]) -> str:
    """Format the result of `runs list`."""
    rows = [("run", "recipe", "protocol", "state", "epochs", "disk", "accuracy", "AUC")]
    for run in runs:
        area = run.metrics.get("auc") or run.metrics.get("macro_auc")
        rows.append(
            (
                run.name,
                run.recipe,
                run.protocol,
                _state(run),
                str(len(run.history)),
                size_text(run.size),
                shown_figure(run.metrics.get("accuracy")),
                shown_figure(area),
            )
        )
    total = size_text(sum(run.size for run in runs))
    return "\n".join([*_table(rows), *_problems(runs), f"{counted(len(runs), 'run')}, {total}"])


def run_text(run: RunSummary, changed: dict[str, list[Any]]) -> str:
    """Format the result of `runs show`."""
    packages, commit = run.environment.get("packages", {}), run.environment.get("commit")
    made = [f"{name} {packages[name]}" for name in ("leuk_ray", "torch", "ray") if name in packages]
    lines = [
        f"{run.path}: {', '.join(filter(None, [run.status, run.label]))}; recipe {run.recipe}, "
        f"protocol {run.protocol}{'; SYNTHETIC cells' if run.synthetic else ''}",
        f"  {counted(len(run.history), 'epoch')} in {run.seconds:.0f} s"
        + (f", epoch {run.best_epoch} is best" if run.best_epoch else "")
        + f"; {size_text(run.size)} on disk",
        f"  made with {', '.join(made) or 'unknown versions'}, commit {commit or 'unknown'}",
    ]
    lines += _problems([run])
    for name in metric_names([run]):
        lines.append(f"  {name:18} {shown_figure(run.metrics[name])}")
    if changed:
        lines.append("Settings other than the shipped recipe's:")
        lines += [
            f"  {name} = {shown_setting(mine)} (recipe: {shown_setting(shipped)})"
            for name, (mine, shipped) in changed.items()
        ]
    return "\n".join(lines)


def diff_text(runs: Sequence[RunSummary], out: Path | None) -> str:
    """Format the result of `runs diff`."""
    settings = differing(runs)
    rows = [("", *(run.name for run in runs))]
    rows += [(name, *map(shown_setting, values)) for name, values in settings.items()]
    if not settings:
        rows.append(("settings", *("all equal" for _ in runs)))
    for name in metric_names(runs):
        rows.append((f"test {name}", *(shown_figure(run.metrics.get(name)) for run in runs)))
    rows += [
        ("state", *map(_state, runs)),
        ("epochs", *(str(len(run.history)) for run in runs)),
        ("disk", *(size_text(run.size) for run in runs)),
    ]
    synthetic = any(run.synthetic for run in runs)
    return "\n".join(
        [
            *(["SYNTHETIC cells."] if synthetic else []),
            *_table(rows),
            *_problems(runs),
            *([f"Page: {out}"] if out else []),
        ]
    )


def doctor_text(checks: Sequence[Check]) -> str:
    """Format the result of `doctor`."""
    lines = []
    for check in checks:
        lines.append(f"{check.status:8} {check.name:17} {check.found}")
        if check.advice:
            lines.append(f"{'':26} {check.advice}")
    problems = sum(check.status == "problem" for check in checks)
    warnings = sum(check.status == "warning" for check in checks)
    return "\n".join([*lines, f"{counted(problems, 'problem')}, {counted(warnings, 'warning')}"])


def _state(run: RunSummary) -> str:
    return ", ".join(filter(None, [run.status, run.label, "SYNTHETIC" * bool(run.synthetic)]))


def _problems(runs: Sequence[RunSummary]) -> list[str]:
    return [run.problem for run in runs if run.problem]


def _table(rows: Sequence[Sequence[str]]) -> list[str]:
    short = [[_fitted(cell) for cell in row] for row in rows]
    widths = [max(len(row[column]) for row in short) for column in range(len(rows[0]))]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in short
    ]


def _fitted(text: str) -> str:
    return text if len(text) <= _WIDTH else f"{text[: _WIDTH - 1]}…"
