"""Whether a run or bundle meets the dataset it was made with."""

from __future__ import annotations

from collections.abc import Iterable

from leuk_ray.datasets.identity import DatasetIdentity
from leuk_ray.datasets.prepared import PreparedDataset
from leuk_ray.io.locations import Location
from leuk_ray.io.storage import exists, read_table
from leuk_ray.utils.errors import DataError


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
        raise DataError(
            f"{owner}: was written by an older leuk_ray, which did not record the labels and the "
            "crop of its dataset, so that nothing can be checked; train it again"
        )
    for identity in known:
        if different := identity.differences(dataset.identity):
            counted = [_counted(what, dataset, split) for what in different]
            raise DataError(
                f"{dataset.location}: is not the dataset of {owner}: it has "
                f"{', '.join(counted)}; {advice}"
            )


def _counted(what: str, dataset: PreparedDataset, place: Location | None) -> str:
    """Add the number of cells whose label or subject differs, if the split is known."""
    column = {"other labels": "label", "other subjects": "subject"}.get(what)
    if place is None or column is None or not exists(place):
        return what
    cells, split = dataset.cells, read_table(place)
    now = dict(zip(cells["uid"].to_pylist(), cells[column].to_pylist(), strict=True))
    then = dict(zip(split["uid"].to_pylist(), split[column].to_pylist(), strict=True))
    count = sum(now[uid] != value for uid, value in then.items())
    return f"{what} (of {count} of the run's {len(then)} cells)"
