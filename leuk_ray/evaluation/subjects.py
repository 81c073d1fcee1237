"""Predictions by subject: how many of a subject's cells were called ALL."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from typing_extensions import TypedDict

from leuk_ray.datasets.classes import ABSTAIN, BINARY, ClassSet
from leuk_ray.evaluation.calibration import in_band
from leuk_ray.evaluation.deployed import CALLED, REASONS, answered
from leuk_ray.evaluation.intervals import checked_cells
from leuk_ray.evaluation.metrics import CLASSES
from leuk_ray.evaluation.proportions import clopper_pearson
from leuk_ray.utils.wording import natural

PREDICTION_COLUMNS = ("uid", "subject", "group", "role", "label", "logit", "probability")


@dataclass(frozen=True)
class Subject:
    """How the cells of one subject were called.

    cells: answered, abstained or unreadable. answered: called one of the classes. abstained: got
    no class. unreadable: could not be read or scored. called_positive: called one of the positive
    classes; None where there are none. called_share: called_positive of answered, with its 95%
    Clopper-Pearson interval; None where no cell was answered.
    """

    cells: int
    answered: int
    abstained: int
    unreadable: int
    called_positive: int | None
    called_share: float | None
    called_share_low: float | None
    called_share_high: float | None


def summarise(labels: Sequence[str | None], positive: Sequence[str] = BINARY.positive) -> Subject:
    """Count the labels of one subject's cells: in tables of answers, reports and over HTTP.

    Args:
        labels: a class, `abstain`, or None for a cell that was not read or scored.
        positive: the positive classes.
    """
    abstained, unreadable = labels.count(ABSTAIN), labels.count(None)
    answered = len(labels) - abstained - unreadable
    counts = (len(labels), answered, abstained, unreadable)
    if not positive:
        return Subject(*counts, None, None, None, None)
    called = sum(label in positive for label in labels)
    low, high = clopper_pearson(called, answered) or (None, None)
    share = called / answered if answered else None
    return Subject(*counts, called, share, low, high)


def call_subject(
    share: float | None, low: float | None, high: float | None, cut: float
) -> bool | None:
    """Say whether a subject is called by the share of its answered cells that are called positive.

    Args:
        share: of them; None where no cell was answered.
        low: end of the share's 95% interval.
        high: its other end.
        cut: the share from which on a subject is positive.

    Returns:
        True positive, False negative; None where the interval holds the cut, as it does with few
        cells whatever they are called, or no cell was answered.
    """
    if share is None or low is None or high is None or low < cut <= high:
        return None
    return share >= cut


class SubjectRow(TypedDict):
    """One subject: how many of its cells were called ALL, and how many rightly.

    label: `ALL`, `healthy`, or `mixed` when its cells carry both labels.
    cells, answered: see `Subject`. called_all: called ALL. correct: of those answered.
    blast_fraction: called_all of answered, with its 95% Clopper-Pearson bounds; None where no
        cell was answered.
    """

    subject: str
    group: str
    label: str
    cells: int
    answered: int
    called_all: int
    correct: int
    blast_fraction: float | None
    blast_low: float | None
    blast_high: float | None
    mean_probability: float


def per_subject(
    table: pa.Table, threshold: float, band: tuple[float, float] | None = None
) -> list[SubjectRow]:
    """Count by subject, in natural order (2 before 10). Cells without a subject are left out.

    The bounds of the blast fraction take a subject's cells as independent draws from it.

    Args:
        table: predictions, one row a cell.
        threshold: a cell is called ALL from this probability on.
        band: probabilities between its ends get no answer; where the table has `reasons`, these
            say which cells get none. Where it has `called`, that is what a cell is called.

    Raises:
        ValueError: a column is missing or holds a value it must not.
    """
    check_predictions(table)
    subject = np.asarray(table["subject"].to_pylist(), dtype=object)
    group = np.asarray(table["group"].to_pylist(), dtype=object)
    label, probability = checked_cells(table["label"].to_numpy(), table["probability"].to_numpy())
    truth = np.asarray(CLASSES, object)[label]
    calls, unanswered = (probability >= threshold).astype(np.int64), in_band(probability, band)
    if CALLED in table.column_names:
        calls = table[CALLED].fill_null(0).to_numpy()
        unanswered = table[CALLED].is_null().to_numpy()
    called = np.asarray(CLASSES, object)[calls]
    if REASONS in table.column_names:
        unanswered = ~answered(table)
    called[unanswered] = ABSTAIN
    rows: list[SubjectRow] = []
    for name in sorted({str(name) for name in subject if name is not None}, key=natural):
        own = subject == name
        counts = summarise(called[own].tolist())
        labels = set(truth[own].tolist())
        rows.append(
            SubjectRow(
                subject=name,
                group=str(group[own][0]),
                label="mixed" if len(labels) > 1 else labels.pop(),
                cells=counts.cells,
                answered=counts.answered,
                called_all=counts.called_positive or 0,
                correct=int((called[own] == truth[own]).sum()),
                blast_fraction=counts.called_share,
                blast_low=counts.called_share_low,
                blast_high=counts.called_share_high,
                mean_probability=float(probability[own].mean()),
            )
        )
    return rows


def check_predictions(table: pa.Table, classes: ClassSet = BINARY) -> None:
    """Raise a ValueError when a predictions table lacks a column or has gaps in one.

    Only `subject` may be null, and what is of the positive classes where there are none.
    """
    more = ("class_logits",) if len(classes) > 2 else ()
    missing = [name for name in (*PREDICTION_COLUMNS, *more) if name not in table.column_names]
    if missing:
        raise ValueError(f"predictions lack the columns {', '.join(missing)}")
    empty = ("subject",) if classes.positive else ("subject", "logit", "probability")
    for name in (*PREDICTION_COLUMNS, *more):
        nulls = table[name].null_count
        if nulls and name not in empty:
            raise ValueError(f"predictions: {nulls} of {table.num_rows} rows have no {name}")
