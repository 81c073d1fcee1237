"""Errors that are the user's to mend."""

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """A user's mistake in one line: what is wrong, where, and what to do.

    The command line prints the message without a traceback and exits with 2.
    """


def near(word: str, known: Iterable[str]) -> str:
    """Suggest the known word that `word` is closest to, or list all of them."""
    known = list(known)
    close = difflib.get_close_matches(word.lower(), known, 1)
    return f"did you mean {close[0]}?" if close else f"choose one of {', '.join(known)}"
