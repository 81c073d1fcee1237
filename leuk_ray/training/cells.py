"""What a run trains and validates on."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from leuk_ray.datasets.plan import uid_keys


@dataclass(frozen=True)
class TrainingCells:
    """The rows of a split and what is known of them, indexed by dataset row.

    uids: of every row. labels: (num_rows,) int64, -1 where unknown. keys: (num_rows,) uint64.
    train, validation: rows, ascending.
    """

    uids: list[str]
    labels: np.ndarray
    keys: np.ndarray
    train: np.ndarray
    validation: np.ndarray

    @classmethod
    def of(cls, cells: pa.Table, split: pa.Table) -> TrainingCells:
        """Join `PreparedDataset.cells` with a split."""
        uids = cells["uid"].to_pylist()
        roles = dict(zip(split["uid"].to_pylist(), split["role"].to_pylist(), strict=True))
        of_row = np.asarray([roles.get(uid, "") for uid in uids])
        labels = np.asarray([-1 if x is None else x for x in cells["label"].to_pylist()], np.int64)
        train, validation = (np.flatnonzero(of_row == role) for role in ("train", "validation"))
        return cls(uids, labels, uid_keys(uids), train, validation)
