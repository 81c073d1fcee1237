"""What a replica is doing now."""

from __future__ import annotations

import time

QUIET_SECONDS = 0.02


class Traffic:
    """Requests that a replica works on now."""

    def __init__(self) -> None:
        self.in_flight = 0
        self._ended = 0.0

    def begin(self) -> None:
        """One more."""
        self.in_flight += 1

    def end(self) -> None:
        """One less."""
        self.in_flight -= 1
        self._ended = time.monotonic()

    @property
    def quiet(self) -> bool:
        """Nothing to do, and not between two requests of one client."""
        return self.in_flight == 0 and time.monotonic() - self._ended > QUIET_SECONDS
