"""Real cells, fields and blood cells among 60 odd files: every file is a row or named, once."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from leuk_ray.cli.data_messages import prepare_text
from leuk_ray.cluster import ray_cluster
from leuk_ray.datasets.images import StorageSettings
from leuk_ray.datasets.layouts import LayoutOptions
from leuk_ray.datasets.prepare import prepare
from leuk_ray.datasets.prepared import PreparedDataset
from leuk_ray.datasets.split_summary import default_split

HIDDEN = (".Trash-1000/files", "hem/.ipynb_checkpoints", ".thumbnails", "bccd/.git")
SYSTEM = ("__MACOSX/all", "all/@eaDir", "$RECYCLE.BIN")


@pytest.fixture(scope="module")
def root(real_data: Path, tmp_path_factory) -> Path:
    """510 real images in class folders, and 60 files that are none or not to be read."""
    root = tmp_path_factory.mktemp("odd") / "cells"
    for path in sorted((real_data / "cnmc2019").rglob("*.bmp")):
        copy(path, root / path.parent.name / path.name)
    for path in sorted((real_data / "bccd" / "images").iterdir()):
        copy(path, root / "bccd" / path.name)
    for path in sorted((real_data / "pbc").rglob("*.jpg")):
        copy(path, root / path.parent.name / path.name)
    good = min((root / "all").iterdir())
    data = good.read_bytes()
    for place in (*HIDDEN, *SYSTEM):
        for number in range(3):
            copy(good, root / place / f"{number}.bmp")
    for number in range(5):
        (root / "hem" / f"._{number}.bmp").write_bytes(data[:4096])
        (root / "monocyte" / f"cut_{number}.bmp").write_bytes(data[: 100 * (number + 1)])
        (root / "platelet" / f"text_{number}.png").write_text("no image")
        (root / "all" / f"scan_{number}.svs").write_bytes(data)
        (root / "ig" / f"note_{number}.txt").write_text("a note")
        broken = os.fsencode(root / "ig") + bytes([0x2F, 0xE0 + number]) + b".bmp"
        Path(os.fsdecode(broken)).write_bytes(data)
    for name in ("all/Thumbs.db", "desktop.ini", "hem/empty.bmp"):
        (root / name).touch()
    (root / "all" / "again.bmp").symlink_to(good)
    (root / "all" / "gone.bmp").symlink_to("nowhere.bmp")
    (root / "all" / "whole").symlink_to(root)
    copy(good, root / "loose.bmp")
    copy(good, root / "hem" / "two.bmp")
    copy(good, root / "hem" / "two.BMP")
    copy(good, root / "README")
    return root


def copy(path: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(path, target)


def test_every_file_is_a_row_or_named_with_its_reason(root: Path, tmp_path: Path):
    files = {
        os.fsencode(path).decode("utf-8", "backslashreplace")
        for folder, _, names in os.walk(root)
        for path in (os.path.join(folder, name) for name in names)  # noqa: PTH118
    }
    assert len(files) == 130 + 60 + 320 + 60
    files.add(str(root / "all" / "whole"))  # a link to a folder is named too
    ray_cluster.connect(num_workers=1)
    manifest = prepare(
        root, tmp_path / "dataset", "folders", StorageSettings(size=64, crop="full"),
        options=LayoutOptions.parse(positive="all", binary=True),
    )  # fmt: skip
    dataset = PreparedDataset.open(str(tmp_path / "dataset"))
    left_out = dataset.read_table("rejected.parquet").to_pylist()
    named = {row["path"]: row for row in left_out}
    assert len(named) == len(left_out), "a file is named twice"
    uids = dataset.cells["uid"].to_pylist()
    expected = [
        Path(path).relative_to(root).with_suffix("").as_posix() for path in files - {*named}
    ]
    assert sorted(uids) == sorted(expected)
    counts = manifest["counts"]
    assert counts["files"] == len(files) == counts["rows"] + counts["rejected"] + counts["skipped"]
    assert counts["rows"] == 130 + 60 + 320 + 1  # and two.BMP; two.bmp has its uid
    assert counts["reasons"] == {
        "rejected": {
            "suffix": 11, "name": 5, "truncated": 5, "not_an_image": 5, "empty": 1,
            "unreadable": 1, "place": 1, "uid_twice": 1,
        },
        "skipped": {"hidden": 17, "system": 11, "link": 2},
    }  # fmt: skip
    assert {row["kind"] for row in left_out if row["reason"] in ("hidden", "link")} == {"skipped"}
    assert all(row["detail"] for row in left_out)
    planned = default_split(dataset.cells, dataset.classes)
    told = prepare_text(tmp_path / "dataset", manifest, planned)
    assert "571 files in = 511 rows out + 30 rejected + 30 skipped" in told
    assert "all = ALL (65)" in told
    assert "monocyte = healthy (40)" in told
    assert "0 subjects (unknown)" in told
