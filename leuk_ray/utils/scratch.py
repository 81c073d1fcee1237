"""Temporary folders that no process leaves behind.

    TMPDIR/leuk_ray-UID/scratch/PROCESS/...

A process holds the kernel's lock on its folder and removes the folder at its end. The lock of a
process that was killed is free, so the next one that looks removes what it left.
"""

from __future__ import annotations

import atexit
import fcntl
import os
import shutil
import stat
import tempfile
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from leuk_ray.utils.errors import StorageError

_own: dict[int, tuple[Path, BinaryIO]] = {}  # by process: a forked one has its own


def user_folder() -> Path:
    """Make the folder of this user under TMPDIR, which nobody else can read.

    Raises:
        UserError: it cannot be made, or is open to other users.
    """
    folder = Path(tempfile.gettempdir()) / f"leuk_ray-{os.getuid()}"
    try:
        make_private(folder)
    except OSError as error:
        raise StorageError(
            f"{folder}: cannot be made ({error.strerror}); set TMPDIR to a folder of your own"
        ) from error
    return folder


def make_private(folder: Path) -> None:
    """Make a folder for this user alone: cells are nobody else's to see or to change.

    Raises:
        UserError: another user owns it or can enter it.
        OSError: it cannot be made.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise StorageError(
            f"{folder}: is open to other users; remove it, or set TMPDIR to a folder of your own"
        )


def make(purpose: str) -> Path:
    """Make an empty folder; whoever uses it removes it, at the latest the end of this process."""
    return Path(tempfile.mkdtemp(prefix=f"{purpose}-", dir=_own_folder()))


@contextmanager
def temporary(purpose: str) -> Generator[Path]:
    """Make an empty folder for as long as the block runs."""
    folder = make(purpose)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def remove_abandoned() -> None:
    """Remove the folders of processes that have ended."""
    own = _own.get(os.getpid(), (None,))[0]
    for folder in (user_folder() / "scratch").glob("*"):
        if folder != own:
            _remove_if_abandoned(folder)


def remove_own() -> None:
    """Remove the folder of this process; called at its end."""
    folder, lock = _own.pop(os.getpid(), (None, None))
    if folder is not None and lock is not None:
        _remove(folder)
        lock.close()


def _own_folder() -> Path:
    while os.getpid() not in _own:
        root = user_folder() / "scratch"
        root.mkdir(exist_ok=True)
        remove_abandoned()
        folder = Path(tempfile.mkdtemp(prefix=f"{os.getpid()}-", dir=root))
        lock = (folder / "lock").open("xb")
        fcntl.flock(lock, fcntl.LOCK_EX)
        if os.fstat(lock.fileno()).st_nlink:  # else it was removed between the two lines above
            _own[os.getpid()] = folder, lock
            atexit.register(remove_own)
    return _own[os.getpid()][0]


def _remove_if_abandoned(folder: Path) -> None:
    # Without a lock it is just being made; with one that is held it is in use.
    with suppress(FileNotFoundError, BlockingIOError), (folder / "lock").open("rb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        _remove(folder)


def _remove(folder: Path) -> None:
    """Remove a folder, its lock last: what is left for now is found again."""
    with suppress(OSError):
        for place in folder.iterdir():
            if place.name != "lock":
                shutil.rmtree(place)
        shutil.rmtree(folder)
