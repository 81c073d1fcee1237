"""How often a 95% interval of repeats that test the same patients holds the true value.

Each repeat scores the cells of the same 13 ALL and 15 healthy patients, as those of C-NMC's
preliminary set, with a network of its own: scores differ by class, by patient and by cell, and a
little by network on each of these. A t interval over the repeats is beside the interval of the
reports, which leaves out patients in turn, the same in all repeats. The truth is over new patients
and networks.

    python benchmarks/repeat_coverage.py [--trials 300]
"""

from __future__ import annotations

import argparse
import math
from statistics import NormalDist

import numpy as np
import pyarrow as pa

from leuk_ray.evaluation.metrics import evaluate
from leuk_ray.evaluation.repeats import mean_interval
from leuk_ray.experiments.results import THRESHOLD, Outcome, intervals_over_patients

ALL, HEALTHY, CELLS = 13, 15, 30
PATIENT, NETWORK = 0.7, 0.2  # SD of a patient's score, and of one network's error on that patient
OWN = 0.4  # of a cell's noise, SD 1, the part that differs between networks
REPEATS = 3
METRICS = ("auc", "accuracy")


def trial(generator: np.random.Generator, area: float) -> list[pa.Table]:
    """The test cells of each repeat: uid, group, label, probability."""
    patients = ALL + HEALTHY
    group = np.repeat(np.arange(patients), CELLS)
    label = (group < ALL).astype(np.int64)
    own = PATIENT * generator.standard_normal(patients)
    shared = math.sqrt(1 - OWN**2) * generator.standard_normal(len(group))
    tables = []
    for _ in range(REPEATS):
        error = NETWORK * generator.standard_normal(patients)
        noise = shared + OWN * generator.standard_normal(len(group))
        score = (label - 0.5) * apart(area) + (own + error)[group] + noise
        cells = {
            "uid": [f"{n:04}" for n in range(len(group))],
            "group": [str(name) for name in group],
            "label": label,
            "probability": 1 / (1 + np.exp(-score)),
        }
        tables.append(pa.table(cells))
    return tables


def apart(area: float) -> float:
    """The distance of the classes that gives an area under ROC over new patients."""
    return math.sqrt(2) * spread() * NormalDist().inv_cdf(area)


def spread() -> float:
    """SD of the scores of one class."""
    return math.sqrt(1 + PATIENT**2 + NETWORK**2)


def coverage(area: float, trials: int) -> dict[tuple[str, str], float]:
    """(metric, way) -> share of trials whose interval holds the true value."""
    truth = {"auc": area, "accuracy": NormalDist().cdf(apart(area) / 2 / spread())}
    held: dict[tuple[str, str], list[bool]] = {}
    generator = np.random.default_rng(0)
    for _ in range(trials):
        outcomes = []
        for table in trial(generator, area):
            cells = table["label"].to_numpy(), table["probability"].to_numpy()
            outcomes.append(Outcome(evaluate(*cells, THRESHOLD), {}, tested=table))
        over_patients = intervals_over_patients(outcomes)
        assert over_patients is not None
        for metric in METRICS:
            bounds = mean_interval([outcome.metrics[metric]["value"] for outcome in outcomes])
            found = over_patients[metric]
            ways = {"repeats": bounds, "patients": (found.low, found.high)}
            for way, ends in ways.items():
                inside = ends is not None and None not in ends
                held.setdefault((metric, way), []).append(
                    inside and ends[0] <= truth[metric] <= ends[1]
                )
    return {key: float(np.mean(values)) for key, values in held.items()}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=300)
    given = parser.parse_args()
    header = " | ".join(
        f"{metric}: over {way}" for metric in METRICS for way in ("repeats", "patients")
    )
    print(f"| AUC | {header} |")
    print("|---|" + "---|" * 2 * len(METRICS))
    for area in (0.8, 0.9, 0.98):
        found = coverage(area, given.trials)
        shown = " | ".join(
            f"{found[metric, way]:.3f}" for metric in METRICS for way in ("repeats", "patients")
        )
        print(f"| {area} | {shown} |", flush=True)


if __name__ == "__main__":
    main()
