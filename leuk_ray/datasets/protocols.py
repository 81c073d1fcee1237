"""The split protocols by name: what each keeps whole. Imports nothing heavy, for `--help`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

ProtocolName = Literal[
    "subject-disjoint",
    "slide-group-disjoint",
    "site-disjoint",
    "official-folds",
    "image-random",
    "paper-literal",
]


@dataclass(frozen=True)
class Protocol:
    """What a protocol keeps whole.

    unit: the column of `PreparedDataset.cells` whose values have one role each, or `copy`.
    about: one line for people.
    """

    unit: str
    about: str


PROTOCOLS: dict[str, Protocol] = {
    "subject-disjoint": Protocol(
        "group", "keeps each subject, and all that share an image with it, in one part"
    ),
    "slide-group-disjoint": Protocol(
        "group", "the same where subjects are unknown: fields of view stay whole (ALL-IDB)"
    ),
    "site-disjoint": Protocol(
        "site", "keeps each site (hospital, microscope) whole: how a model does at a new one"
    ),
    "official-folds": Protocol(
        "duplicate_id", "the three folds of C-NMC 2019, and its preliminary set"
    ),
    "image-random": Protocol("uid", "parts images; leaks wherever a patient has several"),
    "paper-literal": Protocol(
        "copy", "parts augmented copies of images, as saeed2022 does; always leaks"
    ),
}
