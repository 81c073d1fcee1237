import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from leuk_ray.cli.data_messages import prepare_text
from leuk_ray.datasets import images
from leuk_ray.datasets.audit import audit_cells, audit_dataset
from leuk_ray.datasets.audit_page import write_audit
from leuk_ray.datasets.classes import BINARY
from leuk_ray.datasets.images import StorageSettings
from leuk_ray.datasets.layouts import LayoutOptions
from leuk_ray.datasets.prepare import prepare
from leuk_ray.datasets.prepared import PreparedDataset
from leuk_ray.datasets.split_summary import default_split
from leuk_ray.datasets.synthetic import SyntheticSpec
from leuk_ray.datasets.synthetic_fields import write_all_idb
from leuk_ray.runs.report import predictions_table
from leuk_ray.utils.errors import UserError


def test_every_image_is_accounted_for_and_its_pixels_are_right(cells_folder: Path, dataset):
    counts = dataset.manifest["counts"]
    files = {path.stem: path for path in cells_folder.rglob("*.bmp")}
    assert len(files) == counts["rows"] == 121
    assert counts["files"] == counts["rows"] + counts["rejected"] + counts["skipped"] == 123
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
    (folder / "UID_1_1_996_all.bmp").symlink_to("UID_1_1_996_all.bmp")
    Image.open(good[3]).resize((400, 450)).save(folder / "UID_1_1_995_all.bmp")
    shutil.copy(good[3], folder / "UID_2_1_997_all.bmp")
    manifest = prepare(source, tmp_path / "dataset", "c-nmc", StorageSettings(size=32))
    dataset = PreparedDataset.open(str(tmp_path / "dataset"))
    rejected = dataset.read_table("rejected.parquet").to_pylist()
    reasons = {Path(row["path"]).name: row["reason"] for row in rejected}
    assert reasons.pop("SYNTHETIC.json") == reasons.pop("latents.csv") == "layout"
    assert reasons == {
        good[0].name: "truncated",
        good[1].name: "empty",
        good[2].name: "not_an_image",
        "UID_1_1_999_hem.bmp": "label_disagrees",
        "holiday.bmp": "name",
        "UID_1_1_998_all.bmp": "unreadable",
        "UID_1_1_996_all.bmp": "unreadable",
        "UID_1_1_995_all.bmp": "size",
    }
    counts = manifest["counts"]
    assert counts["files"] == 121 + 6 + 2 == counts["rows"] + counts["rejected"] + 2
    identical = audit_cells(dataset.cells, BINARY)["identical"]
    assert [item["uids"] for item in identical] == [sorted([good[3].stem, "UID_2_1_997_all"])]
    assert dataset.manifest["counts"]["statuses"]["duplicate"] == 1


def test_kept_columns_are_those_of_the_images_that_were_decoded(cells_folder: Path, tmp_path: Path):
    files = sorted(cells_folder.rglob("*.bmp"))[:5]
    lines = [f"{path},ALL,{path.stem},{'fm'[n % 2]}" for n, path in enumerate(files)]
    (tmp_path / "bad.png").write_text("not an image")
    lines.insert(1, "bad.png,ALL,P,f")
    table = tmp_path / "cells.csv"
    table.write_text("\n".join(["path,label,subject,Sex", *lines]))
    options = LayoutOptions.parse(positive="ALL", keep="sex")
    prepare(table, tmp_path / "out", "csv", StorageSettings(size=32, crop="pad"), options=options)
    dataset = PreparedDataset.open(str(tmp_path / "out"))
    sex = {str(path.with_suffix("")): "fm"[n % 2] for n, path in enumerate(files)}
    known = zip(*(dataset.cells[name].to_pylist() for name in ("uid", "kept.sex")), strict=True)
    assert dict(known) == sex
    split = dataset.cells.select(["uid", "subject", "group"])
    split = split.append_column("role", pa.array(["test"] * 5))
    scored = predictions_table(dataset, split, np.arange(5), np.zeros((5, 1)))
    assert scored["kept.sex"].equals(dataset.cells["kept.sex"])


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


def test_the_same_files_prepared_alike_are_the_same_dataset(
    cells_folder: Path, dataset, tmp_path: Path
):
    again = prepare(cells_folder, tmp_path / "again", "c-nmc", dataset.storage)
    assert again["fingerprint"] == dataset.manifest["fingerprint"] == dataset.identity.fingerprint
    prepare(cells_folder, tmp_path / "other", "c-nmc", StorageSettings(size=32))
    other = PreparedDataset.open(str(tmp_path / "other")).identity
    assert dataset.identity.differences(other) == ["size 32 instead of 64"]


def test_near_duplicates_are_joined_and_stay(cells_folder: Path, tmp_path: Path):
    source = tmp_path / "cells"
    shutil.copytree(cells_folder, source)
    folder = source / "training_data" / "fold_0" / "all"
    original = min(folder.glob("*.bmp"))
    moved = np.roll(np.asarray(Image.open(original)), 1, axis=0)
    Image.fromarray(moved).save(folder / "UID_99_1_1_all.bmp")
    manifest = prepare(source, tmp_path / "dataset", "c-nmc", StorageSettings(size=64))
    dataset = PreparedDataset.open(str(tmp_path / "dataset"))
    (pair,) = dataset.near_duplicates.to_pylist()
    assert (pair["uid_a"], pair["uid_b"]) == tuple(sorted([original.stem, "UID_99_1_1_all"]))
    rows = {row["uid"]: row for row in dataset.cells.to_pylist()}
    assert rows[original.stem]["group"] == rows["UID_99_1_1_all"]["group"]
    assert manifest["counts"]["statuses"] == {"keep": 122}
    assert rows[original.stem]["format"] == "BMP"
    assert rows[original.stem]["file_bytes"] == original.stat().st_size


@pytest.fixture(scope="module")
def real_dataset(real_data: Path, tmp_path_factory) -> PreparedDataset:
    target = tmp_path_factory.mktemp("real") / "dataset"
    prepare(real_data / "cnmc2019", target, "c-nmc", StorageSettings())
    return PreparedDataset.open(str(target))


def test_the_audit_of_real_cells_names_three_identical_and_three_near_pairs(
    real_dataset: PreparedDataset, tmp_path: Path
):
    audit = audit_dataset(real_dataset)
    assert sorted(item["uids"] for item in audit["identical"]) == [
        ["UID_20_1_1_all", "UID_21_1_1_all"],
        ["UID_20_1_2_all", "UID_21_1_2_all"],
        ["UID_H2_26_1_hem", "UID_H4_7_1_hem"],
    ]
    assert sorted(item["uids"] for item in audit["near_duplicates"]) == [
        ["UID_H10_1_1_hem", "UID_h3_1_1_hem"],
        ["UID_H2_1_1_hem", "UID_H6_1_1_hem"],
        ["UID_H2_1_2_hem", "UID_H6_1_2_hem"],
    ]
    assert len(audit["near_pairs"]) == 3
    kept = [item["uids"] for item in audit["near_duplicates"]]
    status = {row["uid"]: row["status"] for row in real_dataset.cells.to_pylist()}
    assert {status[uid] for pair in kept for uid in pair} == {"keep"}
    crossed = audit["protocols"]["subject-disjoint"]["crossings"]
    assert all(unit == {"units": 0, "test_cells": 0} for unit in crossed.values())
    assert audit["protocols"]["image-random"]["crossings"]["subject"]["test_cells"] > 0
    write_audit(tmp_path / "with", real_dataset, audit, show_images=True)
    write_audit(tmp_path / "without", real_dataset, audit, show_images=False)
    page = (tmp_path / "with" / "audit.html").read_text()
    assert page.count("data:image/png;base64,") == 12
    assert "UID_H2_1_1_hem = UID_H6_1_1_hem" in page
    assert "<img" not in (tmp_path / "without" / "audit.html").read_text()
    assert json.loads((tmp_path / "with" / "audit.json").read_text()) == audit
    with pytest.raises(UserError, match="never overwritten"):
        write_audit(tmp_path / "with", real_dataset, audit, show_images=True)


def test_fields_and_their_cells_are_one_group(tmp_path: Path):
    truth = write_all_idb(tmp_path / "ALL_IDB", SyntheticSpec(cells=8, subjects=4, seed=2))
    with pytest.raises(UserError, match="use --crop pad"):
        prepare(tmp_path / "ALL_IDB", tmp_path / "no", "all-idb", StorageSettings())
    storage = StorageSettings(size=48, crop="pad")  # whatever the size, fields are told apart
    manifest = prepare(tmp_path / "ALL_IDB", tmp_path / "dataset", "all-idb", storage)
    assert manifest["counts"]["not_square"] == 6
    dataset = PreparedDataset.open(str(tmp_path / "dataset"))
    text = prepare_text(tmp_path, manifest, default_split(dataset.cells, dataset.classes))
    assert "6 images are not square: mirrored" in text
    assert "name neither a subject" not in text
    assert dataset.synthetic
    group = {row["uid"]: row["group"] for row in dataset.cells.to_pylist()}
    assert len(set(group.values())) == 4
    for crop, field in truth["fields"].items():  # pyright: ignore[reportAttributeAccessIssue]
        assert group[f"all-idb2_{crop}"] == group[f"all-idb1_{field}"]
    for first, second in [*truth["repeated"], *truth["overlapping"]]:  # pyright: ignore
        assert group[f"all-idb1_{first}"] == group[f"all-idb1_{second}"]
