"""From class logits to calibrated probabilities, and where they are too close to call.

Class logits are the log-odds of classes 1 to K-1 against class 0, (N, K-1).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from scipy.optimize import minimize_scalar
from scipy.special import expit, logit

from leuk_ray.datasets.classes import ClassSet

MIN_TEMPERATURE, MAX_TEMPERATURE = 0.05, 20.0
PRIOR_SD = 0.5  # of the logarithm of a temperature; chosen in benchmarks/temperature.py
_LOG_RANGE = (np.log(MIN_TEMPERATURE), np.log(MAX_TEMPERATURE))


def class_log_odds(class_logits: np.ndarray) -> np.ndarray:
    """Compute the log-odds of each class against all others, (N, K-1) -> (N, K) float64."""
    scores = np.pad(np.asarray(class_logits, np.float64), ((0, 0), (1, 0)))
    edge = np.full((len(scores), 1), -np.inf)
    with np.errstate(invalid="ignore"):  # NaN stays NaN
        before = np.hstack([edge, np.logaddexp.accumulate(scores, axis=1)[:, :-1]])
        after = np.hstack([np.logaddexp.accumulate(scores[:, ::-1], axis=1)[:, -2::-1], edge])
        return scores - np.logaddexp(before, after)


def class_probabilities(class_logits: np.ndarray, temperature: float) -> np.ndarray:
    """Compute the softmax of class logits / temperature: (N, K-1) -> (N, K) float64."""
    return expit(class_log_odds(np.asarray(class_logits, np.float64) / temperature))


def binary_log_odds(class_logits: np.ndarray, classes: ClassSet) -> np.ndarray:
    """Compute the log-odds of the positive classes together, (N, K-1) -> (N,) float64.

    Only for `classes` with positive ones.
    """
    scores = np.pad(np.asarray(class_logits, np.float64), ((0, 0), (1, 0)))
    with np.errstate(invalid="ignore"):  # NaN stays NaN
        positive = np.logaddexp.reduce(scores[:, classes.is_positive], axis=1)
        return positive - np.logaddexp.reduce(scores[:, ~classes.is_positive], axis=1)


def binary_probability(
    class_logits: np.ndarray, temperature: float, classes: ClassSet
) -> np.ndarray:
    """Compute the calibrated probability of the positive classes, (N, K-1) -> (N,) float64."""
    return expit(binary_log_odds(np.asarray(class_logits, np.float64) / temperature, classes))


def probability(logits: np.ndarray, temperature: float) -> np.ndarray:
    """Compute P(ALL) as sigmoid(logit / temperature) (Guo et al. 2017), (N,) float64."""
    return expit(np.asarray(logits, np.float64) / temperature)


def fit_temperature(class_logits: np.ndarray, labels: np.ndarray) -> float:
    """Fit the temperature of class logits by penalized likelihood, in 0.05..20.

    The logarithm of the temperature has a normal prior around 0 with SD 0.5: what moves the
    temperature far from 1 must be seen in many cells. Without it, a set in which every cell is
    classified correctly sends the temperature to its bound.

    Args:
        class_logits: (N, K-1) of cells that did not train.
        labels: (N,) int, 0 to K-1.
    """
    scores, own = np.asarray(class_logits, np.float64), np.asarray(labels)[:, None]

    def loss(log_temperature: float) -> float:
        penalty = (log_temperature / PRIOR_SD) ** 2 / 2
        log_odds = class_log_odds(scores / np.exp(log_temperature))
        losses = np.logaddexp(0, -np.take_along_axis(log_odds, own, axis=1))
        return float(losses.sum() + penalty)

    found = minimize_scalar(loss, bounds=_LOG_RANGE, method="bounded")
    return float(np.clip(np.exp(found.x), MIN_TEMPERATURE, MAX_TEMPERATURE))


def temperature_caution(class_logits: np.ndarray, labels: np.ndarray) -> str:
    """Warn where cells cannot fix a temperature; empty where they can.

    Args:
        class_logits: (N, K-1) of cells that did not train.
        labels: (N,) int, 0 to K-1.
    """
    if (class_log_odds(class_logits).argmax(axis=1) != labels).any():
        return ""
    return (
        "Every one of these cells is classified correctly, so they cannot tell how sure the scores "
        "should be: the temperature stays near 1 because of its prior. Calibrate on more cells."
    )


def abstain_band(
    logits: np.ndarray, temperature: float, threshold: float, share: float
) -> tuple[float, float] | None:
    """Find the band around the threshold that leaves a share of cells without an answer.

    It is symmetric in log-odds around the threshold's. Cells are ranked in log-odds too:
    probabilities of sure ones round to 0 or 1.

    Args:
        logits: (N,) log-odds of ALL of cells that did not train.
        temperature: divides them.
        threshold: from which on a cell is called ALL, 0..1; at 0 and 1 all cells are called
            the same, none is close to it, and there is no band.
        share: of the cells to leave unanswered, 0..1; 0 gives no band.
    """
    if share == 0 or not 0 < threshold < 1:
        return None
    centre = float(logit(threshold))
    calibrated = np.asarray(logits, np.float64) / temperature
    width = float(np.quantile(np.abs(calibrated - centre), share))
    return float(expit(centre - width)), float(expit(centre + width))


def in_band(probability: npt.ArrayLike, band: tuple[float, float] | None) -> np.ndarray:
    """Find which probabilities lie in an abstain band and get no answer, (N,) bool."""
    values = np.asarray(probability, np.float64)
    if band is None:
        return np.zeros(values.shape, bool)
    return (values > band[0]) & (values < band[1])


def min_confidence(class_logits: np.ndarray, temperature: float, share: float) -> float | None:
    """Find the probability of the likeliest class below which a share of cells has no answer.

    Cells are ranked in log-odds: probabilities of sure ones round to 1.

    Args:
        class_logits: (N, K-1) of cells that did not train.
        temperature: divides them.
        share: of the cells to leave unanswered, 0..1; 0 gives None.
    """
    if share == 0:
        return None
    best = class_log_odds(np.asarray(class_logits, np.float64) / temperature).max(axis=1)
    return float(expit(np.quantile(best, share)))


def class_logits_of(predictions: pa.Table) -> np.ndarray:
    """Read class logits (N, K-1) from predictions, which keep those of two classes as `logit`."""
    if "class_logits" not in predictions.column_names:
        return predictions["logit"].to_numpy()[:, None]
    flat = predictions["class_logits"].combine_chunks().flatten().to_numpy()
    return flat.reshape(len(predictions), -1)
