"""SHA-256 of local files: computing it, verifying it, copying what has it."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections.abc import Iterable
from pathlib import Path

from leuk_ray.utils.errors import DataError

_CHUNK = 2**22


def sha256(path: Path) -> str:
    """Compute the SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def read_verified(file: Path, expected: str) -> bytes:
    """Return the content of a file, if it has the SHA-256 `expected`; else a UserError."""
    data = file.read_bytes()
    if hashlib.sha256(data).hexdigest() != expected:
        raise DataError(f"{file}: changed since it was written; get the bundle anew")
    return data


def copy_verified(source: Path, target: Path, expected: str) -> None:
    """Copy a regular file whose SHA-256 is known.

    Raises:
        UserError: it is a link, no regular file, or has another hash; or it cannot be copied.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256()
    try:
        with (
            os.fdopen(os.open(source, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb") as stream,
            target.open("wb") as out,
        ):
            if not stat.S_ISREG(os.fstat(stream.fileno()).st_mode):
                raise DataError(f"{source}: is no regular file; only those are copied")
            while chunk := stream.read(_CHUNK):
                digest.update(chunk)
                out.write(chunk)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise DataError(f"{source}: is a link; put the file itself there (cp -L)") from error
        raise
    if digest.hexdigest() != expected:
        raise DataError(f"{source}: changed since it was written; get the bundle anew")


def link_or_copy(source: Path, target: Path, expected: str) -> None:
    """Do as `copy_verified`, with a second name for the file where the system has such.

    For a file that nobody writes again, and whose SHA-256 was verified a moment ago.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        if stat.S_ISREG(source.lstat().st_mode):
            os.link(source, target)
            return
    except OSError:  # no hard links here
        target.unlink(missing_ok=True)
    copy_verified(source, target, expected)


def verify_files(folder: Path, hashes: dict[str, str], names: Iterable[str]) -> None:
    """Raise a UserError unless each named file of a folder has the SHA-256 it is said to have."""
    for name in names:
        file = folder / name
        if name not in hashes or not file.is_file() or sha256(file) != hashes[name]:
            raise DataError(f"{file}: missing or changed since it was written; get the bundle anew")
