"""What a replica is doing now, and how what it has is shared."""

from __future__ import annotations

import time
from collections import Counter

QUIET_SECONDS = 0.02


class Traffic:
    """Requests that a replica works on now."""

    def __init__(self) -> None:
        self.in_flight = 0
        self._ended = 0.0

    def begin(self) -> None:
        """Count one more."""
        self.in_flight += 1

    def end(self) -> None:
        """Count one less."""
        self.in_flight -= 1
        self._ended = time.monotonic()

    @property
    def quiet(self) -> bool:
        """Nothing to do, and not between two requests of one client."""
        return self.in_flight == 0 and time.monotonic() - self._ended > QUIET_SECONDS


class Shares:
    """Something that there is a limited amount of, and of which one key takes half at most."""

    def __init__(self, most: int) -> None:
        """Limit what is taken to `most` together, and to half of it by one key."""
        self._most = most
        self._taken: Counter[str | None] = Counter()

    def take(self, key: str | None, amount: int) -> bool:
        """Take an amount; False, and nothing is taken, where there is not so much left."""
        left = min(self._most - self._taken.total(), self._most // 2 - self._taken[key])
        if amount > left:
            return False
        self._taken[key] += amount
        return True

    def give_back(self, key: str | None, amount: int) -> None:
        """Give back what was taken."""
        self._taken[key] -= amount
        if not self._taken[key]:
            del self._taken[key]
