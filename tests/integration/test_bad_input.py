"""What users and machines do wrong: each ends in one line or in a row of rejected.parquet."""

import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import ray
from PIL import Image

from leuk_ray.cli import main as cli
from leuk_ray.datasets.decoding import prepare_cell
from leuk_ray.datasets.images import BadImageError, StorageSettings
from leuk_ray.datasets.layouts import read_layout
from leuk_ray.datasets.prepare import prepare
from leuk_ray.datasets.prepared import PreparedDataset
from leuk_ray.utils.errors import UserError

NOBODY = 65534


def command(*arguments: object) -> list[str]:
    """A command in a process of its own, on the Ray of these tests."""
    return [sys.executable, "-m", "leuk_ray", *map(str, arguments)]


def on_this_ray() -> tuple[str, str]:
    return "--address", ray.get_runtime_context().gcs_address


def refused(capsys, monkeypatch, *arguments: object) -> str:
    """The one line of a command that the command line refuses."""
    monkeypatch.setattr(sys, "argv", ["leuk-ray", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    said = capsys.readouterr().err.splitlines()
    assert ended.value.code == 2
    assert len([line for line in said if line.startswith("leuk-ray: ")]) == 1, said
    return said[-1]


def picture(seed: int) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (40, 30, 3), np.uint8)
    return Image.fromarray(pixels)


def test_a_folder_with_everything_wrong(tmp_path: Path):
    folder = tmp_path / "cells" / "ALL"
    for name in ("ALL", "healthy"):
        (tmp_path / "cells" / name).mkdir(parents=True)
        picture(1 + len(name)).save(tmp_path / "cells" / name / "good.png")
    for kind in ("BMP", "JPEG", "PNG", "TIFF"):
        file = folder / f"cut_{kind}.{kind.lower()}"
        picture(9).save(file)
        file.write_bytes(file.read_bytes()[: int(0.7 * file.stat().st_size)])
    (folder / "zero.bmp").touch()
    (folder / "text.bmp").write_text("a letter")
    Image.new("I;16", (8, 8)).save(folder / "sixteen.png")
    Image.new("CMYK", (8, 8)).save(folder / "cmyk.jpg")
    Image.new("RGBA", (8, 8), (9, 9, 9, 100)).save(folder / "glass.png")
    for name in ("pages.tif", "moving.webp", "animated.png"):
        picture(2).save(folder / name, save_all=True, append_images=[picture(3)])
    Image.new("1", (30_000, 30_000)).save(folder / "bomb.png")
    with (folder / "huge.bmp").open("wb") as stream:
        stream.truncate(2**33)
    os.mkfifo(folder / "pipe.png")
    (folder / "broken.png").symlink_to("nowhere.png")
    (folder / "loop.png").symlink_to("loop.png")
    (folder / "round").symlink_to(tmp_path / "cells")
    shutil.copy(folder / "good.png", folder / "good.bmp")
    picture(4).convert("L").save(folder / "grey.png")
    picture(5).convert("P").save(folder / "palette.png")
    picture(6).convert("RGBA").save(folder / "alpha.png")
    turned = picture(7)
    exif = turned.getexif()
    exif[0x0112] = 6
    turned.save(folder / "turned.png", exif=exif)

    storage = StorageSettings(size=16, crop="full")
    manifest = prepare(tmp_path / "cells", tmp_path / "dataset", "folders", storage)
    dataset = PreparedDataset.open(tmp_path / "dataset")
    rejected = dataset.read_table("rejected.parquet").to_pylist()
    assert {Path(row["path"]).name: row["reason"] for row in rejected} == {
        "cut_BMP.bmp": "truncated",
        "cut_JPEG.jpeg": "truncated",
        "cut_PNG.png": "truncated",
        "cut_TIFF.tiff": "truncated",
        "zero.bmp": "empty",
        "text.bmp": "not_an_image",
        "sixteen.png": "pixel_type",
        "cmyk.jpg": "pixel_type",
        "glass.png": "transparent",
        "pages.tif": "several_frames",
        "moving.webp": "several_frames",
        "animated.png": "several_frames",
        "bomb.png": "too_large",
        "huge.bmp": "too_large",
        "pipe.png": "unreadable",
        "broken.png": "unreadable",
        "loop.png": "unreadable",
        "good.png": "uid_twice",
        "round": "link",
    }
    assert all(row["detail"] for row in rejected)
    rows = {row["uid"]: row for row in dataset.cells.to_pylist()}
    assert set(rows) == {
        "ALL/good", "ALL/grey", "ALL/palette", "ALL/alpha", "ALL/turned", "healthy/good"
    }  # fmt: skip
    assert (rows["ALL/turned"]["width"], rows["ALL/turned"]["height"]) == (40, 30)
    assert manifest["counts"]["files"] == len(rows) + len(rejected)


def test_a_killed_prepare_leaves_nothing_half_written_and_runs_again(
    cells_folder: Path, tmp_path: Path
):
    target = tmp_path / "dataset"
    typed = command("prepare", cells_folder, target, "--layout", "c-nmc", *on_this_ray())
    process = subprocess.Popen(typed, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    partial = target.with_name("dataset.partial")
    until = time.monotonic() + 120
    while not list(partial.glob("images/*.parquet")) and time.monotonic() < until:
        assert process.poll() is None, "it ended before it could be killed"
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    assert process.wait(timeout=30) == -signal.SIGKILL
    assert partial.exists()
    assert not target.exists()
    counts = prepare(cells_folder, target, "c-nmc", StorageSettings())["counts"]
    assert (counts["rejected"], counts["rows"]) == (0, 121)
    assert not partial.exists()
    dataset = PreparedDataset.open(target)
    assert dataset.reader().read(np.arange(121)).any(axis=(1, 2, 3)).all()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    place = tmp_path / "small"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(place)]
    try:
        done = subprocess.run(mount, capture_output=True, text=True)
    except FileNotFoundError:
        pytest.skip("there is no mount command")
    if done.returncode:
        pytest.skip(f"a file system may not be mounted here: {done.stderr.strip()}")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def test_a_full_disk_is_one_line_and_leaves_nothing(small_disk: Path, cells_folder: Path):
    target = small_disk / "dataset"
    typed = command("prepare", cells_folder, target, "--layout", "c-nmc", *on_this_ray())
    done = subprocess.run(typed, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2, done.stderr
    last = done.stderr.splitlines()[-1]
    assert last.startswith(f"leuk-ray: {target}: no room is left there")
    assert "Traceback" not in done.stderr
    assert not list(small_disk.iterdir())


def test_a_file_that_may_not_grow_is_one_line_and_leaves_nothing(dataset, tmp_path: Path):
    done = subprocess.run(
        command("split", dataset.location, "--out", tmp_path / "split.parquet"),
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000)),
        env=os.environ | {"PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 2, done.stderr
    assert "no room is left" in done.stderr
    assert done.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())


@pytest.fixture
def as_nobody() -> Iterator[None]:
    """The rest of a test runs as another user."""
    if os.geteuid():
        pytest.skip("only root can become another user")
    os.seteuid(NOBODY)
    yield
    os.seteuid(0)


@pytest.fixture
def others_files(cells_folder: Path) -> Iterator[tuple[Path, Path]]:
    """A folder that everybody may read, with one file that only its owner may."""
    root = Path("/tmp") / f"leuk_ray-others-{os.getpid()}"
    folder = root / "cells" / "training_data" / "fold_0" / "all"
    folder.mkdir(parents=True)
    for path in sorted(cells_folder.glob("training_data/fold_*/all/*.bmp"))[:2]:
        shutil.copy(path, folder)
    closed = min(folder.iterdir())
    closed.chmod(0o600)
    yield root, closed
    os.seteuid(0)
    shutil.rmtree(root)


def test_what_another_user_owns_is_named(others_files: tuple[Path, Path], as_nobody: None):
    root, closed = others_files
    rows = read_layout("c-nmc", root / "cells").table().to_pylist()
    assert len(rows) == 2
    for row in rows:
        if row["path"] == str(closed):
            with pytest.raises(BadImageError, match="unreadable: Permission denied"):
                prepare_cell(row, StorageSettings())
        else:
            assert prepare_cell(row, StorageSettings())["width"] == 450
    os.seteuid(0)
    (root / "cells" / "training_data").chmod(0o700)
    os.seteuid(NOBODY)
    with pytest.raises(UserError, match=r"none of 1 images fits.*Permission denied"):
        read_layout("c-nmc", root / "cells")
    os.seteuid(0)
    root.chmod(0o700)
    os.seteuid(NOBODY)
    with pytest.raises(UserError, match="may not be read by this user"):
        read_layout("c-nmc", root / "cells")
    with pytest.raises(UserError, match="cannot be"):
        PreparedDataset.open(root / "dataset")
    with pytest.raises(UserError, match="cannot be"):
        prepare(root / "cells", root / "dataset", "c-nmc", StorageSettings())


@pytest.mark.parametrize(
    ("wanted", "warning", "refusal"),
    [
        ("training_data/fold_*/all/*.bmp", "no cell is labelled healthy", "to split is healthy"),
        ("training_data/fold_*/hem/UID_H1_*.bmp", "no cell is labelled ALL", "to split is ALL"),
    ],
    ids=["one class", "one subject"],
)
def test_one_class_and_one_subject_are_prepared_audited_and_not_split(
    wanted: str, warning: str, refusal: str, cells_folder: Path, tmp_path: Path, capsys, monkeypatch
):
    for path in cells_folder.glob(wanted):
        copy = tmp_path / "cells" / path.relative_to(cells_folder)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, copy)
    target = tmp_path / "dataset"
    manifest = prepare(tmp_path / "cells", target, "c-nmc", StorageSettings(size=32))
    assert 0 in manifest["counts"]["classes"].values()
    monkeypatch.setattr(sys, "argv", ["leuk-ray", "audit", str(target)])
    cli.main()
    said = capsys.readouterr().out
    assert f"warning: {warning}: nothing can be split or trained" in said
    if "H1_" in wanted:
        assert manifest["counts"]["subjects"] == manifest["counts"]["groups"] == 1
        assert "one patient decides" in said
    for typed in (
        ("split", target, "--out", tmp_path / "split.parquet"),
        ("train", "lite", "--data", target, "--out", tmp_path / "run"),
    ):
        assert refusal in refused(capsys, monkeypatch, *typed)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cells", "dataset"]
