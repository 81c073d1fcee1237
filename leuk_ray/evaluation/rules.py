"""The rules by which a bundle answers, as one object that manifest, reports and inference share."""

from __future__ import annotations

from dataclasses import dataclass

from leuk_ray.evaluation.conformal import Conformal
from leuk_ray.evaluation.decisions import Decisions
from leuk_ray.evaluation.error_rates import ErrorRates


@dataclass(frozen=True)
class DecisionRules:
    """Rules that turn calibrated probabilities into answers, and what was fixed along with them.

    threshold: of two classes, the probability from which on a cell is called the positive one.
    abstain_band: probabilities between its ends get no answer; it holds the threshold.
    min_confidence: of more than two classes the most likely is the answer; none is given where its
        probability is below this one.
    conformal: prediction sets with a guarantee, in place of both: the answer is the one class of a
        set, and none is given where a set holds several or none.
    decisions: operating points, blast fraction and abstain bands, where `calibrate` fixed them.
    error_rates: by calibration patient, how often cells were answered and called a positive
        class: what blast percentages are corrected with.
    """

    threshold: float = 0.5
    abstain_band: tuple[float, float] | None = None
    min_confidence: float | None = None
    conformal: Conformal | None = None
    decisions: Decisions | None = None
    error_rates: ErrorRates | None = None
