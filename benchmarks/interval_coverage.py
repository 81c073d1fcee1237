"""How often 95% intervals hold the true value, by area, sizes of patients, and number of groups.

Cells of groups have scores that differ by class and by subject (0.7 SD); the true values are known
from the two normals. Beside the interval of the reports (Student's t on log-odds, groups left out
in turn) stands the expanded bootstrap over groups, and for the area the naive bootstrap, which
takes cells for independent. An interval that could not be given counts as one that does not hold.
Mixed patients have cells of both classes, in shares from 0 to 1 that are uniform over patients;
there are as many patients as elsewhere of both classes together.

    python benchmarks/interval_coverage.py [--trials 300] [--areas 0.8 0.9 0.98] \
        [--patients even uneven mixed mixed-uneven]
"""

from __future__ import annotations

import argparse
import math
from statistics import NormalDist

import numpy as np

from leuk_ray.evaluation.intervals import GroupResamples, Interval
from leuk_ray.evaluation.metric_intervals import metric_samples

SUBJECT_EFFECT, CELLS = 0.7, 20
PATIENTS = ("even", "uneven", "mixed", "mixed-uneven")
GROUPS = (5, 13, 22, 44)  # of each class
METRICS = ("auc", "sensitivity", "accuracy", "weighted_f1")
NAIVE_TRIALS = 20  # one in so many trials also takes the naive interval, which is slower


def draw(
    generator: np.random.Generator, area: float, groups: int, patients: str
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Label, score and group of the cells of one trial; 0 lies midway between the classes."""
    apart = math.sqrt(2 * (1 + SUBJECT_EFFECT**2)) * NormalDist().inv_cdf(area)
    size = np.full(2 * groups, CELLS)
    if patients.endswith("uneven"):
        size = np.ceil(generator.lognormal(math.log(CELLS) - 0.4, 0.9, 2 * groups)).astype(int)
    group = np.repeat(np.arange(2 * groups), size)
    label = (group < groups).astype(np.int64)
    if patients.startswith("mixed"):
        share = generator.uniform(size=2 * groups)
        label = (generator.uniform(size=len(group)) < share[group]).astype(np.int64)
    effect = SUBJECT_EFFECT * generator.standard_normal(2 * groups)
    return (
        label,
        (label - 0.5) * apart + effect[group] + generator.standard_normal(len(group)),
        group,
    )


def coverage(area: float, groups: int, patients: str, trials: int) -> dict[tuple[str, str], float]:
    """(metric, way) -> share of trials whose interval holds the true value."""
    generator = np.random.default_rng(groups)
    apart = math.sqrt(2 * (1 + SUBJECT_EFFECT**2)) * NormalDist().inv_cdf(area)
    right = NormalDist().cdf(apart / 2 / math.hypot(1, SUBJECT_EFFECT))
    held: dict[tuple[str, str], list[bool]] = {}

    def note(metric: str, way: str, found: Interval) -> None:
        truth = area if metric == "auc" else right
        inside = found.low is not None and found.high is not None
        held.setdefault((metric, way), []).append(inside and found.low <= truth <= found.high)

    for trial in range(trials):
        label, score, group = draw(generator, area, groups, patients)
        resampled = GroupResamples.sample(label, group, seed=trial, resamples=400)
        for metric, values in metric_samples(resampled, label, score, 0.0).items():
            if metric in METRICS:
                note(metric, "t", resampled.interval(values))
                note(metric, "bootstrap", resampled.percentile_interval(values))
        if trial % NAIVE_TRIALS == 0:
            cells = GroupResamples.sample(label, np.arange(len(label)), seed=trial, resamples=200)
            note("auc", "naive", cells.percentile_interval(cells.auc(label, score)))
    return {key: float(np.mean(values)) for key, values in held.items()}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=300)
    parser.add_argument("--areas", type=float, nargs="+", default=[0.8, 0.9, 0.98])
    parser.add_argument("--patients", nargs="+", default=PATIENTS, choices=PATIENTS)
    given = parser.parse_args()
    header = " | ".join(f"{metric}: t | bootstrap" for metric in METRICS)
    print(f"| AUC | patients | groups a class | {header} | auc: naive |")
    print("|---|---|---|" + "---|" * (2 * len(METRICS) + 1))
    for area in given.areas:
        for patients in given.patients:
            for groups in GROUPS:
                found = coverage(area, groups, patients, given.trials)
                ways = [found[metric, way] for metric in METRICS for way in ("t", "bootstrap")]
                shown = " | ".join(f"{share:.3f}" for share in ways)
                print(
                    f"| {area} | {patients} | {groups} | {shown} | {found['auc', 'naive']:.2f} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
