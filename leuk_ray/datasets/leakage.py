"""What crosses from training to test, and whether that can be known at all.

A split is LEAKY when a test cell shares a subject, an image or a field of view with a cell that
trained or chose the epoch. It is UNKNOWN when the data do not say: cells that name no subject and
whose field of view is not known may come from one patient, whatever protocol parts them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from leuk_ray.datasets.holdout import ROLES
from leuk_ray.utils.wording import counted, overlap_label

IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]

CROSSING_UNITS = ("duplicate_id", "group", "subject")  # finer first

Origin = Literal["image", "field", "subject"]
ORIGINS: tuple[Origin, ...] = ("image", "field", "subject")  # the least known first

_NAME_PATIENTS = (
    "To settle it, name each cell's subject (--layout csv with a column subject, or a folder a "
    "subject inside the class folders)"
)
_WITH_FIELDS = (
    ", or prepare ALL-IDB1 beside ALL-IDB2 (--layout all-idb), which tells the cells of one field"
)


@dataclass(frozen=True)
class Leakage:
    """Whether cells of one patient stand in training and in test.

    leaky: None where that cannot be known.
    reason: why, in one or two sentences; where it cannot be known also what would settle it.
    origin: what all test cells are known to come from: a subject, a field of view, or no more
        than the image itself.
    seen: `TRAINED-ON-THESE` or the like, where the test cells themselves made the model.
    """

    leaky: bool | None
    reason: str
    origin: Origin
    seen: str = ""

    @property
    def label(self) -> str:
        """What marks results: `seen`, `LEAKY`, `PATIENT OVERLAP UNKNOWN`, or nothing."""
        return self.seen or overlap_label(self.leaky)

    @property
    def text(self) -> str:
        """The answer and the reason."""
        return f"{self.label or 'not leaky'}: {self.reason}"

    @property
    def no_intervals(self) -> str:
        """Why there is no interval over groups: groups are images, not patients. Else empty."""
        return NO_INTERVALS if self.origin == "image" else ""


NO_INTERVALS = (
    "no interval: it is not known which cells come from one patient, and an interval that takes "
    "images for patients is too narrow"
)


def crossings(split: pa.Table, cells: pa.Table) -> dict[str, dict[str, int]]:
    """Count what crosses: for each unit, how many of it stand in two roles or more.

    Args:
        split: columns uid and role, one row a cell or a copy of one.
        cells: `PreparedDataset.cells` that it was made from.

    Returns:
        duplicate_id, group, subject -> {units: in two roles or more, test_cells: cells of test
        whose unit stands in train too}.
    """
    rows, roles = _placed(split, cells)
    out = {}
    for unit in CROSSING_UNITS:
        code = _codes(cells[unit])[rows]
        known = code >= 0
        pairs = np.unique(np.stack([code[known], roles[known]]), axis=1)[0]
        trained = np.unique(code[known & (roles == ROLES.index("train"))])
        out[unit] = {
            "units": int((np.unique(pairs, return_counts=True)[1] > 1).sum()),
            "test_cells": int(np.isin(code[roles == ROLES.index("test")], trained).sum()),
        }
    return out


def find_leakage(split: pa.Table, cells: pa.Table) -> Leakage:
    """Find whether a test cell shares a patient with cells that trained or chose the epoch.

    Args:
        split: columns uid and role, one row a cell or a copy of one.
        cells: `PreparedDataset.cells` that it was made from.
    """
    rows, roles = _placed(split, cells)
    origin = _origins(cells)[rows]
    tested = roles == ROLES.index("test")  # validation chose the epoch: it counts as training

    def crosses(unit: str) -> BoolArray:
        """Say which test cells share a unit with training or validation."""
        code = _codes(cells[unit])[rows]
        return np.isin(code[tested], code[~tested & (code >= 0)])

    joined = crosses("group")
    crossing = {
        "image": int(crosses("duplicate_id").sum()),
        "subject": int(crosses("subject").sum()),
        "field of view": int((joined & (origin[tested] < ORIGINS.index("subject"))).sum()),
    }
    coarsest = ORIGINS[int(origin[tested].min(initial=len(ORIGINS) - 1))]
    nameless = {
        "test": int((origin[tested] == ORIGINS.index("image")).sum()),
        "training and validation": int((origin[~tested] == ORIGINS.index("image")).sum()),
    }
    if any(crossing.values()):
        what, number = max(crossing.items(), key=lambda item: item[1])
        return Leakage(True, _shares(number, len(joined), what), coarsest)
    if any(nameless.values()):
        return Leakage(None, _nameless(nameless, cells), coarsest)
    if joined.any():
        return Leakage(None, _joined(int(joined.sum()), len(joined)), coarsest)
    return Leakage(False, _apart(coarsest), coarsest)


def origin_of(cells: pa.Table, rows: IntArray) -> Origin:
    """Find what all of some cells are known to come from; see `Leakage.origin`.

    Args:
        cells: `PreparedDataset.cells`.
        rows: (N,) of them.
    """
    return ORIGINS[int(_origins(cells)[rows].min(initial=len(ORIGINS) - 1))]


def unknown_patients(cells: pa.Table) -> str:
    """Warn of `PreparedDataset.cells` that name no patient and no field; empty without any."""
    nameless = int((_origins(cells) == ORIGINS.index("image")).sum())
    if not nameless:
        return ""
    return (
        f"{nameless:,} of {counted(len(cells), 'cell')} name neither a subject nor the field of "
        "view they come from: no split can be shown to keep patients apart"
    )


def _placed(split: pa.Table, cells: pa.Table) -> tuple[IntArray, IntArray]:
    """For each row of a split its row in `cells`, and the number of its role, (N,) each."""
    rows = pc.index_in(split["uid"], value_set=cells["uid"].combine_chunks())  # pyright: ignore
    roles = pc.index_in(split["role"], value_set=pa.array(ROLES))  # pyright: ignore
    return rows.to_numpy().astype(np.int64), roles.to_numpy().astype(np.int64)


def _codes(column: pa.ChunkedArray) -> IntArray:
    """(N,) a number for each value, -1 for null."""
    encoded = column.combine_chunks().dictionary_encode()
    return encoded.indices.fill_null(-1).to_numpy().astype(np.int64)


def _origins(cells: pa.Table) -> IntArray:
    """(N,) what each cell is known to come from, a position in ORIGINS."""
    group = _codes(cells["group"])
    with_field = np.isin(group, group[cells["source_image"].is_valid().to_numpy()])
    known = cells["subject"].is_valid().to_numpy()
    return np.where(known, ORIGINS.index("subject"), with_field * ORIGINS.index("field"))


def _shares(number: int, tested: int, what: str) -> str:
    return (
        f"{number:,} of {counted(tested, 'test cell')} share a{'n' * (what[0] in 'aeiou')} {what} "
        "with cells that trained the model or chose its epoch, so this is no measure of new "
        "patients."
    )


def _nameless(nameless: dict[str, int], cells: pa.Table) -> str:
    where = " and ".join(f"{number:,} in {role}" for role, number in nameless.items() if number)
    crops = "all-idb2" in cells["source"].unique().to_pylist()
    return (
        f"The data name neither the subject nor the field of view of some cells ({where}), so "
        "cells of one patient may stand in training and in test. "
        f"{_NAME_PATIENTS}{_WITH_FIELDS * crops}."
    )


def _joined(number: int, tested: int) -> str:
    return (
        f"{number:,} of {counted(tested, 'test cell')} come from subjects that share an image with "
        "a subject of training or validation, so the two names may mean one patient. The protocol "
        "subject-disjoint keeps such subjects together."
    )


def _apart(origin: Origin) -> str:
    if origin == "field":
        return (
            "No image and no field of view of the test cells stands in training or validation; "
            "the data name no patients, and two fields may be of one."
        )
    return "No subject and no image of the test cells stands in training or validation."
