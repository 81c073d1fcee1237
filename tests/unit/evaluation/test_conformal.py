"""Prediction sets hold the class of a new patient's cell as often as they say."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.special import ndtr

from leuk_ray.evaluation.conformal import (
    fit_conformal,
    patient_limit,
    patients_needed,
    pooled_limit,
    sole_class,
)
from leuk_ray.evaluation.guarantee import measure_sets
from leuk_ray.evaluation.intervals import GroupResamples
from leuk_ray.utils.errors import DataError

CENTRE, EFFECT = 1.5, 1.5  # of the log-odds of a patient's cells, and their SD between patients


@pytest.mark.parametrize("patients", [9, 10, 22])
def test_new_patients_are_covered_and_not_by_cells_taken_for_independent(patients: int):
    """Patients whose cells are easier give more of them, so that pooled cells mislead."""
    generator = np.random.default_rng(patients)
    covered = np.empty((600, 2))
    for trial in range(len(covered)):
        own = generator.standard_normal(patients)
        patient = np.repeat(np.arange(patients), np.ceil(15 * np.exp(0.9 * own)).astype(int))
        noise = generator.standard_normal(len(patient))
        scores = CENTRE + EFFECT * own[patient] + noise
        limits = [patient_limit(scores, patient, 0.9), pooled_limit(scores, 0.9)]
        covered[trial] = ndtr((CENTRE - np.asarray(limits)) / math.hypot(1, EFFECT))
    mean, error = covered.mean(axis=0), covered.std(axis=0) / math.sqrt(len(covered))
    assert 0.9 - 3 * error[0] <= mean[0] <= 0.9 + 2 / (patients + 1) + 3 * error[0]
    assert mean[1] < 0.8


def test_a_limit_is_the_weighted_quantile_over_patients():
    generator = np.random.default_rng(0)
    for coverage in (0.5, 0.8, 0.9):
        for _ in range(30):
            patient = generator.integers(0, 12, 60)
            scores = generator.integers(0, 9, 60).astype(float)  # with ties
            names, sizes = np.unique(patient, return_counts=True)
            of_patient = dict(zip(names.tolist(), sizes.tolist(), strict=True))
            weight = np.asarray([1 / of_patient[one] for one in patient.tolist()])
            reached = [
                limit
                for limit in set(scores.tolist())
                if weight[scores >= limit].sum() / (len(names) + 1) >= coverage - 1e-12
            ]
            assert patient_limit(scores, patient, coverage) == max(reached, default=-np.inf)


@pytest.mark.parametrize(
    ("coverage", "needed"), [(0.9, 9), (0.95, 19), (0.8, 4), (0.5, 1), (0.99, 99), (0.85, 6)]
)
def test_the_patients_needed_are_just_enough(coverage: float, needed: int):
    assert patients_needed(coverage) == needed
    cells = np.repeat(np.arange(needed), 7)
    scores = np.random.default_rng(needed).standard_normal(len(cells))
    assert patient_limit(scores, cells, coverage) >= scores.min()
    if needed > 1:
        fewer = cells > 0
        assert patient_limit(scores[fewer], cells[fewer], coverage) == -np.inf


def test_too_few_patients_of_a_class_are_refused_in_one_line():
    label = np.repeat([0, 1], [12, 30])
    group = [f"healthy {n}" for n in range(12)] + [f"ALL {n // 6}" for n in range(30)]
    with pytest.raises(DataError) as refused:
        fit_conformal(np.zeros((42, 1)), label, group, ("healthy", "ALL"), 0.9, basis="unseen")
    assert str(refused.value) == (
        "--coverage 0.9: needs 9 patients of every class to calibrate on, and there are 12 of "
        "healthy, 5 of ALL; calibrate on more patients, or ask for 0.833 at most"
    )


def test_sets_of_three_classes_over_patients_who_have_them_all():
    generator = np.random.default_rng(1)
    label = generator.integers(0, 3, 600)
    group = np.arange(600) % 30
    means = np.asarray([[0, 0], [2, 0], [0, 2]], float)
    shift = 0.4 * generator.standard_normal((30, 2))
    logits = means[label] * 1.5 - 1 + shift[group] + generator.standard_normal((600, 2))
    names = ("a", "b", "c")
    first, second = group < 15, group >= 15
    found = fit_conformal(
        logits[first], label[first], group[first].tolist(), names, 0.8, basis="unseen"
    )
    assert [limit.patients for limit in found.limits] == [15] * 3
    assert all(limit.share >= 0.8 * 16 / 15 - 1e-9 for limit in found.limits)
    sets = found.sets(logits[second])
    assert sets.shape == (300, 3)
    resampled = GroupResamples.pooled(group[second], seed=0, resamples=50)
    measured = measure_sets(found, logits[second], label[second], names, resampled)
    by_class = measured["patients"]["classes"]
    for number, row in enumerate(by_class):
        own = label[second] == number
        assert row["covered"]["numerator"] == sets[own, number].sum()
        assert row["covered"]["denominator"] == own.sum()
        by_patient = [
            sets[own & (group[second] == one), number].mean()
            for one in np.unique(group[second][own])
        ]
        assert row["value"] == pytest.approx(np.mean(by_patient))
        assert row["interval"].low < row["value"] < row["interval"].high
    sizes = sets.sum(axis=1)
    assert measured["patients"]["answered"]["numerator"] == (sizes == 1).sum()
    assert (sole_class(sets)[sizes != 1] == -1).all()
    assert sets[sizes == 1, sole_class(sets)[sizes == 1]].all()


def test_a_temperature_changes_no_set_of_two_classes():
    generator = np.random.default_rng(2)
    label = np.repeat([0, 1], 60)
    group = [str(n // 5) for n in range(120)]
    logits = (label - 0.5)[:, None] * 2 + generator.standard_normal((120, 1))
    sets = [
        fit_conformal(logits / t, label, group, "ab", 0.8, basis="unseen").sets(logits / t)
        for t in (1.0, 2.5)
    ]
    assert (sets[0] == sets[1]).all()
