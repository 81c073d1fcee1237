"""From log-odds to calibrated probabilities, and where they are too close to call."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize_scalar
from scipy.special import expit, logit

MIN_TEMPERATURE, MAX_TEMPERATURE = 0.05, 20.0
_LOG_RANGE = (np.log(MIN_TEMPERATURE), np.log(MAX_TEMPERATURE))


def probability(logits: np.ndarray, temperature: float) -> np.ndarray:
    """Probability of ALL: sigmoid(logit / temperature) (Guo et al. 2017), (N,) float64."""
    return expit(np.asarray(logits, np.float64) / temperature)


def fit_temperature(logits: np.ndarray, labels: np.ndarray) -> float:
    """The temperature with the smallest mean negative log-likelihood, in 0.05..20.

    Args:
        logits: (N,) log-odds of ALL of cells that did not train.
        labels: (N,) 1 for ALL, 0 for healthy.
    """
    signed = np.where(labels == 1, logits, -logits).astype(np.float64)

    def loss(log_temperature: float) -> float:
        return float(np.logaddexp(0, -signed / np.exp(log_temperature)).mean())

    found = minimize_scalar(loss, bounds=_LOG_RANGE, method="bounded")
    return float(np.clip(np.exp(found.x), MIN_TEMPERATURE, MAX_TEMPERATURE))


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
