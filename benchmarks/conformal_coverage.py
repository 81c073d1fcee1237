"""How often the prediction set of a new patient's cell holds its class, and is one class.

Cells of two classes have scores that differ by class (area under ROC 0.9 between patients) and by
patient. Limits are fixed on G patients of each class as `calibrate --coverage` does, and, beside
that, on their cells as if these were independent. What a limit covers for a random cell of a new
patient is known from the normal distribution, so every trial gives its exact coverage. Patients
have 20 cells, or uneven numbers, or more cells the easier their cells are.

    python benchmarks/conformal_coverage.py [--trials 2000] [--coverage 0.9]
"""

from __future__ import annotations

import argparse
import math
from statistics import NormalDist

import numpy as np
from scipy.special import ndtr

from leuk_ray.evaluation.conformal import patient_limit, pooled_limit

AREA, CELLS = 0.9, 20
PATIENTS = (10, 22, 44)  # of each class
EFFECTS = (0.5, 1.5)  # SD between patients; within a patient it is 1
SIZES = ("even", "uneven", "more cells the easier")


def apart(effect: float) -> float:
    """Between the means of both classes."""
    return math.sqrt(2 * (1 + effect**2)) * NormalDist().inv_cdf(AREA)


def calibration(
    generator: np.random.Generator, patients: int, effect: float, sizes: str
) -> tuple[np.ndarray, np.ndarray]:
    """Log-odds of their own class, and patient, of the calibration cells of one class."""
    own = generator.standard_normal(patients)
    size = np.full(patients, CELLS)
    if sizes == "uneven":
        size = np.ceil(generator.lognormal(math.log(CELLS) - 0.4, 0.9, patients)).astype(int)
    if sizes == "more cells the easier":
        size = np.ceil(CELLS * np.exp(0.9 * own - 0.4)).astype(int)
    patient = np.repeat(np.arange(patients), size)
    noise = generator.standard_normal(len(patient))
    return apart(effect) / 2 + effect * own[patient] + noise, patient


def coverage(
    patients: int, effect: float, sizes: str, level: float, trials: int
) -> dict[str, np.ndarray]:
    """Coverage of a new patient's cell and share of them answered, (trials,) each way."""
    generator = np.random.default_rng(patients)
    spread, centre = math.hypot(1, effect), apart(effect) / 2
    limits = np.empty((2, 2, trials))  # way, class
    for trial in range(trials):
        for number in (0, 1):
            scores, patient = calibration(generator, patients, effect, sizes)
            limits[0, number, trial] = patient_limit(scores, patient, level)
            limits[1, number, trial] = pooled_limit(scores, level)
    found = {}
    for way, (first, second) in zip(("patients", "pooled"), limits, strict=True):
        found[way] = ndtr((centre - first) / spread)
        # Of a cell of the first class, which has log-odds -x of the second: both or none between.
        ends = np.sort(np.stack([first, -second]), axis=0)
        between = ndtr((ends[1] - centre) / spread) - ndtr((ends[0] - centre) / spread)
        found[f"{way}, answered"] = 1 - between
    return found


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=2000)
    parser.add_argument("--coverage", type=float, default=0.9)
    given = parser.parse_args()
    print(
        "| patients a class | SD between patients | cells | covered | in the worst tenth, below "
        "| answered | pooled: covered | worst tenth | answered |"
    )
    print("|---" * 9 + "|")
    for patients in PATIENTS:
        for effect in EFFECTS:
            for sizes in SIZES:
                found = coverage(patients, effect, sizes, given.coverage, given.trials)
                shown = [
                    f"{value:.3f}"
                    for way in ("patients", "pooled")
                    for value in (
                        found[way].mean(),
                        np.quantile(found[way], 0.1),
                        found[f"{way}, answered"].mean(),
                    )
                ]
                print(f"| {patients} | {effect} | {sizes} | {' | '.join(shown)} |", flush=True)


if __name__ == "__main__":
    main()
