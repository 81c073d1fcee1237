"""The differential of a subject: the share of each class among its answered cells."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from leuk_ray.evaluation.proportions import clopper_pearson


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
