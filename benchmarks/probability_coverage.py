"""How often 95% intervals of Brier score, likelihood and paired differences hold the true value.

Cells as in interval_coverage.py: scores differ by class and by subject (0.7 SD). A second
classifier has the same subject effects and errors of its own, so that the true differences are 0:
the share of trials whose interval leaves 0 out is that of identical models rejected. Probabilities
are the calibrated ones of a score. True values are integrals over the normals.

    python benchmarks/probability_coverage.py [--trials 200]
"""

from __future__ import annotations

import argparse
import math
from statistics import NormalDist

import numpy as np
from interval_coverage import SUBJECT_EFFECT, draw
from scipy.special import expit

from leuk_ray.evaluation.intervals import GroupResamples
from leuk_ray.evaluation.metric_intervals import metric_samples
from leuk_ray.evaluation.metrics import losses
from leuk_ray.evaluation.probabilities import probability_intervals

REGIMES = (  # area, groups a class, uneven patients
    (0.8, 13, False), (0.8, 44, True), (0.9, 5, False), (0.9, 22, True),
    (0.9, 13, False), (0.98, 13, True), (0.98, 22, False), (0.98, 44, True),
)  # fmt: skip
PAIRED = ("auc", "accuracy", "brier", "nll")


def slope(area: float) -> float:
    """From a score to the log-odds of a cell of a new subject."""
    apart = math.sqrt(2 * (1 + SUBJECT_EFFECT**2)) * NormalDist().inv_cdf(area)
    return apart / (1 + SUBJECT_EFFECT**2)


def truths(area: float) -> dict[str, float]:
    """Expected Brier score and negative log-likelihood of a cell of a new subject."""
    apart = math.sqrt(2 * (1 + SUBJECT_EFFECT**2)) * NormalDist().inv_cdf(area)
    spread = math.hypot(1, SUBJECT_EFFECT)
    score = np.linspace(-12, 12, 200_001)
    weight = np.exp(-(((score - apart / 2) / spread) ** 2) / 2)
    weight /= weight.sum()
    stated = expit(slope(area) * score)  # both classes mirror each other
    return {
        "brier": float((weight * (1 - stated) ** 2).sum()),
        "nll": float((weight * -np.log(stated)).sum()),
    }


def coverage(area: float, groups: int, uneven: bool, trials: int) -> dict[str, float]:
    """Name -> share of trials whose interval holds the true value."""
    generator, true = np.random.default_rng(groups), truths(area)
    held: dict[str, list[bool]] = {}
    for trial in range(trials):
        label, score, group = draw(generator, area, groups, uneven)
        # Most of what a score is off by is shared by both classifiers.
        first, second = (
            score + math.sqrt(0.5) * generator.standard_normal(len(score)) for _ in "ab"
        )
        resampled = GroupResamples.sample(label, group, seed=trial, resamples=400)
        found = probability_intervals(resampled, label, expit(slope(area) * score))
        sides = [_samples(resampled, label, expit(slope(area) * one)) for one in (first, second)]
        intervals = {name: (found[name], true[name]) for name in true}
        for name in PAIRED:
            change = resampled.percentile_interval(sides[1][name] - sides[0][name])
            intervals[f"{name}, difference"] = change, 0.0
        for name, (one, value) in intervals.items():
            inside = one.low is not None and one.high is not None and one.low <= value <= one.high
            held.setdefault(name, []).append(bool(inside))
    return {name: float(np.mean(values)) for name, values in held.items()}


def _samples(
    resampled: GroupResamples, label: np.ndarray, stated: np.ndarray
) -> dict[str, np.ndarray]:
    cells = resampled.sums(np.ones(len(label)))
    return metric_samples(resampled, label, stated, 0.5) | {
        "brier": resampled.sums((stated - label) ** 2) / cells,
        "nll": resampled.sums(losses(label, stated)) / cells,
    }


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=200)
    given = parser.parse_args()
    names = ["brier", "nll", *(f"{name}, difference" for name in PAIRED)]
    print(f"| AUC | patients | groups a class | {' | '.join(names)} |")
    print("|---|---|---|" + "---|" * len(names))
    for area, groups, uneven in REGIMES:
        found = coverage(area, groups, uneven, given.trials)
        shown = " | ".join(f"{found[name]:.3f}" for name in names)
        print(f"| {area} | {'uneven' if uneven else 'even'} | {groups} | {shown} |", flush=True)


if __name__ == "__main__":
    main()
