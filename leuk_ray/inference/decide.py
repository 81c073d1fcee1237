"""From probabilities and the scope's reasons to an answer: a class, or none."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from leuk_ray.evaluation.calibration import in_band
from leuk_ray.evaluation.conformal import UNCERTAIN_SET
from leuk_ray.evaluation.rules import DecisionRules
from leuk_ray.evaluation.subjects import ABSTAIN

NEAR_THRESHOLD = "near_threshold"
LOW_CONFIDENCE = "low_confidence"


@dataclass(frozen=True)
class Decision:
    """label: a class or `abstain`. reasons: why no class, else empty.

    prediction_set: classes of the prediction set; None of a bundle without such sets.
    """

    label: str
    reasons: tuple[str, ...]
    prediction_set: tuple[str, ...] | None = None


def label_of(
    probabilities: np.ndarray, rules: DecisionRules, in_set: np.ndarray | None = None
) -> int:
    """Label that a cell leans to, also where there is no answer.

    The one class of its prediction set, else by the threshold of two, else the most likely.

    Args:
        probabilities, rules, in_set: see `decide`.
    """
    if in_set is not None and in_set.sum() == 1:
        return int(in_set.argmax())
    if len(probabilities) == 2:
        return int(probabilities[1] >= rules.threshold)
    return int(probabilities.argmax())


def decide(
    probabilities: np.ndarray,
    out_of_scope: Sequence[str],
    rules: DecisionRules,
    classes: Sequence[str],
    in_set: np.ndarray | None = None,
) -> Decision:
    """Answer for one cell.

    Where a bundle has prediction sets, the one class of the cell's set is the answer. Else of two
    classes the threshold decides, of more the most likely one is the answer.

    Args:
        probabilities: (K,), calibrated.
        out_of_scope: reasons why the image is none that the network can classify.
        rules: threshold, and where no answer is given: between the ends of the abstain band,
            or, of more than two classes, below the smallest confidence.
        classes: names of the K classes.
        in_set: (K,) which classes are in the prediction set; None without such sets.

    Raises:
        RuntimeError: a probability is no number.
    """
    assert (in_set is None) == (rules.conformal is None), "sets of another bundle"
    if not np.isfinite(probabilities).all():
        raise RuntimeError("the model output is not finite")
    reasons = list(out_of_scope)
    prediction_set = None
    label = label_of(probabilities, rules, in_set)
    if in_set is not None:
        prediction_set = tuple(name for name, inside in zip(classes, in_set, strict=True) if inside)
        if len(prediction_set) != 1:
            reasons.append(UNCERTAIN_SET)
    elif len(probabilities) == 2:
        if in_band(probabilities[1], rules.abstain_band):
            reasons.append(NEAR_THRESHOLD)
    elif probabilities[label] < (rules.min_confidence or 0):
        reasons.append(LOW_CONFIDENCE)
    if reasons:
        return Decision(ABSTAIN, tuple(reasons), prediction_set)
    return Decision(classes[label], (), prediction_set)
