"""Random numbers by key: a hash of (seed, uid, draw) and no generator, so any draw replays."""

from __future__ import annotations

import numpy as np

_GAMMA = np.uint64(0x9E3779B97F4A7C15)


def _mix(z: np.ndarray | np.uint64) -> np.ndarray:
    """SplitMix64's finaliser, wrapping modulo 2**64."""
    z = np.asarray(z, np.uint64)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def uniform(seed: int, keys: np.ndarray, draws: np.ndarray, count: int) -> np.ndarray:
    """Uniform numbers in [0, 1) by key: SplitMix64 (Steele, Lea and Flood 2014) as a counter hash.

    Args:
        seed: of the run.
        keys: (N,) uint64, one for each uid (`plan.uid_keys`).
        draws: (N,) uint64, number of the draw.
        count: numbers a sample.

    Returns:
        (N, count) float64.
    """
    with np.errstate(over="ignore"):
        state = _mix(np.uint64(seed % 2**64) + _GAMMA)
        state = _mix(_mix(state ^ keys) + _GAMMA * (draws + np.uint64(1)))
        steps = np.arange(1, count + 1, dtype=np.uint64)
        bits = _mix(state[:, None] + _GAMMA * steps)
    return (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53
