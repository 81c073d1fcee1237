"""What a run trains and validates on."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from leuk_ray.datasets.plan import uid_keys
from leuk_ray.datasets.splits import copies_with_role, rows_with_role


@dataclass(frozen=True)
class TrainingCells:
    """The rows of a split and what is known of them, indexed by dataset row.

    uids: of every row. labels: (num_rows,) int64, -1 where unknown. keys: (num_rows,) uint64.
    train, validation: rows, ascending.
    train_copies, validation_copies: (N,) uint64 under `paper-literal`, the augmentation draw
        that each of these rows is; else None.
    """

    uids: list[str]
    labels: np.ndarray
    keys: np.ndarray
    train: np.ndarray
    validation: np.ndarray
    train_copies: np.ndarray | None = None
    validation_copies: np.ndarray | None = None

    @classmethod
    def of(cls, cells: pa.Table, split: pa.Table) -> TrainingCells:
        """Join `PreparedDataset.cells` with a split."""
        uids = cells["uid"].to_pylist()
        labels = np.asarray([-1 if x is None else x for x in cells["label"].to_pylist()], np.int64)
        train, validation = (
            rows_with_role(cells, split, (role,)) for role in ("train", "validation")
        )
        copies = (copies_with_role(split, (role,)) for role in ("train", "validation"))
        return cls(uids, labels, uid_keys(uids), train, validation, *copies)
