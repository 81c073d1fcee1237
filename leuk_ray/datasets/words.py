"""What words in tables, folder names and file names mean: classes, and subjects.

A word that says nothing (UNKNOWN: empty, NaN, NA, unknown, ...) is no label and no subject.
"""

from __future__ import annotations

import difflib
import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence

from leuk_ray.utils.errors import ConfigError, DataError

ALL_WORDS = ("ALL", "blast", "blasts", "leukemia", "leukaemia", "positive", "1", "1.0")
HEALTHY_WORDS = ("healthy", "hem", "normal", "benign", "negative", "0", "0.0")
UNKNOWN = frozenset(
    ("", "nan", "-nan", "na", "n/a", "#n/a", "<na>", "none", "null", "nil", "nat", "unknown",
     "unlabelled", "unlabeled", "missing", "?", "-")
)  # fmt: skip
_KNOWN = {word.casefold(): 1 for word in ALL_WORDS} | dict.fromkeys(HEALTHY_WORDS, 0)


def is_unknown(text: str | None) -> bool:
    """Whether a cell of a table or a name says nothing; case does not matter."""
    return text is None or _plain(text) in UNKNOWN


def _plain(text: str) -> str:
    """The same for all ways to type a text: case, spaces, full-width letters, other digits."""
    digits = "".join(str(unicodedata.decimal(letter, letter)) for letter in text)
    folded = unicodedata.normalize("NFKC", digits).casefold()
    return " ".join(unicodedata.normalize("NFKC", folded).split())


def read_labels(
    counts: Mapping[str, int], positive: Sequence[str], where: object
) -> dict[str, int | None]:
    """Give each label word its class.

    Without `positive` every word must be one of ALL_WORDS or HEALTHY_WORDS, in any case. With it,
    these words are ALL and all others healthy. UNKNOWN words are unlabelled.

    Args:
        counts: each word and how many images have it.
        positive: the words that mean ALL, spelt as they are there; none for the known words.
        where: the table or folder, for messages.

    Returns:
        Word -> 1 ALL, 0 healthy, None unlabelled.

    Raises:
        UserError: words that differ by case alone, a word that is not known, one of `positive`
            that no image has, or that contradicts what it is known to mean.
    """
    words = [word for word in counts if not is_unknown(word)]
    _refuse_near_words(words, counts, where, str.casefold, "differ by case alone")
    if not positive:
        if strange := [word for word in words if word.casefold() not in _KNOWN]:
            raise DataError(
                f"{where}: which of {_listed(words, counts)} are ALL? {strange[0]!r} is not known; "
                f"say it with --positive NAME[,NAME], or use {ALL_WORDS[0]} and {HEALTHY_WORDS[0]}"
            )
        return {word: _KNOWN.get(word.casefold()) for word in counts}
    _refuse_near_words(words, counts, where, subject_key, "are spellings of one word")
    for word in positive:
        if is_unknown(word):
            raise ConfigError(f"--positive {word}: this word means that the label is unknown")
        if word not in words:
            near = difflib.get_close_matches(word.casefold(), [w.casefold() for w in words], 1)
            hint = [f"; did you mean {w}?" for w in words if w.casefold() in near]
            raise ConfigError(
                f"--positive {word}: no image of {where} has this label; there are "
                f"{_listed(words, counts)}{''.join(hint)}"
            )
    for word in words:
        known = None if word[:1].isdigit() else _KNOWN.get(word.casefold())
        if known is not None and known != (word in positive):
            meaning = "ALL, and is left out of it" if known else "healthy"
            raise ConfigError(
                f"--positive {','.join(positive)}: {word!r} in {where} means {meaning}; "
                "name all words for ALL and no other, or rename it"
            )
    return {word: None if is_unknown(word) else int(word in positive) for word in counts}


def _refuse_near_words(
    words: list[str],
    counts: Mapping[str, int],
    where: object,
    key: Callable[[str], str | None],
    trouble: str,
) -> None:
    """Raise UserError where words have one key; `trouble` says what they have in common."""
    alike: dict[str | None, list[str]] = {}
    for word in words:
        alike.setdefault(key(word), []).append(word)
    for same in alike.values():
        if len(same) > 1:
            raise DataError(
                f"{where}: the labels {_listed(same, counts)} {trouble}; write them alike"
            )


def _listed(words: Sequence[str], counts: Mapping[str, int]) -> str:
    shown = [f"{word} ({counts[word]})" for word in sorted(words)[:10]]
    return ", ".join(shown) + (f" and {len(words) - 10} more" if len(words) > 10 else "")


def subject_key(text: str | None) -> str | None:
    """Equal for spellings of one subject: `7`, `+7`, `007`, `7.0`; `H7` and `h7`.

    None where the text is UNKNOWN. Case, spaces around, leading zeros, a plus sign and a decimal
    part of zeros, which tables add to whole numbers, do not tell subjects apart, nor do digits
    and letters of other widths and scripts (Unicode NFKC).
    """
    if text is None or is_unknown(text):
        return None
    key = _plain(text)
    if whole := re.fullmatch(r"\+?([0-9]+)(\.0+)?", key):
        key = whole[1]
    return re.sub(r"(?<![0-9])0+(?=[0-9])", "", key)


def unify_subjects(
    subjects: Iterable[str | None],
) -> tuple[list[str | None], dict[str, list[str]]]:
    """Write each subject in one way: the shortest ASCII spelling that occurs.

    Returns:
        The subjects in the same order, None where unknown; and those that were spelt in several
        ways, with the other spellings.
    """
    given = list(subjects)
    spellings: dict[str, set[str]] = {}
    for text in given:
        key = subject_key(text)
        if key is not None and text is not None:
            spellings.setdefault(key, set()).add(text.strip())
    order = {
        key: sorted(ways, key=lambda way: (not way.isascii(), len(way), way))
        for key, ways in spellings.items()
    }
    names = [order[key][0] if (key := subject_key(text)) is not None else None for text in given]
    return names, {first: rest for first, *rest in order.values() if rest}
