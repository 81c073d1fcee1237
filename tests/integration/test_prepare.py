import shutil
from pathlib import Path

import numpy as np
import pytest

from leuk_ray import images
from leuk_ray.datasets.audit import audit_cells
from leuk_ray.datasets.prepare import prepare
from leuk_ray.datasets.prepared import PreparedDataset
from leuk_ray.errors import UserError
from leuk_ray.images import StorageSettings


def test_every_image_is_accounted_for_and_its_pixels_are_right(cells_folder: Path, dataset):
    counts = dataset.facts["counts"]
    files = {path.stem: path for path in cells_folder.rglob("*.bmp")}
    assert counts["files"] == len(files) == counts["rows"] + counts["rejected"] == 121
    assert dataset.synthetic
    assert set(dataset.cells["source"].to_pylist()) == {"synthetic c-nmc"}
    uids = dataset.cells["uid"].to_pylist()
    assert uids == sorted(files)
    rows = np.asarray([77, 3, 120, 3, 0])
    pixels = dataset.reader().read(rows)
    for row, stored in zip(rows.tolist(), pixels, strict=True):
        expected = images.read(files[uids[row]].read_bytes(), dataset.storage)
        assert np.array_equal(stored, expected)


def test_bad_files_are_rejected_by_name_and_nothing_is_lost(cells_folder: Path, tmp_path: Path):
    source = tmp_path / "cells"
    shutil.copytree(cells_folder, source)
    folder = source / "training_data" / "fold_0" / "all"
    good = sorted(folder.glob("*.bmp"))
    good[0].write_bytes(good[0].read_bytes()[:1000])
    good[1].write_bytes(b"")
    good[2].write_text("not an image")
    (folder / "UID_1_1_999_hem.bmp").write_bytes(good[3].read_bytes())
    (folder / "holiday.bmp").write_bytes(good[3].read_bytes())
    (folder / "UID_1_1_998_all.bmp").symlink_to(tmp_path / "nowhere.bmp")
    shutil.copy(good[3], folder / "UID_2_1_997_all.bmp")
    facts = prepare(source, tmp_path / "dataset", "c-nmc", StorageSettings(size=32))
    dataset = PreparedDataset.open(str(tmp_path / "dataset"))
    rejected = dataset.read_table("rejected.parquet").to_pylist()
    reasons = {Path(row["path"]).name: row["reason"] for row in rejected}
    assert reasons == {
        good[0].name: "truncated",
        good[1].name: "empty",
        good[2].name: "not_an_image",
        "UID_1_1_999_hem.bmp": "label_disagrees",
        "holiday.bmp": "name",
        "UID_1_1_998_all.bmp": "unreadable",
    }
    counts = facts["counts"]
    assert counts["files"] == 121 + 4 == counts["rows"] + counts["rejected"]
    identical = audit_cells(dataset.cells)["identical"]
    assert [item["uids"] for item in identical] == [sorted([good[3].stem, "UID_2_1_997_all"])]
    assert dataset.facts["counts"]["roles"]["duplicate"] == 1


def test_a_dataset_is_never_overwritten(cells_folder: Path, dataset):
    with pytest.raises(UserError, match="never overwritten"):
        prepare(cells_folder, Path(dataset.location), "c-nmc", StorageSettings())


def test_nothing_readable_leaves_nothing_behind(tmp_path: Path):
    folder = tmp_path / "cells" / "training_data" / "fold_0" / "all"
    folder.mkdir(parents=True)
    (folder / "UID_1_1_1_all.bmp").write_text("text")
    with pytest.raises(UserError, match="none of 1 images could be decoded"):
        prepare(tmp_path / "cells", tmp_path / "dataset", "c-nmc", StorageSettings())
    assert [path.name for path in tmp_path.iterdir()] == ["cells"]


def test_the_same_files_give_the_same_fingerprint(cells_folder: Path, dataset, tmp_path: Path):
    again = prepare(cells_folder, tmp_path / "again", "c-nmc", StorageSettings(size=32))
    assert again["fingerprint"] == dataset.facts["fingerprint"]
