"""Do the pictures that come still look like the training cells? An alarm if not."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass

WINDOW = 200
# In standard deviations of single cells; the mean of 200 unlike cells strays by 0.07.
ALARM = 0.75


@dataclass(frozen=True)
class Shift:
    """What strays most: its name, and how far in standard deviations of the training cells."""

    name: str
    effect: float

    @property
    def alarm(self) -> bool:
        """Whether somebody should look."""
        return abs(self.effect) > ALARM


class Drift:
    """Means over the last WINDOW pictures against those of the training cells."""

    def __init__(self, typical: Mapping[str, tuple[float, float]]) -> None:
        """Begin empty.

        Args:
            typical: mean and standard deviation of what is watched; see `ScopeSettings`.
        """
        self._typical = {name: pair for name, pair in typical.items() if pair[1] > 1e-6}
        self._seen: deque[dict[str, float]] = deque(maxlen=WINDOW)
        self._sums = dict.fromkeys(self._typical, 0.0)

    def add(self, values: Mapping[str, float]) -> None:
        """Add one picture; what it lacks counts as typical."""
        known = {name: values.get(name, mean) for name, (mean, _) in self._typical.items()}
        oldest = self._seen[0] if len(self._seen) == WINDOW else {}
        for name, value in known.items():
            self._sums[name] += value - oldest.get(name, 0.0)
        self._seen.append(known)

    def shift(self) -> Shift | None:
        """Return the largest shift; None before the window is full, or where nothing is watched."""
        if len(self._seen) < WINDOW or not self._typical:
            return None
        shifts = [
            Shift(name, (self._sums[name] / WINDOW - mean) / deviation)
            for name, (mean, deviation) in self._typical.items()
        ]
        return max(shifts, key=lambda shift: abs(shift.effect))
