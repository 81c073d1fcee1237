"""MODEL_CARD.md: what a bundle is for, what it learned from, how well it does, what it cannot."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from leuk_ray.datasets.classes import BINARY
from leuk_ray.evaluation.formats import count, decimal, percent
from leuk_ray.utils.wording import counted, counted_subjects, overlap_label, without_html

if TYPE_CHECKING:
    from leuk_ray.bundles.manifest import BundleManifest
    from leuk_ray.evaluation.intervals import Interval
    from leuk_ray.evaluation.report_model import Report

_METRICS = (
    ("auc", "Area under ROC", decimal),
    ("weighted_f1", "Weighted F1", percent),
    ("accuracy", "Accuracy", percent),
    ("sensitivity", "Sensitivity ({positive} found)", percent),
    ("specificity", "Specificity ({negative} cleared)", percent),
    ("brier", "Brier score", decimal),
    ("nll", "Negative log-likelihood, nats", decimal),
    ("ece", "Calibration error, bins of equal counts", decimal),
)
_CLASS_METRICS = (
    ("balanced_accuracy", "Balanced accuracy: mean recall", percent),
    ("macro_f1", "Macro F1: mean F1", percent),
    ("kappa", "Cohen's kappa", decimal),
    ("top_label_ece", "Calibration error of the called class", decimal),
)
_NO_INTERVAL = {"low": None, "high": None, "note": ""}


def results_of(report: Report) -> dict[str, Any]:
    """Say what a bundle keeps of its run's report: the test metrics with counts and intervals.

    Returns:
        Empty without test cells; else `protocol`, `leaky`, `leakage`, `audit_warnings`,
        `threshold`, `temperature`, `scored` and `metrics`: name -> {value, counts, low, high,
        note}.
    """
    run, several = report.run, len(report.run.classes) > 2
    tested = report.tested_classes if several else report.tested
    intervals = report.class_intervals if several else report.intervals
    if tested is None:
        return {}
    names = [name for name, _, _ in _METRICS]
    if several:
        names = ["accuracy", "nll", *(name for name, _, _ in _CLASS_METRICS)]
    return {
        "protocol": run.protocol,
        "leaky": run.leaky,
        "leakage": run.leakage,
        "audit_warnings": (report.audit or {}).get("warnings", []),
        "threshold": report.threshold,
        "temperature": run.temperature,
        "scored": report.scored["test"],
        "metrics": {name: tested[name] | _bounds(intervals.get(name)) for name in names},
    }


def _bounds(interval: Interval | None) -> dict[str, Any]:
    if interval is None:
        return _NO_INTERVAL
    return {"low": interval.low, "high": interval.high, "note": interval.note}


class _Shown(NamedTuple):
    """Words for what the images of a bundle show."""

    task: str
    one: str
    many: str
    but_not: str
    limit: str


_FEW = "says little of a patient; those of one patient resemble each other."
_SHOWN = {
    "cells": _Shown(
        "Classifies one stained cell as leukemic blast (ALL) or healthy.",
        "one cell",
        "single stained cells",
        ", and not for pictures of several cells",
        f"One cell {_FEW}",
    ),
    "fields": _Shown(
        "Classifies one field of view of a stained blood smear as with leukemic blasts (ALL) or "
        "healthy.",
        "one whole field of view",
        "whole fields of view of stained blood smears",
        ", and not for pictures of single cells",
        f"One field of view {_FEW}",
    ),
    "both": _Shown(
        "Classifies one stained cell, or one field of view of a stained blood smear, as leukemic "
        "(ALL) or healthy.",
        "one cell or one whole field of view",
        "single stained cells and of whole fields of view of blood smears",
        "",
        f"One cell or field of view {_FEW}",
    ),
}


def model_card(manifest: BundleManifest, network: str) -> str:
    """Write the card as Markdown.

    Args:
        manifest: of the bundle.
        network: the network or the ensemble, as list items.
    """
    shown = _SHOWN[manifest.shows]
    data = "SYNTHETIC, rendered images" if manifest.synthetic else "microscope images"
    return without_html(f"""# Model card

{_task(manifest)}
**For research. Not a medical device, not a diagnosis.**

## Intended use

Research on pictures of {shown.many} like those it was trained on, read by people who know
them. Not for deciding about a patient, not for other stains, microscopes, cameras, ages or diseases
that it was not tested on{shown.but_not}.

## Model

{network}
- Expects: {shown.one} in {manifest.storage.crop} crop, stored at {manifest.storage.size} px
- Decision: {_decision(manifest)}, temperature {manifest.temperature:.4g}
{_calibration(manifest)}- Answers: {_band(manifest)}; {_scope(manifest)}

## Data and protocol

- Trained on: {data}; dataset fingerprint `{manifest.dataset_fingerprint}`
- Protocol: {manifest.protocol}; recipe {manifest.recipe}, seed {manifest.seed}
- People in the data (age, sex, origin, severity): not available

## Results

{_results(manifest)}

## Limits

{_limits(manifest)}
""")


def _task(manifest: BundleManifest) -> str:
    if manifest.class_set == BINARY:
        return _SHOWN[manifest.shows].task
    names = ", ".join(
        name + " (positive)" * (name in manifest.positive) for name in manifest.classes
    )
    return f"Classifies {_SHOWN[manifest.shows].one} as one of: {names}."


def _decision(manifest: BundleManifest) -> str:
    if manifest.conformal is not None:
        return "the one class of a cell's prediction set"
    if len(manifest.classes) == 2:
        return f"{manifest.classes[1]} from probability {manifest.threshold:g} on"
    return "the most likely class"


def _band(manifest: BundleManifest) -> str:
    if manifest.conformal is not None:
        return "none where the prediction set of a cell is not one class"
    if (smallest := manifest.min_confidence) is not None:
        return f"none where the most likely class has a probability below {smallest:.3f}"
    if manifest.abstain_band is None:
        return "always one, as no abstain band is set"
    low, high = manifest.abstain_band
    return f"none between probabilities {low:.3f} and {high:.3f}"


def _scope(manifest: BundleManifest) -> str:
    return (
        "no check of scope"
        if manifest.scope is None
        else "none outside of the training cells' scope"
    )


def _calibration(manifest: BundleManifest) -> str:
    """On what temperature and band were fixed, as list items; empty before `calibrate`."""
    items, names = [], manifest.class_set.binary_names
    if (decisions := manifest.decisions) is not None:
        items.append(f"- Calibrated on: {decisions.basis(names)}. {decisions.caution}")
    if (sets := manifest.conformal) is not None:
        named = zip(manifest.classes, sets.limits, strict=True)
        patients = ", ".join(f"{limit.patients} of {name}" for name, limit in named)
        items.append(
            f"- Guarantee: for each class, the prediction set of a random cell of that class of a "
            f"new random patient holds the class with a probability of at least {sets.coverage:g}, "
            f"for patients exchangeable with those of the calibration ({patients}), on average "
            f"over patients. {sets.caution}"
        )
    return "".join(item.rstrip() + "\n" for item in items)


_BEFORE = """**Of the bundle before `leuk-ray calibrate`**, which answered for every cell with the
temperature below. Calibration leaves the ranking of cells as it was (area under ROC), but not the
probabilities (Brier score, negative log-likelihood, calibration error) nor which cells get an
answer: no result of this bundle itself is kept.

"""


def _results(manifest: BundleManifest) -> str:
    test = manifest.test
    if not test:
        return "No test result is kept in this bundle."
    scored, label = test["scored"], overlap_label(test["leaky"])
    negative, positive = manifest.classes[0], manifest.classes[-1]  # of two
    threshold = f"threshold {test['threshold']:g} and " if len(manifest.classes) == 2 else ""
    lines = [
        f"{label + ': ' if label else ''}"
        f"{counted(scored['rows'], 'test cell')} of "
        f"{counted_subjects(scored['subjects'], scored.get('rows_without_subject', 0))} in "
        f"{counted(scored['groups'], 'group')}, protocol {test['protocol']}, at "
        f"{threshold}temperature {test['temperature']:g}.",
        "",
        "| metric | value | of | 95% interval over groups |",
        "|---|---|---|---|",
    ]
    notes = {}
    for name, title, form in _METRICS + _CLASS_METRICS:
        found = test["metrics"].get(name)
        if found is None:
            continue
        low, high = found["low"], found["high"]
        interval = "none" if low is None else f"{form(low)} to {form(high)}"
        if found["note"]:
            notes[found["note"]] = None
        title = title.format(positive=positive, negative=negative)
        lines.append(f"| {title} | {form(found['value'])} | {_of(found)} | {interval} |")
    calibrated = manifest.decisions is not None or manifest.scope is not None
    before = _BEFORE if calibrated else ""
    return before + "\n".join([*lines, *(f"\n{note}." for note in notes)])


def _of(metric: Mapping[str, Any]) -> str:
    if "cells" in metric:
        return counted(metric["cells"], "cell")
    if "numerator" not in metric or "denominator" not in metric:
        return "n/a"
    return f"{count(metric['numerator'])} of {count(metric['denominator'])}"


def _limits(manifest: BundleManifest) -> str:
    limits = [
        "Tested on one dataset: how it does at another hospital is not known.",
        _SHOWN[manifest.shows].limit,
    ]
    if manifest.synthetic:
        limits.insert(0, "Trained on rendered cells: it says nothing about real ones.")
    if label := overlap_label(manifest.test.get("leaky", False)):
        limits.insert(
            0, manifest.test.get("leakage", f"{label}: patients cross into the test set.")
        )
    limits += [
        f"The audit of its dataset warns: {warning}."
        for warning in manifest.test.get("audit_warnings", ())
    ]
    if manifest.decisions is None and manifest.temperature == 1:
        limits.append("Probabilities are not calibrated; `leuk-ray calibrate` does that.")
    if manifest.scope is None:
        limits.append("It answers for any picture, also one that shows no cell.")
    return "\n".join(f"- {limit}" for limit in limits)
