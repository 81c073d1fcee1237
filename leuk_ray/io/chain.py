"""Append-only JSON lines, each of which holds the hash of the line before it.

    DIR/CHAIN.000001.jsonl  DIR/CHAIN.000002.jsonl ...  DIR/CHAIN.head

A chain has one writer. Each line is an object: its `number` counts the chain's lines from 1 over
all files, `previous` is the `sha256` of the line before, and its last member, `sha256`, is the
SHA-256 of the line without that member. Every file begins with a line of kind `start`; the last
line of a chain that was closed is of kind `closed`. The head holds number and hash of the last
line, so that lines cut from the end are missed. The writer holds the kernel's lock on it.

A line is in the kernel's hands when `append` returns, which the end of the process does not undo.
It is synced to the disk with the first line a second after the last sync, and when a file is full
or closed: a machine that loses power can lose the lines since then.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import secrets
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from leuk_ray.utils.errors import StorageError

NOTHING = "0" * 64  # what the first line of a chain follows
SCHEMA_VERSION = 1
FILE_BYTES = 2**26
_SYNC_SECONDS = 1.0


class ChainWriter:
    """Writes one chain; calls must not overlap."""

    def __init__(self, folder: Path, file_bytes: int = FILE_BYTES) -> None:
        """Begin a chain.

        Args:
            folder: of chains; made, for this user alone, if it is not there.
            file_bytes: size from which on the next line goes to another file.

        Raises:
            UserError: it cannot be written to.
        """
        self.folder, self.file_bytes = folder, file_bytes
        self.name = f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{secrets.token_hex(4)}"
        self.number, self._previous = 0, NOTHING
        self._file, self._files, self._size, self._synced = -1, 0, 0, 0.0
        self._torn = False
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._head = os.open(folder / f"{self.name}.head", _NEW, 0o600)
            fcntl.flock(self._head, fcntl.LOCK_EX)
            self._begin_file()
        except OSError as error:
            raise _not_written(folder, error) from error

    def append(self, kind: str, **members: Any) -> int:
        """Write a line.

        Args:
            kind: of line.
            members: of it, plain values.

        Returns:
            Its number.

        Raises:
            UserError: it could not be written; the chain is as before, and may be tried again.
        """
        try:
            if self._size >= self.file_bytes:
                self._begin_file()
            self._append(kind, members)
        except OSError as error:
            raise _not_written(self.folder, error) from error
        return self.number

    def close(self) -> None:
        """End the chain with a line that says so."""
        if self._head < 0:
            return
        try:
            self._append("closed", {})
            os.fdatasync(self._file)
            os.fdatasync(self._head)
        except OSError as error:
            raise _not_written(self.folder, error) from error
        finally:
            os.close(self._file)
            os.close(self._head)
            self._head = -1

    def _begin_file(self) -> None:
        path = self.folder / f"{self.name}.{self._files + 1:06d}.jsonl"
        before = self._file, self._size, self._files
        self._file, self._size, self._files = os.open(path, _NEW, 0o600), 0, self._files + 1
        try:
            self._append("start", {"schema_version": SCHEMA_VERSION, "chain": self.name,
                                   "file": self._files})  # fmt: skip
        except OSError:
            os.close(self._file)
            path.unlink()
            self._file, self._size, self._files = before
            raise
        if before[0] >= 0:
            os.fdatasync(before[0])
            os.close(before[0])

    def _append(self, kind: str, members: dict[str, Any]) -> None:
        line, digest = _line(self.number + 1, self._previous, kind, members)
        if self._torn:
            os.ftruncate(self._file, self._size)
        self._torn = True
        _write(self._file, line, self._size)
        _write(self._head, f"{self.number + 1:012d} {digest}\n".encode(), 0)
        self._torn = False
        self._size += len(line)
        self.number, self._previous = self.number + 1, digest
        if time.monotonic() - self._synced > _SYNC_SECONDS:
            os.fdatasync(self._file)
            self._synced = time.monotonic()


def check_writable(folder: Path) -> None:
    """Make a folder of chains, for this user alone, if it is not there.

    Raises:
        UserError: it cannot be written to.
    """
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise _not_written(folder, error) from error


_NEW = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC


def _line(number: int, previous: str, kind: str, members: dict[str, Any]) -> tuple[bytes, str]:
    """Return a line, and its hash."""
    now = datetime.now(UTC).isoformat(timespec="milliseconds")
    head = {"number": number, "previous": previous, "time": now, "kind": kind}
    body = json.dumps(head | members, allow_nan=False, separators=(",", ":")).encode()
    digest = hashlib.sha256(body).hexdigest()
    return body[:-1] + b',"sha256":"' + digest.encode() + b'"}\n', digest


def _write(file: int, data: bytes, offset: int) -> None:
    while data:
        written = os.pwrite(file, data, offset)
        data, offset = data[written:], offset + written


def _not_written(folder: Path, error: OSError) -> StorageError:
    return StorageError(
        f"{folder}: cannot be written ({error.strerror}); free space, or name another folder"
    )
