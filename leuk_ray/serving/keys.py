"""Keys of who may ask, from a file that may change while the service runs."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import logging
import re
import time
from pathlib import Path

from leuk_ray.serving.errors import Problem
from leuk_ray.utils.errors import ConfigError, UserError, unreadable

_CHECK_SECONDS = 1.0
_SETTLE_SECONDS = 0.5  # a file that is being written looks whole with half of its lines
_WAIT_SECONDS = 2.0  # for a share that hangs
_GRACE_SECONDS = 30.0
_KEY_LINE = re.compile(r"(?P<name>\S+)\s+(?P<digest>[0-9a-f]{64})")

logger = logging.getLogger(__name__)


class ApiKeys:
    """Keys by the SHA-256 of each, read again from their file within 2 seconds of a change.

    Each line is `NAME SHA256`, in hexadecimal; `#` begins a comment. A changed file is used once
    it has read the same for half a second. While it is missing, empty or broken, the last keys
    are good for another 30 seconds; then no key is, until the file can be read again.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._keys = read_keys(path)
        self._confirmed = self._tried = time.monotonic()
        self._reading: asyncio.Task[None] | None = None

    async def owner(self, key: str) -> str | None:
        """Return the name of a key's owner, None for an unknown key; takes as long for any key.

        Raises:
            Problem: 503, the file could not be read for longer than the grace.
        """
        await self._check()
        if time.monotonic() - self._confirmed > _GRACE_SECONDS:
            raise Problem(503, "no_keys", "keys cannot be checked; see the service's log")
        digest = hashlib.sha256(key.encode()).hexdigest()
        found = None
        for name, known in self._keys.items():
            if hmac.compare_digest(digest, known):
                found = name
        return found

    async def _check(self) -> None:
        """Have the file read again, in a thread, where it was last read a second ago."""
        now = time.monotonic()
        if now - self._confirmed < _CHECK_SECONDS:
            return
        idle = self._reading is None or self._reading.done()
        if idle and now - self._tried >= _CHECK_SECONDS:
            self._tried = now
            self._reading = asyncio.create_task(asyncio.to_thread(self._read))
        if self._reading is not None:
            await asyncio.wait({self._reading}, timeout=_WAIT_SECONDS)

    def _read(self) -> None:
        try:
            keys = read_keys(self.path)
            while keys != self._keys:
                time.sleep(_SETTLE_SECONDS)
                before, keys = keys, read_keys(self.path)
                if keys == before:
                    self._keys = keys
        except UserError as error:
            left = _GRACE_SECONDS - (time.monotonic() - self._confirmed)
            state = f"the last keys are good for {left:.0f} s" if left > 0 else "no key is good"
            logger.error("%s; %s", error, state)
        else:
            self._confirmed = time.monotonic()


def read_keys(path: Path) -> dict[str, str]:
    """SHA-256 of keys by their owner.

    Raises:
        UserError: no such file, a line that is not `NAME SHA256`, or no key in it.
    """
    try:
        lines = path.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise unreadable(error, f"{path}: cannot be read as a file of keys ({error})") from error
    keys: dict[str, str] = {}
    for number, line in enumerate(lines, 1):
        text = line.partition("#")[0].strip()
        if not text:
            continue
        match = _KEY_LINE.fullmatch(text)
        if match is None or match["name"] in keys:
            raise ConfigError(
                f"{path}, line {number}: write `NAME SHA256` with the key's SHA-256 in lower case "
                "hexadecimal, each name once"
            )
        keys[match["name"]] = match["digest"]
    if not keys:
        raise ConfigError(f"{path}: holds no key; write `NAME SHA256`, a line each")
    return keys
