"""From log-odds to calibrated probabilities, and where they are too close to call."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize_scalar
from scipy.special import expit, logit

MIN_TEMPERATURE, MAX_TEMPERATURE = 0.05, 20.0
PRIOR_SD = 0.5  # of the logarithm of a temperature; chosen in benchmarks/temperature.py
_LOG_RANGE = (np.log(MIN_TEMPERATURE), np.log(MAX_TEMPERATURE))


def probability(logits: np.ndarray, temperature: float) -> np.ndarray:
    """Probability of ALL: sigmoid(logit / temperature) (Guo et al. 2017), (N,) float64."""
    return expit(np.asarray(logits, np.float64) / temperature)


def fit_temperature(logits: np.ndarray, labels: np.ndarray) -> float:
    """Fit the temperature of log-odds by penalized likelihood, in 0.05..20.

    The logarithm of the temperature has a normal prior around 0 with SD 0.5: what moves the
    temperature far from 1 must be seen in many cells. Without it, a set in which every cell is
    classified correctly sends the temperature to its bound.

    Args:
        logits: (N,) log-odds of ALL of cells that did not train.
        labels: (N,) 1 for ALL, 0 for healthy.
    """
    signed = np.where(labels == 1, logits, -logits).astype(np.float64)

    def loss(log_temperature: float) -> float:
        penalty = (log_temperature / PRIOR_SD) ** 2 / 2
        return float(np.logaddexp(0, -signed / np.exp(log_temperature)).sum() + penalty)

    found = minimize_scalar(loss, bounds=_LOG_RANGE, method="bounded")
    return float(np.clip(np.exp(found.x), MIN_TEMPERATURE, MAX_TEMPERATURE))


def temperature_caution(logits: np.ndarray, labels: np.ndarray) -> str:
    """Warn where cells cannot fix a temperature; empty where they can.

    Args:
        logits: (N,) log-odds of ALL of cells that did not train.
        labels: (N,) 1 for ALL, 0 for healthy.
    """
    if ((logits > 0) != (labels == 1)).any():
        return ""
    return (
        "Every one of these cells is classified correctly, so they cannot tell how sure the scores "
        "should be: the temperature stays near 1 because of its prior. Calibrate on more cells."
    )


def abstain_band(
    logits: np.ndarray, temperature: float, threshold: float, share: float
) -> tuple[float, float] | None:
    """The band around the threshold that leaves a share of cells without an answer.

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
    """Which probabilities lie between the ends of an abstain band and get no answer, (N,) bool."""
    values = np.asarray(probability, np.float64)
    if band is None:
        return np.zeros(values.shape, bool)
    return (values > band[0]) & (values < band[1])
