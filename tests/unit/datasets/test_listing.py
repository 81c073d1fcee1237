"""Every file of a folder is an image, rejected or skipped, once, whatever lies there."""

from __future__ import annotations

import os
import re
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from leuk_ray.datasets.layouts import read_layout
from leuk_ray.datasets.layouts.listing import Found, find_files
from leuk_ray.utils.errors import UserError


def fill(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def reasons(found: Found, root: Path) -> dict[str, str]:
    items = [*found.rejected, *found.skipped]
    return {item.path.removeprefix(f"{root}/"): item.reason for item in items}


def test_what_systems_leave_is_skipped_and_every_other_file_is_counted(tmp_path: Path):
    skipped = {
        ".hidden.bmp": "hidden",
        "ALL/._cell.bmp": "hidden",
        ".Trash-1000/files/ALL/cell.bmp": "hidden",
        "ALL/.ipynb_checkpoints/cell-checkpoint.png": "hidden",
        "ALL/@eaDir/cell.bmp/SYNOFILE_THUMB.jpg": "system",
        "__MACOSX/ALL/cell.bmp": "system",
        "ALL/Thumbs.db": "system",
        "$RECYCLE.BIN/cell.bmp": "system",
        "labels.csv": "layout",
    }
    rejected = {"ALL/cell.gif": "suffix", "notes.txt": "suffix", "ALL/cell": "suffix"}
    images = ["ALL/cell.bmp", "ALL/b.TIFF", "cell.Jpeg"]
    fill(tmp_path, *skipped, *rejected, *images)
    found = find_files(tmp_path, ["labels.csv"])
    assert found.images == sorted(f"{tmp_path}/{name}" for name in images)
    assert reasons(found, tmp_path) == skipped | rejected
    assert len(found.skipped) == len(skipped)


def test_links_to_folders_end_and_show_each_real_file_once(tmp_path: Path):
    """The real folder is read, whichever of the two comes first by name."""
    root = fill(tmp_path / "cells", "z/1.bmp", "z/2.bmp", "z/deep/3.bmp", "m/4.bmp")
    fill(tmp_path, "outside/5.bmp")
    (root / "a").symlink_to(root / "z")
    (root / "z" / "deep" / "up").symlink_to(root)
    (root / "b").symlink_to(tmp_path / "outside")
    (root / "c").symlink_to(tmp_path / "outside")
    (root / "m" / "copy of 1.bmp").symlink_to(root / "z" / "1.bmp")
    (root / "m" / "self.bmp").symlink_to("self.bmp")
    (root / "m" / "nowhere.bmp").symlink_to("nothing.bmp")
    found = find_files(root)
    assert [path.removeprefix(f"{root}/") for path in found.images] == [
        "b/5.bmp", "m/4.bmp", "m/nowhere.bmp", "m/self.bmp", "z/1.bmp", "z/2.bmp", "z/deep/3.bmp",
    ]  # fmt: skip
    assert {item.path.removeprefix(f"{root}/"): item.detail for item in found.skipped} == {
        "a": f"leads to {root}/z, which is listed",
        "c": f"leads to {tmp_path}/outside, which is listed",
        "m/copy of 1.bmp": f"is a link to {root}/z/1.bmp, which is listed",
        "z/deep/up": f"leads to {root}, which is listed",
    }
    assert not found.rejected
    (tmp_path / "linked").symlink_to(root)
    assert len(find_files(tmp_path / "linked").images) == len(found.images)


def test_links_into_a_hidden_store_are_images(tmp_path: Path):
    """As git-annex and DVC lay data out: what is skipped is the store, not the dataset."""
    root = fill(tmp_path, ".git/annex/1.bmp", ".store/x/2.bmp")
    (root / "1.bmp").symlink_to(".git/annex/1.bmp")
    (root / "x").symlink_to(".store/x")
    found = find_files(root)
    assert [Path(path).relative_to(root).as_posix() for path in found.images] == [
        "1.bmp",
        "x/2.bmp",
    ]
    assert {item.reason for item in found.skipped} == {"hidden"}


def test_names_that_are_not_utf8_are_rejected_by_name(tmp_path: Path):
    fill(tmp_path, "ALL/1.png", "hem/2.png")
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/ALL/\xff.png")).touch()
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xe9"))
    folder.mkdir()
    (folder / "3.png").touch()
    catalogue = read_layout("folders", tmp_path)
    assert len(catalogue.rows) == 2
    assert sorted((item.path, item.reason) for item in catalogue.rejected) == [
        (f"{tmp_path}/ALL/\\xff.png", "name"),
        (f"{tmp_path}/\\xe9/3.png", "name"),
    ]
    catalogue.table()


def test_a_folder_that_may_not_be_listed_is_named(tmp_path: Path, monkeypatch):
    fill(tmp_path, "ALL/1.png", "closed/2.png")
    scandir = os.scandir

    def refuse(folder: str):
        if folder.endswith("closed/"):
            raise PermissionError(13, "Permission denied", folder)
        return scandir(folder)

    monkeypatch.setattr(os, "scandir", refuse)  # root may list every folder
    (item,) = find_files(tmp_path).rejected
    assert (item.reason, item.detail) == ("unreadable", "folder: Permission denied")
    assert item.path.endswith("closed/")


NAMES = st.sampled_from(
    ["1.bmp", "2.PNG", ".3.bmp", "a.txt", "Thumbs.db", "SYNTHETIC.json", "im", "img", "ALL",
     "healthy", "@eaDir", ".Trash-1000", "Im001_1.jpg", "Im002_0.tif", "UID_1_1_1_all.bmp"]
)  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(st.sets(st.lists(NAMES, min_size=1, max_size=4).map("/".join), max_size=12), st.data())
def test_files_in_are_images_and_rejected_and_skipped(tmp_path_factory, places: set[str], data):
    """Whatever tree of files, folders and links between them; no file twice."""
    root = tmp_path_factory.mktemp("tree")
    for place in sorted(places):
        file = root / place
        if not any(parent.is_file() for parent in file.parents) and not file.exists():
            file.parent.mkdir(parents=True, exist_ok=True)
            file.touch()
    every = {path for path in root.rglob("*") if path.is_file()}
    folders = sorted(path for path in root.rglob("*") if path.is_dir())
    links = data.draw(st.lists(st.sampled_from([root, *folders])))
    for number, target in enumerate(links):
        data.draw(st.sampled_from([root, *folders])).joinpath(f"link{number}").symlink_to(target)
    found = find_files(root, ["SYNTHETIC.json"])
    listed = [*found.images, *(item.path for item in [*found.rejected, *found.skipped])]
    real = [Path(os.path.realpath(path)) for path in listed]
    assert {path for path in real if path.is_file()} == every
    linked = [path for path in listed if Path(path).is_dir()]
    assert len(set(linked)) == len(linked)
    hidden = re.compile(r"/(\.|@eaDir/)")  # a link into what is skipped shows it
    for link in root.rglob("link*"):
        assert str(link) in linked or hidden.search(f"{link.resolve()}/")
    images = [os.path.realpath(path) for path in found.images]
    assert len(set(images)) == len(images)
    for layout in ("c-nmc", "all-idb", "all-idb1"):
        try:
            catalogue = read_layout(layout, root)
        except UserError:  # nothing fits
            continue
        parts = (catalogue.rows, catalogue.rejected, catalogue.skipped)
        assert sum(map(len, parts)) == len(listed)
