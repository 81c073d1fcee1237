"""The corrected blast percentage: against its definition, in its limits, and its coverage."""

import numpy as np
import pytest
from scipy.stats import betabinom, binom

from benchmarks.blast_coverage import REGIMES, coverage
from leuk_ray.evaluation import blast_percentage as module
from leuk_ray.evaluation.blast_percentage import blast_percentage, count_fields
from leuk_ray.evaluation.error_rates import ErrorRates, PatientCounts, count_errors


def known(sensitivity: float, false_positive: float, answered: float = 1.0) -> ErrorRates:
    """So many calibration patients and cells that the rates of blasts and others are certain."""

    def patients(rate: float, answered: float) -> tuple[PatientCounts, ...]:
        cells = 10_000
        given = round(cells * answered)
        one = PatientCounts(cells=cells, answered=given, called=round(given * rate))
        return (one,) * 60

    return ErrorRates(positive=patients(sensitivity, answered), other=patients(false_positive, 1.0))


def mid_p_ends(called: int, cells: int) -> np.ndarray:
    """The mid-p interval of a proportion and its median, on a fine grid."""
    p = np.linspace(0, 1, 20_001)
    tail = (binom.cdf(called, cells, p) + binom.cdf(called - 1, cells, p)) / 2
    return p[[np.argmax(tail <= 0.975), np.argmax(tail <= 0.5), np.argmax(tail < 0.025)]]


@pytest.mark.parametrize(("sensitivity", "false_positive"), [(1.0, 0.0), (0.9, 0.1)])
def test_with_certain_rates_it_is_the_known_correction_of_a_binomial(sensitivity, false_positive):
    found = blast_percentage([1] * 40 + [0] * 60, [1] * 100, known(sensitivity, false_positive))
    assert found is not None
    ends = (mid_p_ends(40, 100) - false_positive) / (sensitivity - false_positive)
    assert [found.low, found.value, found.high] == pytest.approx(100 * ends, abs=0.5)


def test_answers_that_are_rarer_for_blasts_are_corrected():
    # Half of the blasts get no answer: 20 called of 60 answered are 40 blasts among 80 cells.
    found = blast_percentage([1] * 20 + [0] * 40, [1] * 60, known(1.0, 0.0, answered=0.5))
    assert found is not None
    assert found.value == pytest.approx(50, abs=1)


def test_rates_of_new_patients_follow_their_posterior():
    hits, trials = np.array([18.0, 9, 30]), np.array([20.0, 10, 30])
    drawn = module._predict_rate(hits, trials, np.random.default_rng(0))  # pyright: ignore
    # Beta-binomial likelihood, Jeffreys' prior of the mean and Beta(1/2, 10) of the correlation,
    # by numerical integration on another, finer grid.
    mean, within = np.meshgrid(np.linspace(0.002, 0.998, 250), np.linspace(0.002, 0.95, 250))
    a, b = mean * (1 - within) / within, (1 - mean) * (1 - within) / within
    weights = (mean * (1 - mean)) ** -0.5 * within**-0.5 * (1 - within) ** 9
    for hit, of in zip(hits, trials, strict=True):
        weights = weights * betabinom.pmf(hit, of, a, b)
    expected = float((weights * a / (a + b)).sum() / weights.sum())
    assert drawn.mean() == pytest.approx(expected, abs=0.01)
    spread = a * b / ((a + b) ** 2 * (a + b + 1)) + (a / (a + b) - expected) ** 2
    assert drawn.std() == pytest.approx(
        float(np.sqrt((weights * spread).sum() / weights.sum())), abs=0.01
    )


def test_fields_that_differ_widen_it():
    rates = known(0.9, 0.1)
    alike = blast_percentage([4] * 10, [10] * 10, rates)
    clustered = blast_percentage([10] * 4 + [0] * 6, [10] * 10, rates)
    assert alike is not None
    assert clustered is not None
    assert clustered.high - clustered.low > 1.3 * (alike.high - alike.low)


def test_fewer_called_cells_than_errors_alone_would_give_leave_an_interval():
    found = blast_percentage([0] * 10, [15] * 10, known(0.9, 0.08))
    assert found is not None
    assert found.value == found.low == 0
    assert 1 < found.high < 15
    full = blast_percentage([15] * 10, [15] * 10, known(0.9, 0.08))
    assert full is not None
    assert full.high == 100
    assert 75 < full.low < 99


def test_a_classifier_no_better_than_chance_says_nothing():
    found = blast_percentage([5] * 10, [15] * 10, known(0.3, 0.3))
    assert found is not None
    assert (found.low, found.high) == (0, 100)


def test_too_few_calibration_patients_or_answers_give_none():
    rates = known(0.9, 0.1)
    few = rates.model_copy(update={"other": rates.other[:9]})
    assert "of 60 calibration patients and on the other cells of 9; 10" in few.shortage
    assert blast_percentage([1], [2], few) is None
    silent = (PatientCounts(cells=50, answered=0, called=0),) * 60
    assert "other cells of 0;" in rates.model_copy(update={"other": silent}).shortage
    assert blast_percentage([0], [0], rates) is None


def test_cells_are_counted_by_field_and_alone_without_one():
    called, answered = count_fields([True, False, None, True, None], ["a", "a", "a", None, None])
    assert (called.tolist(), answered.tolist()) == ([1, 1, 0], [2, 1, 0])
    assert [part.size for part in count_fields([], None)] == [0, 0]


def test_errors_are_counted_by_patient():
    rates = count_errors(
        [True, True, True, False, False],
        [True, False, None, False, True],
        ["a", "a", "b", "b", "b"],
    )
    of = [(each.cells, each.answered, each.called) for each in rates.positive]
    assert of == [(1, 0, 0), (2, 2, 1)]
    assert [(each.cells, each.answered, each.called) for each in rates.other] == [(2, 2, 1)]


@pytest.mark.parametrize("share", [0.05, 0.5])
def test_coverage(share: float):
    """Of 240 patients each; benchmarks/blast_coverage.py has 2,000 in more regimes."""
    held, naive, _ = coverage(REGIMES["fair classifier"], 10, share, 240)
    assert held >= 0.95 - 2 * np.sqrt(0.05 * 0.95 / 240)
    assert naive < 0.9
