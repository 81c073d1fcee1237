"""What a dataset is, and whether another one is the same.

Two datasets are the same when they hold the same cells with the same labels, subjects and
statuses, stored in the same way; where they lie and when they were prepared does not matter.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from typing import TYPE_CHECKING

import pyarrow as pa

from leuk_ray.datasets.images import StorageSettings
from leuk_ray.io.locations import Location
from leuk_ray.io.storage import exists, read_table
from leuk_ray.utils.errors import UserError
from leuk_ray.utils.settings import Settings

if TYPE_CHECKING:
    from leuk_ray.datasets.prepared import PreparedDataset


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
    def of(cls, cells: pa.Table, storage: StorageSettings) -> DatasetIdentity:
        """Compute the identity of `PreparedDataset.cells`, which are ordered by uid."""
        pixels = cells["pixels_sha256"].to_pylist()
        uids = _sha256(cells["uid"].to_pylist())
        return cls(
            rows=len(cells),
            images=_sha256(sorted(pixels)),
            names=_sha256([uids, pixels]),
            labels=_sha256([uids, cells["label"].to_pylist()]),
            subjects=_sha256([uids, cells["subject"].to_pylist()]),
            status=_sha256([uids, cells["role"].to_pylist()]),
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


def check_same_dataset(
    trained_on: Iterable[DatasetIdentity],
    dataset: PreparedDataset,
    owner: Location,
    advice: str,
    split: Location | None = None,
) -> None:
    """Refuse a dataset that is not the one a run or bundle was made with.

    Args:
        trained_on: what the run or bundle recorded; nothing where it was written before that.
        dataset: what it is to be used with.
        owner: the run or bundle, for the message.
        advice: what to do about a difference.
        split: where that of the run lies; its columns tell how many labels or subjects differ.

    Raises:
        UserError: another dataset, with what differs; or nothing was recorded.
    """
    known = list(trained_on)
    if not known:
        raise UserError(
            f"{owner}: was written by an older leuk_ray, which did not record the labels and the "
            "crop of its dataset, so that nothing can be checked; train it again"
        )
    for identity in known:
        if different := identity.differences(dataset.identity):
            counted = [_counted(what, dataset, split) for what in different]
            raise UserError(
                f"{dataset.location}: is not the dataset of {owner}: it has "
                f"{', '.join(counted)}; {advice}"
            )


def _counted(what: str, dataset: PreparedDataset, place: Location | None) -> str:
    """Add of how many cells a label or subject differs, where the split tells."""
    column = {"other labels": "label", "other subjects": "subject"}.get(what)
    if place is None or column is None or not exists(place):
        return what
    cells, split = dataset.cells, read_table(place)
    now = dict(zip(cells["uid"].to_pylist(), cells[column].to_pylist(), strict=True))
    then = dict(zip(split["uid"].to_pylist(), split[column].to_pylist(), strict=True))
    count = sum(now[uid] != value for uid, value in then.items())
    return f"{what} (of {count} of the run's {len(then)} cells)"


def _sha256(values: object) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()
