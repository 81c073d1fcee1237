"""The paper's tables with our figures beside the reported ones, and the size of the leak."""

from __future__ import annotations

from typing import Any

from leuk_ray.evaluation.repeats import mean_interval
from leuk_ray.experiments.plan import Plan
from leuk_ray.experiments.results import Outcome, Outcomes, intervals_over_patients
from leuk_ray.experiments.settings import ExperimentSettings, Row, Table
from leuk_ray.experiments.table_cells import WORDS, cell, reported
from leuk_ray.utils.wording import worst

LEAK_METRICS = ("accuracy", "auc")


def fill_table(
    table: Table, experiment: ExperimentSettings, plan: Plan, found: Outcomes
) -> dict[str, Any]:
    """A table as report.json has it; every cell has a text, every missing one a reason.

    Returns:
        id, title, paper_rows, note, columns (key, title), and rows: name, why, stand_in,
        reported (column -> text), ours (a line a protocol: protocol, leaky, repeats, cells or
        reason), reason where there is no line.
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
    }
    if row.of is None:
        filled["reason"] = row.why
        return filled
    filled["ours"] = [
        _line(row, table, protocol, found) for protocol in _protocols(row, experiment, found)
    ]
    if not filled["ours"]:
        filled["reason"] = _why_not(row.of, experiment, plan)
    return filled


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
        patients = intervals_over_patients(list(done.values()))
        line["cells"] = {key: cell(key, row.role, done, patients) for key in table.columns}
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
    """How much better the same network looks under a leaky protocol, paired by repeat.

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
                for metric in LEAK_METRICS:
                    gaps = _gaps(found, of, data, leaky, honest, metric)
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


def _gaps(
    found: Outcomes, of: str, data: str, leaky: str, honest: str, metric: str
) -> dict[int, float]:
    values: dict[str, dict[int, float]] = {leaky: {}, honest: {}}
    for place, outcome in found.items():
        if (place.of, place.data) == (of, data) and place.protocol in values:
            value = outcome.metrics[metric]["value"] if isinstance(outcome, Outcome) else None
            if value is not None:
                values[place.protocol][place.repeat] = value
    common = sorted(values[leaky].keys() & values[honest].keys())
    return {repeat: values[leaky][repeat] - values[honest][repeat] for repeat in common}
