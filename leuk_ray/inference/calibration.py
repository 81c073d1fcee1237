"""From log-odds to calibrated probabilities."""

from __future__ import annotations

import numpy as np
from scipy.special import expit


def probability(logits: np.ndarray, temperature: float) -> np.ndarray:
    """Probability of ALL: sigmoid(logit / temperature) (Guo et al. 2017), (N,) float64."""
    return expit(np.asarray(logits, np.float64) / temperature)
