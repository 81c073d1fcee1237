"""The part of a report that is by class, for two classes or more."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from leuk_ray.datasets.classes import ClassSet
from leuk_ray.evaluation.calibration import (
    class_logits_of,
    class_probabilities,
    min_confidence,
)
from leuk_ray.evaluation.decisions import ABSTAIN_SHARES
from leuk_ray.evaluation.deployed import CALLED
from leuk_ray.evaluation.formats import decimal, percent
from leuk_ray.evaluation.intervals import BoolArray, FloatArray, GroupResamples, IntArray, Interval
from leuk_ray.evaluation.metrics import ece, ratio
from leuk_ray.evaluation.multiclass import (
    ClassEvaluation,
    brier_terms,
    class_losses,
    evaluate_classes,
)
from leuk_ray.evaluation.probabilities import fit_temperatures

MAX_CONFUSIONS = 10
_SHOWN_PAIRS, _CELLS_A_PAIR = 6, 2  # of the worst confusions, with pictures


@dataclass(frozen=True)
class ClassCells:
    """Scored cells of K classes.

    table: the predictions. label, called: (N,) 0..K-1. probabilities: (N, K), calibrated.
    """

    table: pa.Table
    label: IntArray
    called: IntArray
    probabilities: FloatArray

    @classmethod
    def of(
        cls, table: pa.Table, classes: ClassSet, temperature: float, threshold: float
    ) -> ClassCells:
        """Of two classes the threshold decides; of more the most probable is called.

        Args:
            table: predictions; see `report.write_report`.
            classes: of the labels.
            temperature: divides the class logits.
            threshold: of two classes, the second is called from this probability on.
        """
        label = table["label"].to_numpy().astype(np.int64)
        if len(classes) == 2:
            positive = table["probability"].to_numpy().astype(np.float64)
            stated = np.stack([1 - positive, positive], axis=1)
            return cls(table, label, (positive >= threshold).astype(np.int64), stated)
        stated = np.empty((0, len(classes)))
        if label.size:
            stated = class_probabilities(class_logits_of(table), temperature)
        return cls(table, label, stated.argmax(axis=1), stated)

    def evaluate(self, classes: ClassSet) -> ClassEvaluation:
        """Compute all metrics by class."""
        return evaluate_classes(self.label, self.probabilities, self.called, classes)


def binary_view(table: pa.Table, classes: ClassSet) -> pa.Table:
    """Relabel predictions 1 positive and 0 not; no rows where no class is positive."""
    if len(classes) == 2:
        return table
    if not classes.positive:
        return table.slice(0, 0)
    for name in ("label", CALLED):
        if name in table.column_names:
            own = table[name]
            binary = classes.binary_labels(own.fill_null(0).to_numpy())
            column = pa.array(binary, mask=own.is_null().to_numpy())
            table = table.set_column(table.column_names.index(name), name, column)
    return table


def worst_confusions(
    evaluation: ClassEvaluation | None, names: Sequence[str]
) -> list[dict[str, Any]]:
    """Find the pairs of true and called class with the most cells: {label, called, cells, share}.

    share: of the true class's cells.
    """
    if evaluation is None:
        return []
    counts = np.asarray(evaluation["confusion"])
    np.fill_diagonal(counts, 0)
    order = np.argsort(-counts, axis=None, kind="stable")[:MAX_CONFUSIONS]
    pairs = [divmod(place, len(names)) for place in order.tolist() if counts.flat[place]]
    support = [own["support"] for own in evaluation["per_class"].values()]
    return [
        {
            "label": names[truth],
            "called": names[called],
            "cells": int(counts[truth, called]),
            "share": ratio(int(counts[truth, called]), support[truth]),
        }
        for truth, called in pairs
    ]


def confused_cells(
    cells: ClassCells, confusions: Sequence[Mapping[str, Any]], names: Sequence[str]
) -> list[dict[str, Any]]:
    """Find the surest wrong cells of each of the worst confusions, each uid once.

    Returns:
        uid, subject, label, called, probability (of the called class), truth_probability.
    """
    rows = cells.table.select(["uid", "subject"]).to_pylist()
    found: dict[str, dict[str, Any]] = {}
    for pair in confusions[:_SHOWN_PAIRS]:
        truth, called = names.index(pair["label"]), names.index(pair["called"])
        own = np.flatnonzero((cells.label == truth) & (cells.called == called))
        surest = own[np.argsort(-cells.probabilities[own, called], kind="stable")]
        first: dict[str, int] = {}
        for index in surest.tolist():
            first.setdefault(rows[index]["uid"], index)
        for uid, index in list(first.items())[:_CELLS_A_PAIR]:
            stated = cells.probabilities[index]
            found[uid] = {
                **rows[index],
                "label": pair["label"],
                "called": pair["called"],
                "probability": float(stated[called]),
                "truth_probability": float(stated[truth]),
            }
    return list(found.values())


def confidence_bands(
    validation: ClassCells,
    test: ClassCells,
    temperature: float,
    resampled: GroupResamples,
    fixed: float | None,
    parts: Sequence[tuple[BoolArray, BoolArray]],
) -> list[dict[str, Any]]:
    """Test cells whose most probable class is less probable than a limit get no answer.

    Args:
        validation: cells that limits are fixed on, each to leave a share of them unanswered.
        test: cells that they are applied to.
        temperature: of the bundle.
        resampled: groups of the test cells.
        fixed: the limit of a calibrated bundle; None where it has none.
        parts: see `decided.parts_of`.

    Returns:
        share (None of the bundle's), min_confidence (None where it differs by fold), answered,
        accuracy (of those) and interval.
    """
    limits: list[tuple[float | None, FloatArray]] = []
    if fixed is not None:
        limits.append((None, np.full(len(test.label), fixed)))
    if all(fixing.any() for fixing, _ in parts):
        logits = class_logits_of(validation.table)
        for share in ABSTAIN_SHARES:
            limit = np.empty(len(test.label))
            for fixing, own in parts:
                limit[own] = min_confidence(logits[fixing], temperature, share)
            limits.append((share, limit))
    right, best = test.called == test.label, test.probabilities.max(axis=1, initial=0)
    out = []
    for share, limit in limits:
        answered = best >= limit
        with np.errstate(invalid="ignore", divide="ignore"):
            samples = resampled.sums(right & answered) / resampled.sums(answered)
        number = int(answered.sum())
        out.append(
            {
                "share": share,
                "min_confidence": float(limit[0]) if len(parts) == 1 else None,
                "answered": ratio(number, len(right)),
                "accuracy": ratio(int((right & answered).sum()), number),
                "interval": resampled.interval(samples),
            }
        )
    return out


def refit_classes(
    validation: ClassCells,
    test: ClassCells,
    temperature: float,
    parts: Sequence[tuple[BoolArray, BoolArray]],
) -> dict[str, Any] | None:
    """Measure what a temperature fitted on validation cells does to test cells' probabilities.

    Returns:
        temperature, cells (that it was fitted on), and brier, nll and ece (of the called class)
        of the test cells as `stated` and `refitted`; None unless validation holds two classes.
    """
    if not len(validation.label):
        return None
    logits = class_logits_of(validation.table)
    fitted = fit_temperatures(logits, validation.label, len(test.label), parts)
    if fitted is None:
        return None
    alone = float(fitted[0]) if len(parts) == 1 else None
    out: dict[str, Any] = {"temperature": alone, "cells": len(validation.label)}
    for name, used in {"stated": np.full(len(fitted), temperature), "refitted": fitted}.items():
        stated = class_probabilities(class_logits_of(test.table) / used[:, None], 1.0)
        right = (stated.argmax(axis=1) == test.label).astype(np.int64)
        out[name] = {
            "brier": float(brier_terms(test.label, stated).mean()),
            "nll": float(class_losses(test.label, stated).mean()),
            "ece": ece(right, stated.max(axis=1)),
        }
    return out


def class_sentence(evaluation: ClassEvaluation, intervals: Mapping[str, Interval]) -> str:
    """Say how many cells are classified correctly, and the mean over classes with its interval."""
    right, balanced = evaluation["accuracy"], evaluation["balanced_accuracy"]
    total, occur = len(evaluation["per_class"]), balanced["classes"]
    over = f"{occur} classes" if occur == total else f"the {occur} of {total} classes that occur"
    mean = f"balanced accuracy {decimal(balanced['value'])} over {over}"
    if balanced["value"] is None:
        mean = f"{occur} of {total} classes occurs, so there is no balanced accuracy"
    interval = intervals["balanced_accuracy"]
    stated = interval.note
    if interval.low is not None:
        stated = f"95% interval {decimal(interval.low)} to {decimal(interval.high)}"
        if interval.note:
            stated += f" ({interval.note.partition(':')[0]})"
    return (
        f"are classified correctly ({percent(right['value'])}); {mean}"
        f"{'; ' + stated if stated else ''}."
    )
