"""What words in tables, folder names and file names mean: classes, and subjects.

A word that says nothing (UNKNOWN: empty, NaN, NA, unknown, ...) is no label and no subject.
"""

from __future__ import annotations

import difflib
import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from leuk_ray.datasets.classes import BINARY, ClassSet
from leuk_ray.utils.errors import ConfigError, DataError
from leuk_ray.utils.wording import natural

ALL_WORDS = ("ALL", "blast", "blasts", "leukemia", "leukaemia", "positive", "1", "1.0")
HEALTHY_WORDS = ("healthy", "hem", "normal", "benign", "negative", "0", "0.0")
UNKNOWN = frozenset(
    ("", "nan", "-nan", "na", "n/a", "#n/a", "<na>", "none", "null", "nil", "nat", "unknown",
     "unlabelled", "unlabeled", "missing", "?", "-")
)  # fmt: skip
_NEAR = 0.8  # of difflib: blst and blast have 0.89, AML and ALL 0.67
_KNOWN = {word.casefold(): 1 for word in ALL_WORDS} | dict.fromkeys(HEALTHY_WORDS, 0)


def is_unknown(text: str | None) -> bool:
    """Say whether a cell of a table or a name says nothing; case does not matter."""
    return text is None or _plain(text) in UNKNOWN


def _plain(text: str) -> str:
    """The same for all ways to type a text: case, spaces, full-width letters, other digits."""
    digits = "".join(str(unicodedata.decimal(letter, letter)) for letter in text)
    folded = unicodedata.normalize("NFKC", digits).casefold()
    return " ".join(unicodedata.normalize("NFKC", folded).split())


@dataclass(frozen=True)
class ClassChoice:
    """What the user says about classes.

    classes: names of the classes to keep, in this order; empty keeps all.
    positive: names of the positive classes.
    ordered: the classes are stages, in the order given.
    binary: collapse to healthy and ALL (the positive classes).
    """

    classes: tuple[str, ...] = ()
    positive: tuple[str, ...] = ()
    ordered: bool = False
    binary: bool = False


def read_labels(
    counts: Mapping[str, int], choice: ClassChoice, where: object
) -> tuple[ClassSet, dict[str, int | None]]:
    """Find the classes that label words name.

    Words that are all among ALL_WORDS and HEALTHY_WORDS, in any case, are the two classes healthy
    and ALL. Else every word is a class of its own, unless `choice.binary` collapses them. UNKNOWN
    words are unlabelled.

    Args:
        counts: each word and how many images have it.
        choice: what the user says about the classes.
        where: the table or folder, for messages.

    Returns:
        The classes; and word -> label, None where unlabelled. Words that `choice.classes` leaves
        out are missing.

    Raises:
        UserError: words that are spellings of one; a name in `choice` that is no class, or that
            contradicts what its name is known to mean; one class alone; two classes of which
            none is said to be positive.
    """
    words = [word for word in counts if not is_unknown(word)]
    unlabelled: dict[str, int | None] = {word: None for word in counts if is_unknown(word)}
    _refuse_near_words(words, counts, where, str.casefold, "differ by case alone")
    known = all(word.casefold() in _KNOWN for word in words)
    if known and not (choice.classes or choice.positive):
        return BINARY, unlabelled | {word: _KNOWN[word.casefold()] for word in words}
    _refuse_near_words(words, counts, where, subject_key, "are spellings of one word")
    _refuse_unknown_classes(choice, words, counts, where)
    if len(choice.classes) == 1:
        raise DataError(
            f"--classes {choice.classes[0]}: is one class, and two or more are needed; {where} has "
            f"{_listed(words, counts)}"
        )
    kept = list(choice.classes) or sorted(words, key=natural)
    if strange := [word for word in choice.positive if word not in kept]:
        raise DataError(
            f"--positive {strange[0]}: is not among --classes {','.join(kept)}; add it there, or "
            "name one of them"
        )
    if not (choice.classes or choice.positive):
        _refuse_typing_errors(words, counts, where)
    _refuse_contradiction(choice.positive, kept, where)
    if choice.binary or (known and not choice.classes):
        if not choice.positive:
            raise DataError(
                f"{where}: which of {_listed(kept, counts)} are ALL? Name them with "
                "--positive NAME[,NAME]"
            )
        return BINARY, unlabelled | {word: int(word in choice.positive) for word in kept}
    if len(kept) < 2:
        raise DataError(
            f"{where}: the only class is {_listed(kept, counts) or 'missing'}; prepare images of "
            "all classes together"
        )
    if len(kept) == 2:
        if len(choice.positive) != 1:
            raise DataError(
                f"{where}: which of {_listed(kept, counts)} is the positive class? Name it with "
                f"--positive NAME, or call the classes {ALL_WORDS[0]} and {HEALTHY_WORDS[0]}"
            )
        kept.sort(key=lambda word: word in choice.positive)
    positive = tuple(word for word in kept if word in choice.positive)
    classes = ClassSet(tuple(kept), positive, choice.ordered)
    return classes, unlabelled | {word: label for label, word in enumerate(kept)}


def _refuse_typing_errors(words: Sequence[str], counts: Mapping[str, int], where: object) -> None:
    """Refuse a class that is nearly, but not quite, called by a known word beside another one."""
    known = [word for word in words if word.casefold() in _KNOWN]
    for word in words if known else ():
        near = difflib.get_close_matches(word.casefold(), _KNOWN, 1, _NEAR)
        if near and word not in known:
            raise DataError(
                f"{where}: the label {_listed([word], counts)} is close to the known word "
                f"{near[0]}; correct it, or list all classes with --classes if it is one"
            )


def _refuse_unknown_classes(
    choice: ClassChoice, words: Sequence[str], counts: Mapping[str, int], where: object
) -> None:
    """Refuse names in `choice` that are no class.

    --classes may name a class that no image has, as a test set may lack a class of the bundle,
    unless it is close to a label that is not named: that is a typing error.
    """
    for option, named in (("--classes", choice.classes), ("--positive", choice.positive)):
        for word in named:
            if is_unknown(word):
                raise ConfigError(f"{option} {word}: this word means that the label is unknown")
            if named.count(word) > 1:
                raise ConfigError(f"{option} {','.join(named)}: {word} is given twice")
            if option == "--positive" and word in choice.classes:
                continue
            other = [label for label in words if label not in named]
            near = difflib.get_close_matches(word.casefold(), [w.casefold() for w in other], 1)
            if word not in words and (near or option == "--positive"):
                hint = [f"; did you mean {w}?" for w in other if w.casefold() in near]
                raise DataError(
                    f"{option} {word}: no image of {where} has this label; there are "
                    f"{_listed(words, counts)}{''.join(hint)}"
                )
    if choice.classes and not set(choice.classes) & set(words):
        raise DataError(
            f"--classes {','.join(choice.classes)}: no image of {where} has one of these labels; "
            f"there are {_listed(words, counts) or 'none'}"
        )


def _refuse_contradiction(positive: Sequence[str], words: Sequence[str], where: object) -> None:
    """Refuse positive classes that contradict words whose meaning is known."""
    for word in words if positive else ():
        known = None if word[:1].isdigit() else _KNOWN.get(word.casefold())
        if known is not None and known != (word in positive):
            meaning = "ALL, and is left out of it" if known else "healthy"
            raise DataError(
                f"--positive {','.join(positive)}: {word!r} in {where} means {meaning}; "
                "name all positive classes and no other, or rename it"
            )


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
    shown = [f"{word} ({counts.get(word, 0)})" for word in sorted(words)[:10]]
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
