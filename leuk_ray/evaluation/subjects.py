"""Predictions by subject: how many of a subject's cells were called ALL."""

from __future__ import annotations

import re
from typing import TypedDict

import numpy as np
import pyarrow as pa

from leuk_ray.evaluation.intervals import checked_cells, clopper_pearson
from leuk_ray.evaluation.metrics import CLASSES

PREDICTION_COLUMNS = ("uid", "subject", "group", "role", "label", "logit", "probability")


class SubjectRow(TypedDict):
    """One subject: how many of its cells were called ALL, and how many rightly.

    label: `ALL`, `healthy`, or `mixed` when its cells carry both labels.
    blast_fraction: called_all of cells, with its 95% Clopper-Pearson bounds.
    """

    subject: str
    group: str
    label: str
    cells: int
    called_all: int
    correct: int
    blast_fraction: float
    blast_low: float
    blast_high: float
    mean_probability: float


def per_subject(table: pa.Table, threshold: float) -> list[SubjectRow]:
    """One row a subject, in natural order (2 before 10). Cells without a subject are left out.

    The bounds of the blast fraction take a subject's cells as independent draws from it.

    Args:
        table: predictions, one row a cell.
        threshold: a cell is called ALL from this probability on.

    Raises:
        ValueError: a column is missing or holds a value it must not.
    """
    check_predictions(table)
    subject = np.asarray(table["subject"].to_pylist(), dtype=object)
    group = np.asarray(table["group"].to_pylist(), dtype=object)
    label, probability = checked_cells(table["label"].to_numpy(), table["probability"].to_numpy())
    called = probability >= threshold
    rows: list[SubjectRow] = []
    for name in sorted({str(name) for name in subject if name is not None}, key=_natural):
        own = subject == name
        cells, called_all = int(own.sum()), int(called[own].sum())
        low, high = clopper_pearson(called_all, cells) or (0.0, 1.0)
        labels = set(label[own].tolist())
        rows.append(
            SubjectRow(
                subject=name,
                group=str(group[own][0]),
                label="mixed" if len(labels) > 1 else CLASSES[labels.pop()],
                cells=cells,
                called_all=called_all,
                correct=int((called[own] == label[own]).sum()),
                blast_fraction=called_all / cells,
                blast_low=low,
                blast_high=high,
                mean_probability=float(probability[own].mean()),
            )
        )
    return rows


def check_predictions(table: pa.Table) -> None:
    """Raise a ValueError when a predictions table lacks a column or has gaps in one.

    Only `subject` may be null.
    """
    missing = [name for name in PREDICTION_COLUMNS if name not in table.column_names]
    if missing:
        raise ValueError(f"predictions lack the columns {', '.join(missing)}")
    for name in PREDICTION_COLUMNS:
        nulls = table[name].null_count
        if nulls and name != "subject":
            raise ValueError(f"predictions: {nulls} of {table.num_rows} rows have no {name}")


def _natural(name: str) -> list[tuple[int, str]]:
    parts = re.split(r"(\d+)", name)
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in parts]
