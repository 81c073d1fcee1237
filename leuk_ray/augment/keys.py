"""Counter-based random numbers: a hash of (seed, uid, copy index), with no generator state."""

from __future__ import annotations

import numpy as np

WARP, MIX, DROP = range(3)  # streams: augmentation, mixing, stochastic depth
_GAMMA = np.uint64(0x9E3779B97F4A7C15)


def _mix(z: np.ndarray | np.uint64) -> np.ndarray:
    """SplitMix64's finaliser, wrapping modulo 2**64."""
    z = np.asarray(z, np.uint64)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def uniform(
    seed: int, keys: np.ndarray, copy_index: np.ndarray, count: int, stream: int = 0
) -> np.ndarray:
    """Return uniform numbers in [0, 1): SplitMix64 (Steele, Lea and Flood 2014) as a counter hash.

    Args:
        seed: of the run.
        keys: (N,) uint64, one for each uid (`plan.uid_keys`).
        copy_index: (N,) uint64, which copy of its row each sample is.
        count: numbers a sample.
        stream: of independent numbers for another purpose.

    Returns:
        (N, count) float64.
    """
    with np.errstate(over="ignore"):
        state = _mix(np.uint64(seed % 2**64) + _GAMMA * np.uint64(stream + 1))
        state = _mix(_mix(state ^ keys) + _GAMMA * (copy_index + np.uint64(1)))
        steps = np.arange(1, count + 1, dtype=np.uint64)
        bits = _mix(state[:, None] + _GAMMA * steps)
    return (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53
