"""Local folders that appear whole, and have one writer at a time.

A folder is filled as NAME.partial, on which the writer holds the kernel's lock, and renamed at
the end; where it replaces another, the two are exchanged, so that a reader always finds one of
them. The lock of a writer that was killed is free, and what it left is removed by the next.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import re
import secrets
import shutil
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from pathlib import Path

from leuk_ray.io.locations import Location, reason
from leuk_ray.utils.errors import StorageError, UserError

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_OS_ERROR = re.compile(r"\(os error (\d+)\)")
_AT_FDCWD = -100
_RENAME_EXCHANGE = 2


@contextmanager
def appearing(target: Path, check: Callable[[], None] = lambda: None) -> Generator[Path]:
    """Make a folder to fill, at `target` when the block succeeds; else nothing is left.

    Args:
        target: the folder to make or to replace.
        check: called when this process is the only writer; raises where it must not write.

    Raises:
        UserError: another process is writing there, or the folder cannot be made.
    """
    partial = target.with_name(f"{target.name}.partial")
    try:
        partial.parent.mkdir(parents=True, exist_ok=True)
        lock = _locked(partial)
    except OSError as error:
        raise not_written(target, error) from error
    try:
        try:
            check()
            _empty(partial)
            yield partial
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
        if target.exists():
            _replace(partial, target)
        else:
            partial.rename(target)
    finally:
        os.close(lock)


def not_written(target: Location, error: BaseException) -> UserError:
    """Make the error for what could not be written at `target`."""
    if has_no_room(error):
        return StorageError(
            f"{target}: no room is left there ({reason(error)}); nothing was written"
        )
    return StorageError(
        f"{target}: cannot be written ({reason(error)}); name a place you may write to"
    )


def has_no_room(error: BaseException) -> bool:
    """Say whether a disk was full, or a limit of the user's reached."""
    if isinstance(error, OSError):
        return error.errno in _NO_ROOM
    named = _OS_ERROR.search(str(error))  # safetensors' errors have the number in their text
    return named is not None and int(named[1]) in _NO_ROOM


def _empty(folder: Path) -> None:
    """Remove what a writer that was killed left."""
    for left in folder.iterdir():
        if left.is_dir() and not left.is_symlink():
            shutil.rmtree(left)
        else:
            left.unlink()


def _locked(partial: Path) -> int:
    """Make the folder and lock it; returns what holds the lock until it is closed."""
    while True:
        partial.mkdir(exist_ok=True)
        lock = os.open(partial, os.O_RDONLY | os.O_DIRECTORY)
        try:
            _lock(lock, partial)
            with suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(lock), partial.stat()):
                    return lock
        except BaseException:
            os.close(lock)
            raise
        os.close(lock)  # its writer was done between the lines above


def _lock(folder: int, partial: Path) -> None:
    try:
        fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        place = partial.with_suffix("")
        raise StorageError(
            f"{place}: another process is writing it; wait for that one, or name another place"
        ) from error
    except OSError:  # a file system without locks on folders, such as some of the network
        return


def _replace(partial: Path, target: Path) -> None:
    """Put `partial` in the place of `target` in one step where the kernel can."""
    libc = ctypes.CDLL(None, use_errno=True)
    old = os.open(target, os.O_RDONLY | os.O_DIRECTORY)
    try:
        _lock(old, partial)  # which it becomes: nobody may begin to write in what is removed
        names = os.fsencode(partial), os.fsencode(target)
        exchange = getattr(libc, "renameat2", None)
        if exchange is None or exchange(_AT_FDCWD, names[0], _AT_FDCWD, names[1], _RENAME_EXCHANGE):
            number = ctypes.get_errno() if exchange is not None else errno.ENOSYS
            if number not in (errno.EINVAL, errno.ENOSYS):
                raise OSError(number, os.strerror(number), str(target))
            # A file system that cannot exchange, such as NFS: a reader may meet the moment between.
            aside = partial.with_name(f"{partial.name}.{secrets.token_hex(4)}")
            target.rename(aside)
            partial.rename(target)
            shutil.rmtree(aside)
        else:
            shutil.rmtree(partial)
    finally:
        os.close(old)
