"""Runs in a folder: which there are, what they gave, and how they differ."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import NoneType
from typing import Any

from leuk_ray.evaluation.report_model import FILE, Report
from leuk_ray.io.storage import read_bytes, read_json
from leuk_ray.recipes.recipe import load_recipe, recipe_names
from leuk_ray.runs.table import read_history
from leuk_ray.utils.errors import ConfigError, DataError, UserError
from leuk_ray.utils.parsing import parse_yaml
from leuk_ray.utils.wording import natural

# Of report.json's metrics of the test cells, what stands side by side.
_BINARY = ("accuracy", "sensitivity", "specificity", "auc", "balanced_accuracy", "nll")
_CLASSES = ("accuracy", "balanced_accuracy", "macro_f1", "macro_auc", "kappa", "nll")


@dataclass(frozen=True)
class Figure:
    """A metric of the test cells with its 95% interval over patients, where there is one."""

    value: float | None
    low: float | None = None
    high: float | None = None
    numerator: float | None = None
    denominator: int | None = None


@dataclass(frozen=True)
class RunSummary:
    """A run's folder in short.

    name: its path below the folder that was searched.
    status: `finished`, `evaluation missing`, `unfinished` or `damaged`.
    problem: in one line what is damaged, or why this version cannot read the settings, which then
        are as config.yaml has them; else empty.
    label: `LEAKY` or the like of its report, else empty. synthetic: its cells were rendered; None
        where no report says.
    settings: of its recipe, by full path (`training.lr`), defaults included.
    metrics: of the test cells, by name. history: one row an epoch.
    environment: what it was made with. seconds: of all epochs. size: bytes on disk.
    """

    name: str
    path: Path
    recipe: str
    protocol: str
    status: str
    problem: str
    label: str
    synthetic: bool | None
    best_epoch: int | None
    settings: dict[str, Any]
    metrics: dict[str, Figure]
    history: list[dict[str, Any]]
    environment: dict[str, Any]
    seconds: float
    size: int

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self) | {"path": str(self.path), "epochs": len(self.history)}


def find_runs(folder: Path) -> list[RunSummary]:
    """Return every run in a folder and below, by name.

    Raises:
        DataError: there is no such folder, or no run in it.
    """
    if not folder.is_dir():
        raise DataError(f"{folder}: there is no such folder; give the folder of a run or of runs")
    found = [_read_or_say(path, folder) for path in _run_folders(folder)]
    if not found:
        raise DataError(f"{folder}: holds no run (config.yaml beside environment.json)")
    return sorted(found, key=lambda run: natural(run.name))


def _read_or_say(path: Path, folder: Path) -> RunSummary:
    """Return a run in short; of a damaged one its name and what is wrong with it."""
    try:
        return read_run(path, folder)
    except UserError as error:
        nothing: dict[str, Any] = {"settings": {}, "metrics": {}, "history": [], "environment": {}}
        return RunSummary(
            name=_name(path, folder),
            path=path,
            recipe="",
            protocol="",
            status="damaged",
            problem=str(error),
            label="",
            synthetic=None,
            best_epoch=None,
            **nothing,
            seconds=0.0,
            size=_size(path),
        )


def read_run(path: Path, folder: Path | None = None) -> RunSummary:
    """Return a run's folder in short, named by its path below `folder`.

    Raises:
        UserError: it is no run, or one of its files is damaged.
    """
    if not _is_run(path):
        raise DataError(f"{path}: is no run (no config.yaml beside an environment.json)")
    settings, problem = _settings(path / "config.yaml")
    history = _history(path)
    report = Report.read(path / "report") if (path / "report" / FILE).exists() else None
    ended = any(row.get("ended") for row in history)
    return RunSummary(
        name=_name(path, folder),
        path=path,
        recipe=_printable(str(settings.get("name", ""))),
        protocol=_printable(str(settings.get("split.protocol", ""))),
        status="finished" if report else "evaluation missing" if ended else "unfinished",
        problem=problem,
        label=report.run.label if report else "",
        synthetic=report.run.synthetic if report else None,
        best_epoch=report.run.stopping.get("best_epoch") if report else None,
        settings=settings,
        metrics=_figures(report) if report else {},
        history=history,
        environment=_environment(path / "environment.json"),
        seconds=sum(row.get("seconds", 0.0) for row in history),
        size=_size(path),
    )


def side_by_side(places: Sequence[Path]) -> list[RunSummary]:
    """Return the runs at some paths, or in folders of runs; two or more, of different names.

    Raises:
        DataError: fewer than two.
    """
    found = {run.path.resolve(): run for place in places for run in find_runs(place)}
    if len(found) < 2:
        raise DataError(f"{places[0]}: is one run; give two or more, or a folder of runs")
    common = os.path.commonpath([path.parent for path in found])
    return [replace(run, name=os.path.relpath(path, common)) for path, run in found.items()]


def beside_recipe(run: RunSummary) -> dict[str, list[Any]]:
    """Return settings other than the shipped recipe's: path -> [the run's, the recipe's].

    Empty where no recipe of that name is shipped, or this version cannot read the settings.
    """
    if run.problem or run.recipe not in recipe_names():
        return {}
    shipped = flat(load_recipe(run.recipe).model_dump(mode="json"))
    names = dict.fromkeys([*run.settings, *shipped])
    each = {name: [run.settings.get(name), shipped.get(name)] for name in names}
    return {name: both for name, both in each.items() if both[0] != both[1]}


def differing(runs: Sequence[RunSummary]) -> dict[str, list[Any]]:
    """Find settings that differ: path -> the value in each run, None where it is not set."""
    names = dict.fromkeys(name for run in runs for name in run.settings)
    values = {name: [run.settings.get(name) for run in runs] for name in names}
    return {name: each for name, each in values.items() if any(v != each[0] for v in each)}


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return settings by full path, as `training.lr`."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        path = f"{prefix}{name}"
        if isinstance(value, Mapping):
            found |= flat(value, f"{path}.")
        else:
            known = isinstance(value, (str, bool, int, list, NoneType)) or _is_finite(value)
            found[path] = value if known else str(value)  # a date, or NaN, which JSON has not
    return found


def _settings(place: Path) -> tuple[dict[str, Any], str]:
    """Return a run's settings, and why they are no recipe's of this version, else empty."""
    config = parse_yaml(read_bytes(place), str(place))
    if not isinstance(config, dict):
        raise DataError(f"{place}: is damaged; it holds no settings")
    try:
        return flat(load_recipe(str(place)).model_dump(mode="json")), ""
    except ConfigError as error:
        reason = str(error).removeprefix(f"recipe {place}: ")
        return flat(config), f"{place}: is no recipe of this version ({reason}); shown as it is"


def _history(path: Path) -> list[dict[str, Any]]:
    """Return the epochs of a run.

    Raises:
        DataError: a line is none of an epoch.
    """
    place = path / "metrics.jsonl"
    try:
        rows = read_history(path)
    except (ValueError, OSError) as error:
        raise DataError(f"{place}: is damaged ({error})") from error
    for number, row in enumerate(rows, start=1):
        if not (
            isinstance(row, dict)
            and isinstance(row.get("epoch"), int)
            and _is_finite(row.get("seconds", 0))
        ):
            raise DataError(f"{place}: line {number} is none of an epoch")
    return [
        {name: value for name, value in row.items() if isinstance(value, str) or _is_finite(value)}
        for row in rows
    ]


def _environment(place: Path) -> dict[str, Any]:
    values = read_json(place)
    if not isinstance(values, dict) or not isinstance(values.get("packages", {}), dict):
        raise DataError(f"{place}: is damaged; it does not say what the run was made with")
    return values


def _is_finite(value: object) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value)


def _name(path: Path, folder: Path | None) -> str:
    name = path.name if folder is None or path == folder else str(path.relative_to(folder))
    return _printable(name)


def _printable(text: str) -> str:
    return "".join(letter if letter.isprintable() else "?" for letter in text)


def _size(path: Path) -> int:
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())


def _run_folders(folder: Path) -> Iterator[Path]:
    for place, folders, _ in os.walk(folder):
        if _is_run(Path(place)):
            folders.clear()  # checkpoints and bundle are parts of the run
            yield Path(place)


def _is_run(path: Path) -> bool:
    return (path / "config.yaml").is_file() and (path / "environment.json").is_file()


def _figures(report: Report) -> dict[str, Figure]:
    several = len(report.run.classes) > 2
    metrics: Any = report.tested_classes if several else report.tested
    intervals = report.class_intervals if several else report.intervals
    found = {}
    for name in _CLASSES if several else _BINARY:
        metric, interval = (metrics or {}).get(name), intervals.get(name)
        if metric is not None:
            found[name] = Figure(
                metric["value"],
                interval and interval.low,
                interval and interval.high,
                metric.get("numerator"),
                metric.get("denominator"),
            )
    return found
