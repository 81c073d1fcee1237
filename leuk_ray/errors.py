"""Errors that are the user's to mend."""


class UserError(ValueError):
    """A user's mistake, told in one line: what is wrong, where, and what to do.

    The command line prints the message without a traceback and exits with 2.
    """
