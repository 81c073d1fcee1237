"""How often 95% intervals of area under ROC and sensitivity hold the true value, by groups.

Groups of cells are drawn whose scores differ by class (1.6 SD) and by subject (0.7 SD); the true
values are known from the two normals. Beside the group bootstrap of the reports stands the naive
bootstrap, which takes cells for independent.

    python benchmarks/interval_coverage.py [--trials 1000] [--out coverage.json]
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path
from statistics import NormalDist

import numpy as np

from leuk_ray.evaluation import intervals
from leuk_ray.evaluation.intervals import GroupResamples, count_samples

SEPARATION, SUBJECT_EFFECT, CELLS = 1.6, 0.7, 20
GROUPS = ((2, 3), (3, 5), (5, 5), (9, 9), (13, 15), (22, 44))
NAIVE_TRIALS = 5  # one in so many trials also takes the naive interval, which is slower


def true_area() -> float:
    """The chance that an ALL cell of a new subject scores above a healthy cell of another."""
    return NormalDist().cdf(SEPARATION / math.sqrt(2 * (1 + SUBJECT_EFFECT**2)))


def true_sensitivity() -> float:
    """The chance that an ALL cell of a new subject scores above the middle of the classes."""
    return NormalDist(SEPARATION / 2, math.hypot(1, SUBJECT_EFFECT)).cdf(SEPARATION)


def draw(
    generator: np.random.Generator, num_all: int, num_healthy: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Label, score and group of the cells of one trial."""
    label = np.repeat([1] * num_all + [0] * num_healthy, CELLS)
    group = np.repeat(np.arange(num_all + num_healthy), CELLS)
    effect = SUBJECT_EFFECT * generator.standard_normal(num_all + num_healthy)
    return label, SEPARATION * label + effect[group] + generator.standard_normal(len(label)), group


def coverage(num_all: int, num_healthy: int, trials: int, resamples: int) -> dict[str, float]:
    """Shares of trials whose interval holds the true area, and the mean widths."""
    generator, area = np.random.default_rng(num_all * 100 + num_healthy), true_area()
    held: dict[str, list[bool]] = {"group": [], "cell": [], "sensitivity": []}
    width: dict[str, list[float]] = {"group": [], "cell": []}
    for trial in range(trials):
        label, score, group = draw(generator, num_all, num_healthy)
        units = {"group": group}
        if trial % NAIVE_TRIALS == 0:
            units["cell"] = np.arange(len(label))
        for name, unit in units.items():
            resampled = GroupResamples.sample(label, unit, seed=trial, resamples=resamples)
            found = resampled.interval(resampled.auc(label, score))
            assert found.low is not None
            assert found.high is not None
            held[name].append(found.low <= area <= found.high)
            width[name].append(found.high - found.low)
            if name == "group":
                counted = count_samples(resampled, label, score >= SEPARATION / 2)["sensitivity"]
                bounds = resampled.interval(counted)
                inside = bounds.low is not None and bounds.high is not None
                held["sensitivity"].append(
                    inside and bounds.low <= true_sensitivity() <= bounds.high
                )
    means = {f"{name}_held": float(np.mean(values)) for name, values in held.items()}
    return means | {f"{name}_width": float(np.mean(values)) for name, values in width.items()}


def main() -> None:
    """Print the table; write it as JSON where --out says."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=1000)
    parser.add_argument("--resamples", type=int, default=1000)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    intervals.MIN_GROUPS = 2  # a report gives no interval for the smallest sizes; here is why
    print("| ALL + healthy groups | area held | width | naive: held | width | sensitivity held |")
    print("|---|---|---|---|---|---|")
    rows = []
    for num_all, num_healthy in GROUPS:
        row = coverage(num_all, num_healthy, given.trials, given.resamples)
        rows.append({"all": num_all, "healthy": num_healthy, "trials": given.trials, **row})
        print(
            f"| {num_all} + {num_healthy} | {row['group_held']:.3f} | {row['group_width']:.3f} "
            f"| {row['cell_held']:.3f} | {row['cell_width']:.3f} | {row['sensitivity_held']:.3f} |",
            flush=True,
        )
    if given.out:
        given.out.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
