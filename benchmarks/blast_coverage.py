"""How often the 95% interval of a corrected blast percentage holds the true one.

Simulated patients: cells lie in fields, whose shares of blasts differ; the detector misses some
cells, the classifier leaves some without an answer and calls some wrong, each at rates that differ
between patients, and between fields of one stain. Calibration patients are of the same kind. The
patients are simulated as logit-normal and Poisson, which is not what the interval assumes. Beside
it stands the naive Clopper-Pearson interval of the share of called cells. `width` is the median
in percentage points. Patients without an answered cell have no interval and do not count.

Of the regimes "misses", the calibration cells are those that were found: only what `detect --boxes`
measured on as many patients, for `calibrate --misses`, says that blasts are missed more often.

    python benchmarks/blast_coverage.py [--patients 2000] [--only misses]
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass

import numpy as np
from scipy.special import expit, logit

from leuk_ray.evaluation.blast_percentage import CalledCount, blast_percentage
from leuk_ray.evaluation.error_rates import DetectorRecall, ErrorRates, FoundCells, PatientCounts
from leuk_ray.evaluation.proportions import clopper_pearson

CALIBRATION = (10, 22, 44)  # patients with blasts, and as many without
SHARES = (0.0, 0.02, 0.05, 0.2, 0.5, 0.9)
PER_CALIBRATION = 20  # new patients that share calibration patients
WIDTHS = 10  # patients whose whole interval is computed


@dataclass(frozen=True)
class Regime:
    """Rates are (of blasts, of other cells); sd: between patients, on log-odds."""

    called: tuple[float, float]
    called_sd: float
    answered: tuple[float, float] = (0.93, 0.90)
    answered_sd: float = 0.5
    found: tuple[float, float] = (0.96, 0.98)
    fields: tuple[int, int] = (5, 20)
    cells_a_field: int = 15
    clustering: float = 0.03  # intraclass correlation of blasts within fields
    field_sd: float = 0.3  # of the rates of calling, between fields
    few_cells: int = 0  # a patient is one field with 1 to so many cells, evenly; 0: as above
    misses: str = "counted"  # among the calibration cells; "unknown"; or "measured" apart from them


REGIMES = {
    "fair classifier": Regime((0.90, 0.08), 0.6),
    "good classifier": Regime((0.98, 0.02), 0.8, (0.97, 0.97)),
    "few, clustered fields": Regime((0.90, 0.08), 0.6, fields=(2, 5), clustering=0.08),
    "1 to 5 cells": Regime((0.90, 0.08), 0.6, few_cells=5),
    "answers depend on class": Regime((0.93, 0.05), 0.6, (0.75, 0.95), found=(0.85, 0.98)),
    "misses, unknown": Regime((0.90, 0.08), 0.6, found=(0.65, 0.98), misses="unknown"),
    "misses, measured": Regime((0.90, 0.08), 0.6, found=(0.65, 0.98), misses="measured"),
}


def patient_rate(
    generator: np.random.Generator, rate: float, sd: float, size: int | None = None
) -> np.ndarray:
    """A rate, 0..1, that differs between patients."""
    return expit(logit(rate) + sd * generator.standard_normal(size))


def calibrate(generator: np.random.Generator, regime: Regime, patients: int) -> ErrorRates:
    """Counts of calibration patients of uneven size."""
    kinds, recall = [], []
    for kind in (0, 1):
        cells = np.ceil(generator.lognormal(np.log(60), 0.7, patients)).astype(int)
        found = generator.binomial(
            cells, patient_rate(generator, regime.found[kind], 0.3, patients)
        )
        if regime.misses != "counted":
            recall.append(
                tuple(
                    FoundCells(cells=a, found=b)
                    for a, b in zip(cells.tolist(), found.tolist(), strict=True)
                )
            )
            cells = found = np.ceil(generator.lognormal(np.log(60), 0.7, patients)).astype(int)
        answered = generator.binomial(
            found,
            patient_rate(generator, regime.answered[kind], regime.answered_sd, patients),
        )
        called = generator.binomial(
            answered, patient_rate(generator, regime.called[kind], regime.called_sd, patients)
        )
        kinds.append(
            tuple(
                PatientCounts(cells=a, answered=b, called=c)
                for a, b, c in zip(cells.tolist(), answered.tolist(), called.tolist(), strict=True)
            )
        )
    detector = None
    if regime.misses == "measured":
        detector = DetectorRecall(positive=recall[0], other=recall[1], counted_by="patients")
    return ErrorRates(positive=kinds[0], other=kinds[1], detector=detector)


def examine(
    generator: np.random.Generator, regime: Regime, share: float
) -> tuple[np.ndarray, np.ndarray]:
    """(called, answered) of the fields of one patient with this share of blasts."""
    fields = 1 if regime.few_cells else int(generator.integers(*regime.fields))
    cells = generator.poisson(regime.cells_a_field, fields) + 1
    if regime.few_cells:
        cells = generator.integers(1, regime.few_cells, fields, endpoint=True)
    local = np.full(fields, share)
    if 0 < share < 1:
        scale = (1 - regime.clustering) / regime.clustering
        local = generator.beta(share * scale, (1 - share) * scale, fields)
    blasts = generator.binomial(cells, local)
    stain = regime.field_sd * generator.standard_normal(fields)
    called, answered = np.zeros(fields, int), np.zeros(fields, int)
    for kind, present in enumerate((blasts, cells - blasts)):
        found = generator.binomial(present, patient_rate(generator, regime.found[kind], 0.3))
        given = generator.binomial(
            found, patient_rate(generator, regime.answered[kind], regime.answered_sd)
        )
        own = logit(patient_rate(generator, regime.called[kind], regime.called_sd))
        called += generator.binomial(given, expit(own + stain))
        answered += given
    return called, answered


def coverage(
    regime: Regime, patients: int, share: float, trials: int
) -> tuple[float, float, float]:
    """Return how often the interval and the naive one hold the share, and the median width."""
    generator = np.random.default_rng([patients, round(1000 * share)])
    held, naive, widths = [], [], []
    for trial in range(trials):
        if trial % PER_CALIBRATION == 0:
            rates = calibrate(generator, regime, patients)
        called, answered = examine(generator, regime, share)
        if not answered.sum():
            continue
        tails = CalledCount(called, answered, rates).tails(np.array([share]))
        held.append(min(tail[0] for tail in tails) >= 0.025)
        low, high = clopper_pearson(int(called.sum()), int(answered.sum())) or (0, 1)
        naive.append(low <= share <= high)
        if trial * WIDTHS % trials < WIDTHS:
            found = blast_percentage(called, answered, rates)
            assert found is not None
            assert held[-1] == (
                found.low / 100 <= share + 1e-9 and share <= found.high / 100 + 1e-9
            )
            widths.append(found.high - found.low)
    return float(np.mean(held)), float(np.mean(naive)), float(np.median(widths))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--patients", type=int, default=2000, help="for each figure")
    parser.add_argument("--only", default="", help="regimes whose names hold this")
    given = parser.parse_args()
    print("| patients | calibrated on | " + " | ".join(f"{100 * x:g}%" for x in SHARES) + " |")
    print("|---|---|" + "---|" * len(SHARES))
    for name, regime in ((name, one) for name, one in REGIMES.items() if given.only in name):
        for patients in CALIBRATION:
            found = [coverage(regime, patients, share, given.patients) for share in SHARES]
            cells = [f"{held:.3f} ({naive:.2f}), width {w:.0f}" for held, naive, w in found]
            row = " | ".join(cells)
            print(f"| {name} | {patients} + {patients} | {row} |", flush=True)


if __name__ == "__main__":
    main()
