"""Which cells of a dataset a bundle has seen, and which of them it can be evaluated on."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from leuk_ray.bundles.lineage import SEEN, CellLineage, cell_hashes
from leuk_ray.datasets.leakage import Leakage, find_leakage, origin_of
from leuk_ray.datasets.splits import eligible, rows_with_role
from leuk_ray.utils.wording import counted

BoolArray = npt.NDArray[np.bool_]
IntArray = npt.NDArray[np.int64]

_DID = {"train": "trained it", "validation": "chose its epoch", "calibrated": "calibrated it"}
_LABEL = {
    "train": "TRAINED-ON-THESE",
    "validation": "VALIDATED-ON-THESE",
    "calibrated": "CALIBRATED-ON-THESE",
}
_ADVICE = "See to it that none of these did"


@dataclass(frozen=True)
class SeenCells:
    """What the lineage of a bundle says of each row of `PreparedDataset.cells`, by its pixels.

    A cell of a group (a subject with all that share an image with it) that the bundle has seen is
    no cell of a new patient, so it is not evaluated on either.
    """

    cells: pa.Table
    lineage: CellLineage

    @cached_property
    def hashes(self) -> npt.NDArray[np.uint64]:
        """(N,) see `cell_hashes`."""
        return cell_hashes(self.cells)

    @cached_property
    def role(self) -> IntArray:
        """(N,) the first role that a cell had, a position in SEEN; -1 where it had none."""
        role = np.full(len(self.cells), -1)
        for number in reversed(range(len(SEEN))):
            role[np.isin(self.hashes, self.lineage[SEEN[number]])] = number
        return role

    @cached_property
    def grouped(self) -> BoolArray:
        """(N,) whether the cell, or another one of its group, was seen."""
        _, group = np.unique(np.asarray(self.cells["group"].to_pylist()), return_inverse=True)
        return np.isin(group, group[self.role >= 0])

    @property
    def elsewhere(self) -> int:
        """How many of the cells that the bundle has seen are not of this dataset."""
        return int((~np.isin(self.lineage.seen, self.hashes)).sum())

    @cached_property
    def kept(self) -> BoolArray:
        """(N,) labelled cells that are no duplicates."""
        labelled = self.cells["label"].is_valid().to_numpy()
        return labelled & (np.asarray(self.cells["status"].to_pylist()) == "keep")

    @cached_property
    def unseen(self) -> BoolArray:
        """(N,) what to evaluate on: cells that were kept for testing, of groups never seen.

        Where no cell of the dataset was kept for testing, all that belong to no official test set.
        """
        tested = self.kept & np.isin(self.hashes, self.lineage["test"])
        if not tested.any():
            uids = np.asarray(self.cells["uid"].to_pylist())
            tested = np.isin(uids, eligible(self.cells)["uid"].to_pylist())
        return tested & ~self.grouped

    def split(self) -> pa.Table:
        """Return the dataset's split as the bundle has seen it: uid, subject, group, role.

        train: cells that trained it. validation: that chose its epoch or calibrated it. test: the
        unseen ones.
        """
        role = np.where(self.role == 0, "train", np.where(self.role > 0, "validation", "test"))
        rows = np.flatnonzero(self.kept & ((self.role >= 0) | self.unseen))
        split = self.cells.take(pa.array(rows)).select(["uid", "subject", "group"])
        return split.append_column("role", pa.array(role[rows].tolist(), pa.string()))

    @property
    def counts(self) -> str:
        """How all labelled, kept cells fall apart, in words."""
        own = self.kept
        parts = []
        for number, role in enumerate(SEEN):
            first = own & (self.role == number)
            also = [
                f"{count:,} of these also {_DID[later]}"
                for later in SEEN[number + 1 :]
                if (count := int((first & np.isin(self.hashes, self.lineage[later])).sum()))
            ]
            if first.any():
                also = f" ({', '.join(also)})" if also else ""
                parts.append(f"{int(first.sum()):,} {_DID[role]}{also}")
        related = own & self.grouped & (self.role < 0)
        left_out = own & ~self.grouped & ~self.unseen
        return (
            f"of {counted(int(own.sum()), 'labelled cell')} {', '.join(parts) or '0 made it'}, "
            f"{int(related.sum()):,} are of the same groups, {int(left_out.sum()):,} were not kept "
            f"for testing, and {int((own & self.unseen).sum()):,} are left"
        )

    def leakage(self, split: pa.Table) -> Leakage:
        """Say whether the test cells of a split, or patients of theirs, made the bundle.

        Args:
            split: as `split` gives it, or of all cells as test.
        """
        rows = rows_with_role(self.cells, split, ("test",))
        origin = origin_of(self.cells, rows)
        role, total = self.role[rows], counted(len(rows), "test cell")
        if (role >= 0).any():
            did = [
                f"{int((role == number).sum()):,} {_DID[name]}" for number, name in enumerate(SEEN)
            ]
            reason = f"of {total} {', '.join(did)}: this is no measure of new cells or patients."
            return Leakage(True, reason, origin, _LABEL[SEEN[role[role >= 0].min()]])
        if number := int(self.grouped[rows].sum()):
            reason = f"{number:,} of {total} are of groups that the bundle has seen."
            return Leakage(True, reason, origin)
        found = find_leakage(split, self.cells)
        if found.leaky is not False or not (self.elsewhere or not len(self.lineage["train"])):
            return found
        return Leakage(None, self._unknown(), origin)

    def _unknown(self) -> str:
        if not len(self.lineage["train"]):
            return (
                "None of these cells calibrated the bundle; which cells trained it was not "
                f"recorded. {_ADVICE}."
            )
        return (
            f"None of these cells made the bundle. {self.elsewhere:,} of the "
            f"{counted(len(self.lineage.seen), 'cell')} that did are not in this dataset, so "
            f"whether they are of the same patients is not known. {_ADVICE}."
        )
