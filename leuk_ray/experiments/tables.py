"""The paper's tables with our figures beside the reported ones, and the size of the leak."""

from __future__ import annotations

from typing import Any

from leuk_ray.evaluation.paired import paired_bootstrap
from leuk_ray.evaluation.repeats import mean_interval
from leuk_ray.evaluation.report import BOOTSTRAP
from leuk_ray.experiments.plan import Plan
from leuk_ray.experiments.results import (
    THRESHOLD,
    Outcome,
    Outcomes,
    intervals_over_patients,
    pool_folds,
)
from leuk_ray.experiments.settings import ExperimentSettings, Row, Table
from leuk_ray.experiments.table_cells import WORDS, cell, reported
from leuk_ray.utils.wording import worst

PAIRED_METRICS = ("accuracy", "auc")
Side = tuple[str, str, str]  # model, part of the data, protocol


def fill_table(
    table: Table, experiment: ExperimentSettings, plan: Plan, found: Outcomes
) -> dict[str, Any]:
    """Fill a table for report.json: every cell has a text, every missing one a reason.

    Returns:
        id, title, paper_rows, note, columns (key, title), and rows: name, why, stand_in,
        reported (column -> text), ours (a line a protocol: protocol, leaky, repeats, cells or
        reason), reason where there is no line, and differences (of accuracy and area from
        another model: against, protocol, metric, and what `summary` returns).
    """
    return {
        "id": table.id,
        "title": table.title,
        "paper_rows": list(table.paper_rows),
        "note": table.note,
        "columns": [{"key": key, "title": WORDS[key]} for key in table.columns],
        "rows": [_row(row, table, experiment, plan, found) for row in table.rows],
    }


def _row(
    row: Row, table: Table, experiment: ExperimentSettings, plan: Plan, found: Outcomes
) -> dict[str, Any]:
    filled: dict[str, Any] = {
        "name": row.name,
        "why": row.why,
        "stand_in": plan.stand_ins.get(row.of or "", ""),
        "reported": {
            key: reported(key, row.reported[key]) if key in row.reported else "not reported"
            for key in table.columns
        }
        if row.reported
        else None,
        "ours": [],
        "reason": "",
        "differences": [],
    }
    if row.of is None:
        filled["reason"] = row.why
        return filled
    filled["ours"] = [
        _line(row, table, protocol, found) for protocol in _protocols(row, experiment, found)
    ]
    if not filled["ours"]:
        filled["reason"] = _why_not(row.of, experiment, plan)
    if row.against is not None:
        filled["differences"] = _differences(row, experiment, found)
    return filled


def _differences(row: Row, experiment: ExperimentSettings, found: Outcomes) -> list[dict[str, Any]]:
    """Return a row minus the model that it is compared with, by protocol and metric.

    Where the repeats are folds, their test cells are pooled and paired by a bootstrap over groups;
    elsewhere the metric is paired by repeat.
    """
    assert row.of is not None
    assert row.against is not None
    title = experiment.models[row.against].title
    items = []
    for protocol in _protocols(row, experiment, found):
        sides = [(of, row.data, protocol) for of in (row.of, row.against)]
        over_groups = _paired_folds(found, sides[0], sides[1])
        for metric in PAIRED_METRICS:
            if gaps := _gaps(found, sides[0], sides[1], metric):
                what = {"against": title, "protocol": protocol, "metric": metric}
                items.append(what | summary(gaps) | over_groups.get(metric, {}))
    return items


def _paired_folds(found: Outcomes, first: Side, other: Side) -> dict[str, dict[str, Any]]:
    """By metric, the first minus the other on the pooled cells of folds; empty where not folds."""
    repeats: dict[Side, dict[int, Outcome]] = {first: {}, other: {}}
    for place, outcome in found.items():
        side = (place.of, place.data, place.protocol)
        if side in repeats and isinstance(outcome, Outcome):
            repeats[side][place.repeat] = outcome
    common = sorted(repeats[first].keys() & repeats[other].keys())
    pooled = [pool_folds([repeats[side][repeat] for repeat in common]) for side in (other, first)]
    tables = [one.tested for one in pooled if one is not None and one.tested is not None]
    if len(tables) < 2 or not tables[0].drop("probability").equals(tables[1].drop("probability")):
        return {}
    before, after = (table["probability"].to_numpy() for table in tables)
    paired = paired_bootstrap(
        tables[0]["label"].to_numpy(),
        before,
        after,
        tables[0]["group"].to_pylist(),
        (THRESHOLD, THRESHOLD),
        **BOOTSTRAP,
        withheld=next((one.no_intervals for one in pooled if one is not None), ""),
    )["metrics"]
    missing = max(map(len, repeats.values())) - len(common)
    fewer = f"over the {len(common)} folds that both have" if missing else ""
    return {
        metric: {
            "mean": paired[metric]["difference"],
            **{key: paired[metric][key] for key in ("low", "high")},
            "note": "; ".join(filter(None, [paired[metric]["note"], fewer])),
        }
        for metric in PAIRED_METRICS
    }


def _protocols(row: Row, experiment: ExperimentSettings, found: Outcomes) -> list[str]:
    """Those that a row has an outcome under, in the order of the experiment's settings."""
    there = {place.protocol for place in found if (place.of, place.data) == (row.of, row.data)}
    order = dict.fromkeys(p for model in experiment.models.values() for p in model.protocols)
    return [protocol for protocol in order if protocol in there]


def _line(row: Row, table: Table, protocol: str, found: Outcomes) -> dict[str, Any]:
    places = {
        place.repeat: outcome
        for place, outcome in found.items()
        if (place.of, place.data, place.protocol) == (row.of, row.data, protocol)
        and row.repeat in (None, place.repeat)
    }
    done = {repeat: out for repeat, out in places.items() if isinstance(out, Outcome)}
    failed = {repeat: out for repeat, out in places.items() if isinstance(out, str)}
    line: dict[str, Any] = {
        "protocol": protocol,
        "leaky": worst([outcome.leaky for outcome in done.values()]),
        "repeats": sorted(done),
        "reason": "; ".join(f"repeat {repeat} {why}" for repeat, why in failed.items()),
    }
    if not places:
        line["reason"] = f"repeat {row.repeat} is not part of this scale"
    if done:
        pooled = pool_folds(list(done.values()))
        patients = intervals_over_patients(list(done.values()))
        line["cells"] = {
            key: cell(key, row.role, done, pooled=pooled, patients=patients)
            for key in table.columns
        }
    return line


def _why_not(of: str, experiment: ExperimentSettings, plan: Plan) -> str:
    """Why nothing of a model or a vote is there."""
    if of in plan.left_out:
        return plan.left_out[of]
    if of in experiment.votes:
        absent = [name for name in experiment.votes[of].members if name in plan.left_out]
        return f"No vote without {', '.join(absent)}: {plan.left_out[absent[0]]}"
    if of in experiment.baselines:
        return "no network trains on cells as they are at this scale"
    return "not part of this scale"


def leaks(experiment: ExperimentSettings, found: Outcomes) -> list[dict[str, Any]]:
    """Compute how much better a network looks under a leaky protocol, paired by repeat.

    Returns:
        One item a network, part of the data, pair of protocols and metric: of, data, leaky,
        honest, metric, differences (leaky minus honest, by repeat), mean, low and high (95% t
        interval over the repeats; None for one), note.
    """
    titles = {name: model.title for name, model in experiment.models.items()}
    titles |= {name: ensemble.title for name, ensemble in experiment.votes.items()}
    items = []
    for leaky, honest in experiment.leaks:
        for of, title in titles.items():
            for data in experiment.data:
                for metric in PAIRED_METRICS:
                    gaps = _gaps(found, (of, data, leaky), (of, data, honest), metric)
                    if gaps:
                        what = {"of": of, "title": title, "data": data, "metric": metric}
                        items.append(what | {"leaky": leaky, "honest": honest} | summary(gaps))
    return items


def summary(gaps: dict[int, float]) -> dict[str, Any]:
    """Mean and interval of paired differences by repeat."""
    values = list(gaps.values())
    interval = mean_interval(values)
    same = len(values) > 1 and len(set(values)) == 1
    note = "one repeat" if interval is None else "every repeat gives the same value" * same
    low, high = (None, None) if interval is None or same else interval
    mean = sum(values) / len(values)
    return {"differences": gaps, "mean": mean, "low": low, "high": high, "note": note}


def _gaps(found: Outcomes, first: Side, other: Side, metric: str) -> dict[int, float]:
    """By repeat, a metric of the first minus that of the other, where both have it."""
    values: dict[Side, dict[int, float]] = {first: {}, other: {}}
    for place, outcome in found.items():
        side = (place.of, place.data, place.protocol)
        if side in values and isinstance(outcome, Outcome):
            value = outcome.metrics[metric]["value"]
            if value is not None:
                values[side][place.repeat] = value
    common = sorted(values[first].keys() & values[other].keys())
    return {repeat: values[first][repeat] - values[other][repeat] for repeat in common}
