"""What a temperature fitted on few cells does to the likelihood of others, by way of fitting it.

Scores of subjects (effect 0.7 SD) are multiples of their log-odds; a temperature is fitted on 24,
80 or 300 cells and applied to 40,000 others. The loss is in nats a cell above that of the best
temperature, in brackets where that is 1. Ways: none, maximum likelihood, a normal prior on the
logarithm, Platt's smoothed labels, and a step from 1 towards the maximum as large as left-out
subjects bear.

    python benchmarks/temperature.py [--trials 200]
"""

from __future__ import annotations

import argparse

import numpy as np
from scipy.stats import norm

from leuk_ray.evaluation.calibration import MAX_TEMPERATURE, MIN_TEMPERATURE, fit_temperature

SUBJECT_EFFECT = 0.7
SIZES = ((24, 4), (80, 8), (300, 15))  # cells, subjects a class
AREAS = (0.8, 0.9, 0.98, 0.999)
SCALES = (0.5, 1.0, 2.0, 4.0)  # the true temperatures
PRIORS = (0.25, 0.5, 1.0)
GRID = np.linspace(np.log(MIN_TEMPERATURE), np.log(MAX_TEMPERATURE), 241)
ONE = int(np.abs(GRID).argmin())
STEPS = np.linspace(0, 1, 9)


def draw(
    generator: np.random.Generator, area: float, scale: float, cells: int, subjects: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Log-odds, label and subject of cells."""
    spread = np.hypot(1, SUBJECT_EFFECT)
    apart = np.sqrt(2) * spread * norm.ppf(area)
    each = cells // (2 * subjects)
    label = np.repeat([1, 0], each * subjects)
    subject = np.repeat(np.arange(2 * subjects), each)
    effect = SUBJECT_EFFECT * generator.standard_normal(2 * subjects)
    score = (label - 0.5) * apart + effect[subject] + generator.standard_normal(len(label))
    return scale * score * apart / spread**2, label, subject


def losses(logit: np.ndarray, label: np.ndarray) -> np.ndarray:
    """(N, T) loss of each cell at each temperature of the grid."""
    return np.logaddexp(0, -np.where(label == 1, logit, -logit)[:, None] / np.exp(GRID))


def fits(logit: np.ndarray, label: np.ndarray, subject: np.ndarray) -> dict[str, int]:
    """Position in the grid of the temperature that each way fits."""
    loss = losses(logit, label)
    total = loss.sum(axis=0)
    found = {"none": ONE, "likelihood": int(total.argmin())}
    for width in PRIORS:
        found[f"prior SD {width}"] = int((total + (GRID / width) ** 2 / 2).argmin())
    positive = label.sum()
    smooth = np.where(label == 1, (positive + 1) / (positive + 2), 1 / (len(label) - positive + 2))[
        :, None
    ]
    scaled = logit[:, None] / np.exp(GRID)
    found["Platt"] = int((np.logaddexp(0, scaled) - smooth * scaled).sum(axis=0).argmin())
    own = np.stack([loss[subject == number].sum(axis=0) for number in np.unique(subject)])
    best = (total - own).argmin(axis=1)  # without each subject
    rows = np.arange(len(own))
    left_out = [own[rows, np.rint(ONE + step * (best - ONE)).astype(int)].sum() for step in STEPS]
    step = STEPS[int(np.argmin(left_out))]
    found["left-out step"] = int(np.rint(ONE + step * (found["likelihood"] - ONE)))
    found["fit_temperature"] = int(
        np.abs(GRID - np.log(fit_temperature(logit[:, None], label))).argmin()
    )
    return found


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=200)
    given = parser.parse_args()
    generator, header = np.random.default_rng(0), True
    for area in AREAS:
        for cells, subjects in SIZES:
            lost: dict[str, list[float]] = {}
            bound = 0
            for scale in SCALES:
                logit, label, _ = draw(generator, area, scale, 40_000, 1000)
                test = losses(logit, label).mean(axis=0)
                for _ in range(given.trials):
                    found = fits(*draw(generator, area, scale, cells, subjects))
                    bound += found["likelihood"] <= 1
                    for name, place in found.items():
                        lost.setdefault(name, []).append(float(test[place] - test.min()))
                        if scale == 1:
                            lost.setdefault(f"{name}, T=1", []).append(lost[name][-1])
            names = [name for name in lost if "T=1" not in name]
            if header:
                print(f"| AUC | cells | at the bound | {' | '.join(names)} |")
                print("|---|---|---|" + "---|" * len(names))
                header = False
            means = [
                f"{np.mean(lost[name]):.3f} ({np.mean(lost[f'{name}, T=1']):.3f})" for name in names
            ]
            share = bound / (given.trials * len(SCALES))
            print(f"| {area} | {cells} | {share:.0%} | {' | '.join(means)} |", flush=True)


if __name__ == "__main__":
    main()
