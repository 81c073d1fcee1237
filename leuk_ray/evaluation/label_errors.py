"""Rank cells whose out-of-fold probability contradicts their label, as labels may be wrong."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from typing_extensions import TypedDict

from leuk_ray.datasets.classes import ClassSet
from leuk_ray.evaluation.calibration import class_log_odds, class_logits_of, class_probabilities

MAX_SUSPECTS = 200  # of each class


class Suspect(TypedDict):
    """A cell whose label a network that did not train on it contradicts.

    probability: of its label. suggested: the most probable class, and suggested_probability.
    log_odds: of its label against all other classes; the lower, the more doubtful.
    """

    uid: str
    subject: str | None
    label: str
    suggested: str
    probability: float
    suggested_probability: float
    log_odds: float


class DoubtfulLabels(TypedDict):
    """Cells of one label: how many have scores, how many are contradicted, the most doubtful."""

    cells: int
    contradicted: int
    suspects: list[Suspect]


def doubt(class_logits: np.ndarray, label: np.ndarray) -> np.ndarray:
    """Compute the log-odds of each cell's label against all other classes, (N,): low is doubtful.

    Args:
        class_logits: (N, K-1) of networks that did not train on the cell.
        label: (N,) 0..K-1.
    """
    return class_log_odds(class_logits)[np.arange(len(label)), label]


def doubtful_labels(scores: pa.Table, classes: ClassSet) -> dict[str, DoubtfulLabels]:
    """Rank the cells of each class by how much their scores contradict the label.

    A cell is contradicted where another class is more probable than its label. A network that has
    learnt little contradicts many right labels: the ranking says where to look first, not what is
    wrong.

    Args:
        scores: out-of-fold predictions, one row a cell: uid, subject, label, and its scores.
        classes: of the labels.

    Returns:
        By class; at most MAX_SUSPECTS contradicted cells each, the most doubtful first.
    """
    logits, label = class_logits_of(scores), scores["label"].to_numpy().astype(np.int64)
    stated, own = class_probabilities(logits, 1.0), doubt(logits, label)
    suggested = stated.argmax(axis=1)
    uids, subjects = scores["uid"].to_pylist(), scores["subject"].to_pylist()
    found = {}
    for number, name in enumerate(classes.names):
        wrong = np.flatnonzero((label == number) & (suggested != number))
        order = wrong[np.argsort(own[wrong], kind="stable")]
        found[name] = DoubtfulLabels(
            cells=int((label == number).sum()),
            contradicted=len(wrong),
            suspects=[
                Suspect(
                    uid=uids[i],
                    subject=subjects[i],
                    label=name,
                    suggested=classes.names[suggested[i]],
                    probability=float(stated[i, number]),
                    suggested_probability=float(stated[i, suggested[i]]),
                    log_odds=float(own[i]),
                )
                for i in order[:MAX_SUSPECTS].tolist()
            ],
        )
    return found
