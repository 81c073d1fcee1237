"""Whose an image is, read from its path."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from leuk_ray.datasets.layouts.c_nmc import subject_of
from leuk_ray.datasets.words import unify_subjects
from leuk_ray.utils.errors import ConfigError

GRAMMARS: dict[str, Callable[[str], str | None]] = {"c-nmc": subject_of}


def name_subjects(paths: Sequence[str], how: str) -> tuple[list[str | None], dict[str, list[str]]]:
    """Name the subject of each image; None where its path names none.

    Args:
        paths: of the images, with `/`.
        how: a layout of GRAMMARS, which reads names as `prepare` does; or a regular expression
            whose one group, found in a path, is the subject.

    Returns:
        A subject an image, in one spelling; and the other spellings of subjects that have some.

    Raises:
        UserError: no such expression, or one that fits no path.
    """
    find = GRAMMARS.get(how) or _finder(how)
    subjects, spellings = unify_subjects([find(path) for path in paths])
    if not any(subjects):
        raise ConfigError(
            f"--subject {how}: names a subject in none of {len(paths)} images, whose paths are as "
            f"{paths[0]}; give an expression with a group that fits them, or "
            f"{', '.join(GRAMMARS)}"
        )
    return subjects, spellings


def _finder(pattern: str) -> Callable[[str], str | None]:
    try:
        found = re.compile(pattern)
    except re.error as error:
        raise ConfigError(f"--subject {pattern}: is no regular expression ({error})") from error
    if found.groups != 1:
        raise ConfigError(
            f"--subject {pattern}: needs one group, which is the subject, such as '^([^/]+)/'; or "
            f"give {', '.join(GRAMMARS)}"
        )

    def find(path: str) -> str | None:
        match = found.search(path)
        return match[1] if match else None

    return find
