"""Words that reports, cards and commands share: counted nouns, and labels of patient overlap."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

LEAKY = "LEAKY"
UNKNOWN = "PATIENT OVERLAP UNKNOWN"
LISTED = 8


def without_html(markdown: str) -> str:
    """Markdown whose text may come from data: what would be read as HTML is shown as it is."""
    return markdown.replace("&", "&amp;").replace("<", "&lt;")


def counted(count: int, noun: str, plural: str = "") -> str:
    """Write a count with its noun: `1 layer`, `2,000 layers`, `2 classes`."""
    return f"{count:,} {noun if count == 1 else plural or noun + 's'}"


def listed(names: Sequence[str], separator: str = ", ") -> str:
    """Names in one line, the first eight of many: `a, b, c`; `a, ..., h and 52 more`."""
    shown = separator.join(names[:LISTED])
    return shown + f" and {len(names) - LISTED:,} more" * (len(names) > LISTED)


def counted_subjects(subjects: int, nameless: int = 0) -> str:
    """Subjects of some cells, of which `nameless` name none: `0 subjects (unknown)`."""
    if not nameless:
        return counted(subjects, "subject")
    if not subjects:
        return "0 subjects (unknown)"
    return f"{counted(subjects, 'subject')} and {counted(nameless, 'cell')} of unknown subjects"


def worst(leaky: Iterable[bool | None]) -> bool | None:
    """Of several splits together: leaky where one is, else unknown where one is unknown."""
    found = set(leaky)
    return True if True in found else (None if None in found else False)


def overlap_label(leaky: bool | None) -> str:
    """Say what marks a result: LEAKY, PATIENT OVERLAP UNKNOWN (None), or nothing (False)."""
    return UNKNOWN if leaky is None else LEAKY * leaky


def natural(text: str) -> tuple[tuple[int, int, str], ...]:
    """Sort key that puts H2 before H10."""
    parts = re.split(r"(\d+)", text)
    return tuple((1, int(part), "") if part.isdecimal() else (0, 0, part) for part in parts)
