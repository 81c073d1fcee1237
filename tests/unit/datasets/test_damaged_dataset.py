"""A dataset whose files were cut off, lost or altered is one line, wherever it is noticed."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from leuk_ray.datasets.prepared import PreparedDataset
from leuk_ray.utils.errors import UserError

Damage = Callable[[Path], object]


def changed(name: str, value: object) -> Damage:
    """dataset.json with another value of one key; without it where the value is None."""

    def damage(folder: Path) -> None:
        manifest = json.loads((folder / "dataset.json").read_text())
        manifest[name] = value
        if value is None:
            del manifest[name]
        (folder / "dataset.json").write_text(json.dumps(manifest))

    return damage


def cut(name: str, keep: float) -> Damage:
    def damage(folder: Path) -> None:
        (path,) = list(folder.glob(name))[:1]
        data = path.read_bytes()
        path.write_bytes(data[: int(keep * len(data))])

    return damage


def zeroed(folder: Path) -> None:
    """The pixels of the first part overwritten: its footer still says where they were."""
    path = min((folder / "images").glob("*.parquet"))
    data = bytearray(path.read_bytes())
    data[4:3000] = bytes(2996)
    path.write_bytes(data)


def other_groups(folder: Path) -> None:
    table = pq.read_table(folder / "groups.parquet")
    pq.write_table(table.slice(3), folder / "groups.parquet")


def without_column(folder: Path) -> None:
    table = pq.read_table(folder / "groups.parquet")
    pq.write_table(table.drop_columns("status"), folder / "groups.parquet")


def test_columns_of_an_older_dataset_are_read_under_their_names_of_today(numbered_dataset):
    now = numbered_dataset.cells
    file = numbered_dataset.location / "groups.parquet"
    table = pq.read_table(file)
    pq.write_table(table.rename_columns(["uid", "group", "role", "picture"]), file)
    place = numbered_dataset.location / "dataset.json"
    manifest = json.loads(place.read_text())
    manifest["counts"]["roles"] = statuses = {"keep": len(now)}
    place.write_text(json.dumps(manifest))
    opened = PreparedDataset.open(str(numbered_dataset.location))
    assert opened.cells.equals(now)
    assert {"status", "duplicate_id"} < {*opened.cells.column_names}
    assert opened.manifest["counts"]["statuses"] == statuses


def other_table(folder: Path) -> None:
    pq.write_table(pa.table({"a": [1]}), min((folder / "images").glob("*.parquet")))


def read_all(folder: Path) -> None:
    opened = PreparedDataset.open(str(folder))
    opened.reader().read(np.arange(len(opened.cells)))


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: (folder / "dataset.json").write_text("[1, 2]"),
        lambda folder: (folder / "dataset.json").write_text("{"),
        lambda folder: (folder / "dataset.json").write_bytes(b"\xff\xfe"),
        changed("schema_version", 99),
        changed("storage", None),
        changed("storage", {"size": -1}),
        changed("storage", "full"),
        changed("storage", {"size": 32, "crop": "center"}),
        changed("fingerprint", None),
        changed("synthetic", None),
        changed("counts", {"rows": 124}),
        cut("groups.parquet", 0.5),
        cut("groups.parquet", 0),
        lambda folder: (folder / "groups.parquet").unlink(),
        other_groups,
        without_column,
        cut("images/*", 0.9),
        cut("images/*", 0),
        lambda folder: min((folder / "images").glob("*.parquet")).unlink(),
        lambda folder: [path.unlink() for path in (folder / "images").glob("*")],
        lambda folder: (folder / "images").rename(folder / "pictures"),
        other_table,
        zeroed,
    ],
)
def test_it_is_named_in_one_line(numbered_dataset: PreparedDataset, damage: Damage):
    folder = Path(numbered_dataset.location)
    damage(folder)
    with pytest.raises(UserError, match=re.escape(str(folder))) as raised:
        read_all(folder)
    message = str(raised.value)
    assert re.fullmatch(
        r"(: schema version .*|/dataset\.json: is not valid JSON .*"
        r"|/(dataset\.json|groups\.parquet|images(/part-\d+\.parquet)?): "
        r"(is missing|is cut off or was altered|holds no file|holds 123 of 124 cells, files are "
        r"missing|names other cells than the files in images); copy the dataset again, or prepare "
        r"the images again)",
        message.removeprefix(str(folder)),
    ), message
