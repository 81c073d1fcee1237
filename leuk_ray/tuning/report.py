"""The report of a sweep: report.json, report.html that stands alone, runs.csv, figures."""

from __future__ import annotations

import csv
import json
import math
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field
from typing_extensions import TypedDict

from leuk_ray.datasets.prepared import PreparedDataset
from leuk_ray.evaluation.figures import Stamp
from leuk_ray.evaluation.report_model import FILE, Report, StoredReport
from leuk_ray.io.storage import directory_by_rename, write_json
from leuk_ray.models.summary import summarise
from leuk_ray.recipes.recipe import with_values
from leuk_ray.runs.table import RunRecord
from leuk_ray.tuning import figures
from leuk_ray.tuning.importance import importance
from leuk_ray.tuning.leaderboard import LeaderboardRow, configuration, summary
from leuk_ray.tuning.settings import SweepSettings
from leuk_ray.utils.html import embedded, page_templates, save_figures
from leuk_ray.utils.wording import counted, overlap_label

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MAX_NETWORKS = 20
_MAP = ("training.lr", "training.batch_size")


class SweepCounts(TypedDict):
    """How much a sweep tried, and how its runs ended."""

    configurations: int
    runs: int
    epochs: int
    finished: int
    stopped: int
    failed: int


class SweepRow(TypedDict):
    """A configuration of the leaderboard with its mean over seeds, and what its network costs.

    interval: 95% t interval over the seeds; None for one seed. run: the best one.
    """

    place: int
    overrides: dict[str, Any]
    mean: float
    spread: float | None
    interval: list[float] | None
    seeds: list[int]
    run: str
    network: str
    images_per_second: float | None
    parameters: int | None
    flops: float | None


class SweepReport(StoredReport):
    """The report of a sweep.

    sweep: its settings. leaky, leakage: of the split that all runs share; see `ReportContext`.
    leaderboard: best first. summary: whether the winner's lead is more than noise.
    winner: run, and test: what its report says of the test cells.
    importance: of each searched setting; None of too few runs. runs: see `RunRecord`.
    """

    made_by = "tune --resume"
    schema_version: int = 2  # 2: leaderboard and summary, which were standings and verdict
    sweep: dict[str, Any]
    synthetic: bool
    best_auc: float | None
    leaky: bool | None
    leakage: str
    protocol: str
    dataset_fingerprint: str
    counts: SweepCounts
    leaderboard: list[SweepRow]
    summary: str
    winner: dict[str, str]
    importance: dict[str, float] | None
    runs: list[dict[str, Any]]
    sentence: str = ""
    figures: dict[str, str] = Field(default_factory=dict)


def write_sweep_report(
    out: Path,
    sweep: SweepSettings,
    dataset: PreparedDataset,
    records: Mapping[str, RunRecord],
    leaderboard: Sequence[LeaderboardRow],
) -> SweepReport:
    """Write `out/report`, replacing an earlier one; `out/winner` has been evaluated."""
    protocol = sweep.base().split.protocol
    winner = Report.read(out / "winner")
    leaky = winner.run.leaky  # all runs of a sweep have one split
    stamp = Stamp(dataset.synthetic, overlap_label(leaky))
    runs = sorted(records.values(), key=lambda record: record.name)
    weights = importance(sweep.search, runs)
    report = SweepReport(
        sweep=sweep.model_dump(mode="json"),
        synthetic=dataset.synthetic,
        best_auc=dataset.manifest.get("best_auc"),
        leaky=leaky,
        leakage=winner.run.leakage,
        protocol=protocol,
        dataset_fingerprint=dataset.identity.fingerprint,
        counts=_counts(runs),
        leaderboard=_rows(sweep, leaderboard, runs),
        summary=summary(list(leaderboard)),
        winner={"run": leaderboard[0].best, "test": winner.sentence},
        importance=weights,
        runs=[asdict(record) for record in runs],
    )
    report = report.model_copy(update={"sentence": _sentence(report)})
    plots = _plot(sweep, list(records.values()), weights, stamp)
    with directory_by_rename(out / "report") as partial:
        report = report.model_copy(update={"figures": save_figures(plots, partial)})
        write_json(partial / FILE, report.model_dump(mode="json"))
        _write_csv(partial / "runs.csv", sweep, runs)
        (partial / "report.html").write_text(_page(report, partial), encoding="utf-8")
    return report


def _counts(runs: Sequence[RunRecord]) -> SweepCounts:
    ended = Counter(record.status for record in runs)
    return SweepCounts(
        configurations=len({configuration(record.overrides) for record in runs}),
        runs=len(runs),
        epochs=sum(len(record.curve) for record in runs),
        finished=ended["finished"],
        stopped=ended["stopped"],
        failed=ended["failed"],
    )


def _rows(
    sweep: SweepSettings, leaderboard: Sequence[LeaderboardRow], runs: Sequence[RunRecord]
) -> list[SweepRow]:
    """Return the configurations with what they cost: parameters, FLOPs, images a second."""
    base, costs = sweep.base(), {}
    rows = []
    for place, row in enumerate(leaderboard, 1):
        recipe = with_values(base, row.overrides)
        network = recipe.model.model_dump_json()
        if network not in costs and len(costs) < MAX_NETWORKS:
            summary = summarise(recipe.model)
            costs[network] = {key: summary[key] for key in ("parameters", "flops")}
        rates = [
            record.metrics["images_per_second"]
            for record in runs
            if configuration(record.overrides) == configuration(row.overrides)
            and "images_per_second" in record.metrics
        ]
        cost = costs.get(network, {"parameters": None, "flops": None})
        rows.append(
            SweepRow(
                place=place,
                overrides=row.overrides,
                mean=figures.shown(row.mean, sweep.metric),
                spread=row.spread,
                interval=_shown_interval(row.interval, sweep.metric),
                seeds=sorted(row.scores),
                run=row.best,
                network=recipe.model.title,
                images_per_second=statistics.median(rates) if rates else None,
                parameters=cost["parameters"],
                flops=cost["flops"],
            )
        )
    return rows


def _shown_interval(interval: tuple[float, float] | None, metric: str) -> list[float] | None:
    return None if interval is None else sorted(figures.shown(end, metric) for end in interval)


def _sentence(report: SweepReport) -> str:
    counts, winner = report.counts, report.leaderboard[0]
    label = overlap_label(report.leaky)
    settings = ", ".join(f"{key} {_value(value)}" for key, value in winner["overrides"].items())
    over = f"mean of {len(winner['seeds'])} seeds" if len(winner["seeds"]) > 1 else "one seed"
    return (
        f"{label + ': ' if label else ''}"
        f"Of {counted(counts['configurations'], 'configuration')} in "
        f"{counted(counts['runs'], 'run')} "
        f"({counts['stopped']} stopped early, {counts['failed']} failed), {settings} is best by "
        f"{figures.words(report.sweep['metric'])}: {winner['mean']:.4f} ({over}). "
        f"{report.summary}"
    )


def _plot(
    sweep: SweepSettings,
    records: Sequence[RunRecord],
    weights: Mapping[str, float] | None,
    stamp: Stamp,
) -> dict[str, Figure]:
    """Plot every figure that there are data for, by file name; runs in the order they ended."""
    plots = {
        "best_so_far": figures.best_so_far_figure(records, sweep.metric, stamp),
        "curves": figures.curves_figure(records, sweep.metric, stamp),
        "parallel": figures.parallel_figure(records, sweep.search, sweep.metric, stamp),
    }
    numeric = [key for key, value in sweep.search.items() if figures.is_numeric(value)]
    pair = _MAP if set(_MAP) <= set(numeric) else tuple(numeric[:2])
    if len(pair) == 2:
        across, up = ((key, sweep.search[key]) for key in pair)
        plots["map"] = figures.map_figure(records, across, up, sweep.metric, stamp)
    if weights:
        plots["importance"] = figures.importance_figure(weights, stamp)
    return plots


def _write_csv(path: Path, sweep: SweepSettings, runs: Sequence[RunRecord]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        keys = list(sweep.search)
        writer.writerow(
            ["run", "status", *keys, "seed", sweep.metric, "epochs", "seconds", "reason"]
        )
        for run in runs:
            score = "" if run.score is None else f"{figures.shown(run.score, sweep.metric):.6f}"
            values = [_value(run.overrides[key]) for key in keys]
            tail = [run.seed, score, len(run.curve), run.seconds, run.reason]
            writer.writerow([run.name, run.status, *values, *tail])


def _page(report: SweepReport, directory: Path) -> str:
    environment = page_templates(Path(__file__).parent)
    environment.filters["value"] = _value
    content, metric = report.model_dump(mode="json"), report.sweep["metric"]
    return environment.get_template("report.html.j2").render(
        **content,
        embedded=embedded(report.figures, directory),
        label=overlap_label(report.leaky),
        metric=figures.words(metric),
        score=lambda run: (
            "n/a"
            if "selection" not in run["metrics"]
            else f"{figures.shown(run['metrics']['selection'], metric):.4f}"
        ),
    )


def _value(value: Any) -> str:
    """Return a setting's value for people."""
    if isinstance(value, float) and math.isfinite(value):
        return f"{value:.4g}"
    return value if isinstance(value, str) else json.dumps(value)
