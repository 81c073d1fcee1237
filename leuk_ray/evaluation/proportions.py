"""The exact interval of one proportion of independent trials."""

from __future__ import annotations

from scipy.special import betaincinv

from leuk_ray.evaluation.intervals import LEVEL


def clopper_pearson(
    successes: int, trials: int, level: float = LEVEL
) -> tuple[float, float] | None:
    """Compute the exact interval of a proportion of independent trials (Clopper and Pearson 1934).

    Returns:
        (low, high) in 0..1, or None without trials.

    Raises:
        ValueError: unless 0 <= successes <= trials.
    """
    if not 0 <= successes <= trials:
        raise ValueError(f"{successes} successes of {trials} trials cannot be")
    if trials == 0:
        return None
    tail = (1 - level) / 2
    failures = trials - successes
    low = float(betaincinv(successes, failures + 1, tail)) if successes else 0.0
    high = float(betaincinv(successes + 1, failures, 1 - tail)) if failures else 1.0
    return low, high
