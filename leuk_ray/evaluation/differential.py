"""The differential of a subject: the share of each class among its answered cells."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from typing_extensions import TypedDict

from leuk_ray.datasets.classes import ABSTAIN
from leuk_ray.evaluation.deployed import REASONS, answered
from leuk_ray.evaluation.intervals import IntArray
from leuk_ray.evaluation.proportions import clopper_pearson
from leuk_ray.utils.wording import natural


@dataclass(frozen=True)
class ClassShare:
    """One class of a differential.

    cells: answered cells of the class. share: of all answered cells, with its interval; None
    without an answered cell.
    """

    name: str
    cells: int
    share: float | None
    low: float | None
    high: float | None


def differential(labels: Sequence[str | None], classes: Sequence[str]) -> list[ClassShare]:
    """Count the classes of one subject's cells, with simultaneous 95% intervals of their shares.

    All intervals together hold the true shares in at least 95% of subjects: each is a
    Clopper-Pearson interval at 1 - 0.05 / K (Bonferroni). They take cells as independent draws
    and answers as right: errors of the classifier are not in them.

    Args:
        labels: of the subject's cells; those that are none of `classes` got no answer.
        classes: the K names.
    """
    counts = [sum(label == name for label in labels) for name in classes]
    answered = sum(counts)
    level = 1 - 0.05 / len(classes)
    out = []
    for name, cells in zip(classes, counts, strict=True):
        low, high = clopper_pearson(cells, answered, level) or (None, None)
        out.append(ClassShare(name, cells, cells / answered if answered else None, low, high))
    return out


class TrueShare(TypedDict):
    """One class of a differential as `ClassShare`, beside the share of the true class.

    true_cells: the subject's cells of the class, answered or not. true_share: of all its cells.
    """

    name: str
    cells: int
    share: float | None
    low: float | None
    high: float | None
    true_cells: int
    true_share: float


class SubjectDifferential(TypedDict):
    """The differential of a subject whose cells' classes are known. cells: answered or not."""

    subject: str
    cells: int
    answered: int
    classes: list[TrueShare]


class ShareError(TypedDict):
    """How far the shares of one class are from the true ones, over subjects with an answer.

    mean_true, mean_share, mean_error: means over subjects; the last of the absolute difference.
    held: subjects whose simultaneous interval holds the true share.
    """

    name: str
    mean_true: float
    mean_share: float
    mean_error: float
    held: int


def differentials(
    table: pa.Table, label: IntArray, called: IntArray, classes: Sequence[str]
) -> list[SubjectDifferential]:
    """Count the differential of each subject beside the true one, in natural order (2 before 10).

    Args:
        table: predictions; where it has `reasons`, these say which cells get no answer. Cells
            without a subject are left out.
        label, called: (N,) true and called class.
        classes: the K names.
    """
    subject = np.asarray(table["subject"].to_pylist(), dtype=object)
    names = np.asarray(classes, object)[called]
    if REASONS in table.column_names:
        names[~answered(table)] = ABSTAIN
    out = []
    for one in sorted({str(name) for name in subject if name is not None}, key=natural):
        own = subject == one
        truth = np.bincount(label[own], minlength=len(classes)).tolist()
        shares = differential(names[own].tolist(), classes)
        cells = sum(truth)
        out.append(
            SubjectDifferential(
                subject=one,
                cells=cells,
                answered=sum(share.cells for share in shares),
                classes=[
                    TrueShare(
                        name=share.name,
                        cells=share.cells,
                        share=share.share,
                        low=share.low,
                        high=share.high,
                        true_cells=number,
                        true_share=number / cells,
                    )
                    for share, number in zip(shares, truth, strict=True)
                ],
            )
        )
    return out


def share_errors(subjects: Sequence[SubjectDifferential]) -> list[ShareError]:
    """Measure how far called shares are from true ones, class by class; see `ShareError`."""
    by_class = zip(*(one["classes"] for one in subjects if one["answered"]), strict=True)
    out = []
    for rows in by_class:
        pairs = [(row["share"] or 0.0, row["true_share"]) for row in rows]
        out.append(
            ShareError(
                name=rows[0]["name"],
                mean_true=float(np.mean([true for _, true in pairs])),
                mean_share=float(np.mean([share for share, _ in pairs])),
                mean_error=float(np.mean([abs(share - true) for share, true in pairs])),
                held=sum((r["low"] or 0) <= r["true_share"] <= (r["high"] or 1) for r in rows),
            )
        )
    return out
