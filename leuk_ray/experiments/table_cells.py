"""One figure of a table: outcomes of several repeats to a value with counts and interval."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping
from typing import Any

from leuk_ray.evaluation.formats import count, decimal, percent
from leuk_ray.evaluation.intervals import Interval
from leuk_ray.evaluation.repeats import mean_interval
from leuk_ray.experiments.results import Outcome
from leuk_ray.utils.wording import counted

SHARES = (
    "accuracy", "precision", "sensitivity", "specificity", "f1", "recall", "weighted_f1"
)  # fmt: skip
SCORES = ("auc", "loss")
COSTS = ("parameters", "flops", "images_per_second", "epochs")
_ROLES = {"ALL": ("ALL",), "healthy": ("healthy",), "both": ("ALL", "healthy")}
_INTERVALS_OF = {("recall", "ALL"): "sensitivity", ("recall", "healthy"): "specificity"}
_NO_INTERVAL = "no interval over groups for this figure"
_OF_CLASS = ("precision", "recall", "f1")
WORDS = {
    "accuracy": "Accuracy", "precision": "Precision", "sensitivity": "Sensitivity",
    "specificity": "Specificity", "f1": "F1", "recall": "Recall", "loss": "Loss, nats",
    "auc": "Area under ROC", "weighted_f1": "Weighted F1", "parameters": "Parameters",
    "flops": "GFLOPs", "images_per_second": "Images/s", "epochs": "Epochs",
    "train_healthy": "Training, healthy", "train_ALL": "Training, ALL",
    "test_healthy": "Test, healthy", "test_ALL": "Test, ALL",
}  # fmt: skip


def cell(
    column: str,
    role: str | None,
    outcomes: Mapping[int, Outcome],
    *,
    pooled: Outcome | None = None,
    patients: Mapping[str, Interval] | None = None,
) -> dict[str, Any]:
    """Compute a figure over repeats.

    Args:
        column: of the table.
        role: the class taken as positive, `both` for the mean of the two, None for ALL.
        outcomes: repeat -> outcome; at least one.
        pooled: where the repeats test different groups, see `results.pool_folds`.
        patients: where all repeats test the same cells, see `results.intervals_over_patients`.

    Returns:
        text, detail: for people. value: of the pooled cells, else the mean of the repeats, None
        where it is undefined in one of them; sd over repeats; low, high: 95% interval over the
        groups, of repeats that re-split a t interval over these; numerator, denominator, cells:
        of the pooled cells, summed over repeats that re-split, the mean of those that test the
        same cells; repeats: each with its own value, counts and interval of groups; note: why
        there is no value or interval.
    """
    if column.startswith(("train_", "test_")):
        return _image_count(column, outcomes)
    if column in COSTS:
        return _cost(column, outcomes)
    each = {repeat: _one(column, role, outcome) for repeat, outcome in outcomes.items()}
    form = decimal if column in SCORES else percent
    if pooled is not None:
        found = _pooled(_one(column, role, pooled), list(each.values())) | {"repeats": each}
        if found["value"] is None:
            return found | {"text": "n/a", "detail": found["note"]}
        detail = _detail(found, form, f"groups of {len(each)} folds", column != "loss")
        return found | {"text": form(found["value"]), "detail": detail}
    values = [one["value"] for one in each.values()]
    if None in values:
        undefined = ", ".join(str(repeat) for repeat, one in each.items() if one["value"] is None)
        note = f"0 of 0 in repeat {undefined}"
        return {"text": "n/a", "detail": note, "value": None, "repeats": each, "note": note}
    found: dict[str, Any] = {"value": statistics.fmean(values), "repeats": each}
    found |= _counts(list(each.values()), len(each) if patients is not None else 1)
    over = f"{len(each)} repeats"
    if patients is not None:
        found |= _over_patients(column, role, list(each.values()), patients)
        over = f"groups, mean of {len(each)} repeats on the same cells"
    else:
        found |= _interval(list(each.values()))
        over = over if len(each) > 1 else "groups"
    detail = _detail(found, form, over, column != "loss")
    return found | {"text": form(found["value"]), "detail": detail}


def reported(column: str, value: float) -> str:
    """Write a figure as the paper prints it."""
    if column in SHARES:
        return f"{value:g}%"
    return f"{value:g}" if column in SCORES else count(value)


def _one(column: str, role: str | None, outcome: Outcome) -> dict[str, Any]:
    """Return a metric of one repeat: value, numerator, denominator, low, high, note, cells."""
    metrics = outcome.metrics
    name = "nll" if column == "loss" else column
    if column in _OF_CLASS and role is not None:
        own = [metrics["per_class"][label][name] for label in _ROLES[role]]
        values = [ratio["value"] for ratio in own]
        found = dict(own[0]) if len(own) == 1 else {}
        found["value"] = None if None in values else statistics.fmean(values)
        interval = outcome.intervals.get(_INTERVALS_OF.get((column, role), ""))
    else:
        name = "sensitivity" if name == "recall" else name
        found = {key: metrics[name].get(key) for key in ("value", "numerator", "denominator")}
        interval = outcome.intervals.get(name)
    bounds = {"low": interval and interval.low, "high": interval and interval.high}
    note = interval.note if interval else ""
    return found | bounds | {"note": note, "cells": metrics["cells"]}


def _counts(each: list[dict[str, Any]], times: int) -> dict[str, Any]:
    """Sum counts over the repeats; means where these are of the same cells, `times` times."""
    found: dict[str, Any] = {"cells": sum(one["cells"] for one in each) // times}
    if all(one.get("denominator") is not None for one in each):
        for key in ("numerator", "denominator"):
            total = sum(one[key] for one in each)
            found[key] = total / times if total % times else total // times
    return found


def _pooled(one: dict[str, Any], each: list[dict[str, Any]]) -> dict[str, Any]:
    """Of the cells of all folds, and the spread of the folds."""
    known = [fold["value"] for fold in each if fold["value"] is not None]
    note = one["note"] or ("" if one["low"] is not None else _NO_INTERVAL)
    if one["value"] is None:
        note = f"0 of 0 in {len(each)} folds"
    known_only = {key: value for key, value in one.items() if value is not None}
    bounds = {key: one[key] for key in ("value", "low", "high")}
    sd = statistics.stdev(known) if len(known) > 1 else None
    return known_only | bounds | {"sd": sd, "note": note}


def _over_patients(
    column: str, role: str | None, each: list[dict[str, Any]], patients: Mapping[str, Interval]
) -> dict[str, Any]:
    """Return the interval over the groups that every repeat tests, and the repeats' spread."""
    own = {"loss": "nll", "recall": "sensitivity"}.get(column, column)
    if column in _OF_CLASS and role not in (None, "ALL"):
        own = "specificity" if (column, role) == ("recall", "healthy") else ""
    interval = patients.get(own)
    bounds = {"low": interval and interval.low, "high": interval and interval.high}
    note = interval.note if interval else _NO_INTERVAL
    return bounds | {"sd": statistics.stdev(one["value"] for one in each), "note": note}


def _interval(each: list[dict[str, Any]]) -> dict[str, Any]:
    """Over the repeats; of one repeat, over the groups of its test cells."""
    if len(each) == 1:
        (one,) = each
        note = one["note"] or ("" if one["low"] is not None else "no interval: one repeat")
        return {"low": one["low"], "high": one["high"], "sd": None, "note": note}
    values = [one["value"] for one in each]
    if len(set(values)) == 1:
        note = f"no interval: all {len(values)} repeats give the same value"
        return {"low": None, "high": None, "sd": 0.0, "note": note}
    interval = mean_interval(values)
    assert interval is not None
    low, high = interval
    return {"low": low, "high": high, "sd": statistics.stdev(values), "note": ""}


def _detail(found: dict[str, Any], form: Any, over: str, bounded: bool) -> str:
    parts = []
    if "denominator" in found and form is percent:
        parts.append(f"{count(found['numerator'])} of {count(found['denominator'])}")
    else:
        parts.append(f"over {counted(found['cells'], 'cell')}")
    if found["low"] is not None:
        highest = 1.0 if bounded else math.inf
        low, high = (form(min(max(end, 0.0), highest)) for end in (found["low"], found["high"]))
        parts.append(f"95% {low} to {high} over {over}")
    else:
        parts.append(found["note"])
    if found["sd"]:
        parts.append(f"SD {form(found['sd'])}")
    return "; ".join(parts)


def _image_count(column: str, outcomes: Mapping[int, Outcome]) -> dict[str, Any]:
    role, _, label = column.partition("_")
    each = {repeat: outcome.roles[role]["classes"][label] for repeat, outcome in outcomes.items()}
    return _listed(each, count)


def _cost(column: str, outcomes: Mapping[int, Outcome]) -> dict[str, Any]:
    each = {
        repeat: outcome.costs[column]
        for repeat, outcome in outcomes.items()
        if column in outcome.costs
    }
    if not each:
        return {"text": "n/a", "detail": "no network was trained", "value": None, "note": "n/a"}
    forms = {"flops": lambda v: f"{v / 1e9:.3f}", "images_per_second": lambda v: f"{v:.0f}"}
    found = _listed(each, forms.get(column, count))
    if column == "epochs":
        why = dict.fromkeys(outcome.stopped for outcome in outcomes.values())
        found["detail"] = "; ".join(filter(None, [found["detail"], *why]))
    return found


def _listed(each: Mapping[int, float], form: Any) -> dict[str, Any]:
    """Return the mean, and every repeat's number where they differ."""
    values = list(each.values())
    mean = statistics.fmean(values)
    detail = ""
    if len(set(map(form, values))) > 1:
        detail = f"mean of {', '.join(map(form, values))}"
    return {
        "text": form(mean), "detail": detail, "value": mean, "repeats": dict(each), "note": ""
    }  # fmt: skip
