"""The blast percentage of a patient, corrected for the errors that a classifier is known to make.

A classifier that calls 5% of normal cells blasts finds 5% "blasts" in everybody. With `u` the
probability that a blast is found by the detector and answered, `s` that an answered blast is called
one, and `v` and `f` the same for other cells, a patient with the true share t of blasts has the
share

    p(t) = (t u s + (1 - t) v f) / (t u + (1 - t) v)

of called blasts among the answered cells (Rogan and Gladen 1978, with answers that depend on the
class). The rates differ between patients, so a new patient's rates are not known either: they
follow what was seen in the calibration patients. Each rate is a beta distribution over patients,
whose mean and intraclass correlation have a posterior given the calibration patients' counts, the
correlation with the prior Beta(1/2, 10), the mean with Jeffreys' prior.

The 95% interval holds every t at which the count of called cells that was seen has a tail
probability (mid-p) of at least 2.5% on both sides, over the rates of a new patient and the
overdispersion of cells within fields (`CalledCount.tails`). Cells of a field resemble each other:
with an intraclass correlation r, whose posterior comes from the patient's own fields and the prior
Beta(1, 20), they count as the effective sample size of a cluster sample (Korn and Graubard 1998).

`benchmarks/blast_coverage.py` simulates how often the interval holds the truth.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy.optimize import root_scalar
from scipy.special import betainc, betaln, expit

from leuk_ray.evaluation.error_rates import ErrorRates
from leuk_ray.evaluation.intervals import LEVEL, FloatArray

DRAWS = 1000  # of a new patient's rates
_TAIL = (1 - LEVEL) / 2

# Grids of the two posteriors: a rate's mean and its correlation within patients, within fields.
_MEAN = expit(np.linspace(-7, 7, 57))
_WITHIN_PATIENT = np.concatenate([[1e-4], expit(np.linspace(-6, 2, 25))])
_WITHIN_FIELD = np.array([1e-4, 0.005, 0.01, 0.02, 0.04, 0.07, 0.1, 0.15, 0.2, 0.3])
_SHARES = np.linspace(0, 1, 41)


@dataclass(frozen=True)
class BlastPercentage:
    """The corrected percentage of blasts among a patient's nucleated cells, 0..100.

    value: where the count of called cells is the median. low, high: 95% interval.
    """

    value: float
    low: float
    high: float


def count_fields(
    called: Sequence[bool | None] | np.ndarray, fields: Sequence[str | None] | np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    """Count a patient's cells by field: (J,) called a positive class, and (J,) answered.

    Args:
        called: (N,) whether each cell is called one; None where it got no answer.
        fields: (N,) of each cell. A cell without one is a field of its own, so independent.
    """
    counts: dict[str | int, list[int]] = {}
    for number, call in enumerate(called):
        field = None if fields is None else fields[number]
        own = counts.setdefault(number if field is None else field, [0, 0])
        own[0] += call is True
        own[1] += call is not None
    by_field = np.array(list(counts.values()), int).reshape(-1, 2)
    return by_field[:, 0], by_field[:, 1]


def blast_percentage(
    called: Sequence[int] | np.ndarray, answered: Sequence[int] | np.ndarray, rates: ErrorRates
) -> BlastPercentage | None:
    """Estimate a patient's blast percentage, with a 95% interval.

    Args:
        called, answered: (J,) see `count_fields`.
        rates: of the bundle that answered.

    Returns:
        None without an answered cell, or where `rates.shortage` says that they do not do.
    """
    if rates.shortage or not np.sum(answered):
        return None
    count = CalledCount(np.asarray(called), np.asarray(answered), rates)
    low, value, high = count.ends()
    return BlastPercentage(value=100 * min(max(value, low), high), low=100 * low, high=100 * high)


class CalledCount:
    """How many of a patient's cells are called blasts, as the calibration patients predict it."""

    def __init__(self, called: np.ndarray, answered: np.ndarray, rates: ErrorRates) -> None:
        """Prepare the distribution around the count that was seen.

        Args:
            called, answered: (J,) see `count_fields`; at least one cell is answered.
            rates: of the bundle that answered.
        """
        called, answered = called[answered > 0].astype(float), answered[answered > 0].astype(float)
        predicted = _new_patients(rates)  # pyright: ignore[reportArgumentType] (frozen: hashable)
        self._sensitivity, self._false_positive, self._answer_ratio = predicted
        total = answered.sum()
        within = _sample(_WITHIN_FIELD, _field_weights(called, answered), DRAWS)
        design = 1 + within * ((answered**2).sum() / total - 1)
        self._cells, self._calls = total / design, called.sum() / design
        self._least, self._most = self.up_to(np.array([0.0, 1.0])).tolist()

    def up_to(self, share: FloatArray) -> FloatArray:
        """(T,) probability of so many called cells or fewer (mid-p) at (T,) true shares."""
        share = np.atleast_1d(share)[:, None]
        blasts = share * self._answer_ratio
        of_answered = np.clip(blasts / (blasts + 1 - share), 0, 1)  # rounding goes past 1
        p = of_answered * self._sensitivity + (1 - of_answered) * self._false_positive
        up_to = _binomial_up_to(self._calls, self._cells, p)
        return ((up_to + _binomial_up_to(self._calls - 1, self._cells, p)) / 2).mean(axis=1)

    def tails(self, share: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Both tail probabilities, (T,) each, as shares of the largest that they can be.

        Where fewer cells are called than the errors on healthy ones alone make likely, every true
        share would be rejected, and the interval empty; so the tails are divided by those without
        any blasts, and with nothing else (the CLs method, Read 2002). It only widens intervals.
        """
        return self._tails(self.up_to(share))

    def _tails(self, up_to: FloatArray) -> tuple[FloatArray, FloatArray]:
        tiny = np.finfo(float).tiny
        return up_to / max(self._least, tiny), (1 - up_to) / max(1 - self._most, tiny)

    def ends(self) -> tuple[float, float, float]:
        """Return the lowest plausible share, that of a median count, and the highest."""
        at = self.up_to(_SHARES)

        def reach(tail: Callable[[FloatArray], FloatArray], level: float, step: int) -> float:
            """Find the first share, up or down, where a function of `up_to` is at the level."""
            reached, shares = (tail(at) >= level)[::step], _SHARES[::step]
            if reached[0] or not reached.any():
                return float(shares[0] if reached[0] else shares[-1])
            first = int(np.argmax(reached))
            between = float(shares[first - 1]), float(shares[first])
            found = root_scalar(
                lambda share: float(tail(self.up_to(np.array([share])))[0]) - level,
                bracket=between,
                xtol=1e-6,
            )
            return float(found.root)

        return (
            reach(lambda up_to: self._tails(up_to)[1], _TAIL, 1),
            reach(lambda up_to: 1 - up_to, 0.5, 1),
            reach(lambda up_to: self._tails(up_to)[0], _TAIL, -1),
        )


def _binomial_up_to(calls: FloatArray, cells: FloatArray, p: FloatArray) -> FloatArray:
    """P(X <= calls) of a binomial; calls and cells need not be whole."""
    inside = (calls > -1) & (cells - calls > 1e-9)
    found = betainc(np.where(inside, cells - calls, 1), np.where(inside, calls + 1, 1), 1 - p)
    return np.where(inside, found, np.where(calls > -1, 1.0, 0.0))


@lru_cache(maxsize=64)
def _new_patients(rates: ErrorRates) -> tuple[FloatArray, FloatArray, FloatArray]:
    """(DRAWS,) each, of new patients: sensitivity, false positive rate, answer rates' ratio.

    The ratio is that of blasts to other cells, which are answered, and before found, more or less
    often.
    """
    generator = np.random.default_rng(0)
    drawn = []
    for part in (rates.positive, rates.other):
        counts = [(each.cells, each.answered, each.called) for each in part]
        cells, answered, called = np.array(counts, float).T
        drawn.append(_predict_rate(called, answered, generator))
        everything = (cells == answered).all()  # a bundle that answers always has no ratio to learn
        drawn.append(np.ones(DRAWS) if everything else _predict_rate(answered, cells, generator))
    sensitivity, answers_blast, false_positive, answers_other = drawn
    ratio = answers_blast / np.maximum(answers_other, 1e-6)
    if rates.detector is not None:
        for part, power in ((rates.detector.positive, 1), (rates.detector.other, -1)):
            found, cells = np.array([(one.found, one.cells) for one in part], float).T
            ratio *= np.maximum(_predict_rate(found, cells, generator), 1e-6) ** power
    return sensitivity, false_positive, ratio


def _predict_rate(
    hits: FloatArray, trials: FloatArray, generator: np.random.Generator
) -> FloatArray:
    """(DRAWS,) rates of new patients, given the (G,) counts of others."""
    mean, within = (each.ravel() for each in np.meshgrid(_MEAN, _WITHIN_PATIENT, indexing="ij"))
    log = 0.5 * np.log(mean * (1 - mean))  # Jeffreys' prior on a grid even in log-odds
    log += 0.5 * np.log(np.maximum(within, _WITHIN_PATIENT[1])) + 10 * np.log1p(-within)
    for hit, of in zip(hits, trials, strict=True):
        log += _log_beta_binomial(hit, of, mean, within)
    weights = np.exp(log - log.max())
    point = _sample(np.arange(len(mean)), weights, DRAWS, generator)
    mean, scale = mean[point], (1 - within[point]) / within[point]
    return generator.beta(mean * scale, (1 - mean) * scale)


def _field_weights(called: FloatArray, answered: FloatArray) -> FloatArray:
    """Posterior weights of _WITHIN_FIELD, given a patient's fields."""
    mean = np.array([(called.sum() + 0.5) / (answered.sum() + 1)])
    log = np.log(np.gradient(_WITHIN_FIELD)) + 20 * np.log1p(-_WITHIN_FIELD)
    for hit, of in zip(called, answered, strict=True):
        if of > 1:
            log += _log_beta_binomial(hit, of, mean, _WITHIN_FIELD)
    return np.exp(log - log.max())


def _log_beta_binomial(
    hits: float, trials: float, mean: FloatArray, within: FloatArray
) -> FloatArray:
    """Log-likelihood but for the binomial coefficient; within: intraclass correlation, 0..1."""
    scale = (1 - within) / within
    ours, others = mean * scale, (1 - mean) * scale
    return betaln(hits + ours, trials - hits + others) - betaln(ours, others)


def _sample(
    values: np.ndarray,
    weights: FloatArray,
    number: int,
    generator: np.random.Generator | None = None,
) -> np.ndarray:
    """Return `number` values in proportion to their weights, evenly, in a random order."""
    order = (generator or np.random.default_rng(1)).permutation(number)
    steps = np.cumsum(weights) / weights.sum()
    return values[np.searchsorted(steps, (order + 0.5) / number).clip(max=len(values) - 1)]
