"""Errors that the user can fix, by kind."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import ClassVar


class UserError(ValueError):
    """A user's mistake in one line: what is wrong, where, and what to do.

    The command line prints the message without a traceback and exits with 2; `kind` is what
    `--json` calls it. Raised itself for usage: options that exclude each other, a target that
    exists already.
    """

    kind: ClassVar[str] = "user"


class ConfigError(UserError):
    """A setting or an option has a value that cannot be used."""

    kind = "config"


class DataError(UserError):
    """A dataset, an image, a table or a bundle is damaged, or is not what is needed."""

    kind = "data"


class StorageError(UserError):
    """A file or an object cannot be read or written: disk, permission, network."""

    kind = "storage"


class TrainingDiverged(UserError):  # noqa: N818 (a result, which has its own name in the field)
    """The loss, or the metric that selects checkpoints, is not finite."""

    kind = "diverged"


class UnknownModelError(UserError):
    """A registry or a service has no model, version or alias of this name."""

    kind = "unknown_model"


def restated(error: BaseException, message: str) -> UserError:
    """Make a user's error of the same kind with another message.

    Ray raises errors of its workers as a class of its own, with a traceback in the message; the
    original is its `cause`.
    """
    kind = type(getattr(error, "cause", error))
    return kind(message) if issubclass(kind, UserError) else UserError(message)


def unreadable(error: Exception, message: str) -> UserError:
    """Make the error for a file that cannot be read: the storage's fault, or the content's."""
    kind = StorageError if isinstance(error, OSError) and error.errno else DataError
    return kind(message)


def near(word: str, known: Iterable[str]) -> str:
    """Suggest the known word that `word` is closest to, or list all of them."""
    known = list(known)
    close = difflib.get_close_matches(word.lower(), known, 1)
    return f"did you mean {close[0]}?" if close else f"choose one of {', '.join(known)}"
