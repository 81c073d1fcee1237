"""What a dataset is, and whether another one is the same.

Two datasets are the same when they hold the same cells with the same labels, subjects and
statuses, stored in the same way; where they lie and when they were prepared does not matter.
"""

from __future__ import annotations

import hashlib
import json

import pyarrow as pa

from leuk_ray.datasets.classes import BINARY, ClassSet
from leuk_ray.datasets.images import StorageSettings
from leuk_ray.utils.settings import Settings


class DatasetIdentity(Settings):
    """SHA-256 of each part of a dataset that results depend on, so that an error can name it.

    rows: how many cells.
    images: of the decoded pixels of all cells, whatever they are called.
    names: of uid and decoded pixels.
    labels, subjects, status: of uid and label, subject, or status (keep, duplicate, conflict).
    storage: how decoded pixels became stored ones.
    """

    rows: int
    images: str
    names: str
    labels: str
    subjects: str
    status: str
    storage: StorageSettings

    @classmethod
    def of(
        cls, cells: pa.Table, storage: StorageSettings, classes: ClassSet = BINARY
    ) -> DatasetIdentity:
        """Compute the identity of `PreparedDataset.cells`, which are ordered by uid."""
        pixels = cells["pixels_sha256"].to_pylist()
        uids = _sha256(cells["uid"].to_pylist())
        labels: list[object] = [uids, cells["label"].to_pylist()]
        if classes != BINARY:  # those of two classes keep the hash that older bundles name
            labels.append([classes.names, classes.positive])
        return cls(
            rows=len(cells),
            images=_sha256(sorted(pixels)),
            names=_sha256([uids, pixels]),
            labels=_sha256(labels),
            subjects=_sha256([uids, cells["subject"].to_pylist()]),
            status=_sha256([uids, cells["status"].to_pylist()]),
            storage=storage,
        )

    @property
    def fingerprint(self) -> str:
        """All of it in one hash."""
        return _sha256(self.model_dump(mode="json"))

    def differences(self, other: DatasetIdentity) -> list[str]:
        """Name what is different in `other`: storage settings, and images, names or else."""
        different = [
            f"{name} {theirs} instead of {ours}"
            for name, ours in self.storage.model_dump().items()
            if (theirs := getattr(other.storage, name)) != ours
        ]
        if self.images != other.images:
            return [*different, f"other images ({other.rows} cells instead of {self.rows})"]
        if self.names != other.names:
            return [*different, "other names of the images"]
        parts = ("labels", "subjects", "status")
        return different + [
            f"other {part}" for part in parts if getattr(self, part) != getattr(other, part)
        ]


def _sha256(values: object) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()
