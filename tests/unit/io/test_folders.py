"""Folders that appear whole: one writer at a time, and a reader always finds the old or the new."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from leuk_ray.io.storage import directory_by_rename, write_bytes
from leuk_ray.utils.errors import UserError

_WRITER = """
import sys, time
from pathlib import Path
from leuk_ray.io.storage import directory_by_rename
with directory_by_rename(Path(sys.argv[1])) as folder:
    (folder / "half").write_text("of it")
    print("writing", flush=True)
    time.sleep(60)
"""


def test_a_second_writer_is_refused_and_disturbs_nothing(tmp_path: Path):
    target = tmp_path / "my.dataset"
    with directory_by_rename(target) as folder:
        (folder / "one").write_text("1")
        with (
            pytest.raises(UserError, match=r"my\.dataset: another process is writing it"),
            directory_by_rename(target),
        ):
            pytest.fail("two writers")
        (folder / "two").write_text("2")
    assert sorted(path.name for path in target.iterdir()) == ["one", "two"]
    assert list(tmp_path.iterdir()) == [target]


def test_what_was_made_meanwhile_is_not_replaced(tmp_path: Path):
    target = tmp_path / "bundle"
    with directory_by_rename(target, new="bundle") as folder:
        (folder / "first").touch()
    with (
        pytest.raises(UserError, match="a bundle is never overwritten"),
        directory_by_rename(target, new="bundle"),
    ):
        pytest.fail("it is there")
    assert [path.name for path in tmp_path.rglob("*")] == ["bundle", "first"]


def test_a_killed_writer_leaves_what_was_there_and_the_next_one_cleans_up(tmp_path: Path):
    target = tmp_path / "bundle"
    with directory_by_rename(target) as folder:
        (folder / "old").touch()
    writer = subprocess.Popen(
        [sys.executable, "-c", _WRITER, str(target)], stdout=subprocess.PIPE, text=True
    )
    assert writer.stdout is not None
    assert writer.stdout.readline() == "writing\n"
    with pytest.raises(UserError, match="another process"), directory_by_rename(target):
        pytest.fail("two writers")
    os.kill(writer.pid, signal.SIGKILL)
    writer.wait(timeout=20)
    assert [path.name for path in target.iterdir()] == ["old"]
    with directory_by_rename(target) as folder:
        assert list(folder.iterdir()) == []
        (folder / "new").touch()
    assert [path.name for path in target.iterdir()] == ["new"]
    assert list(tmp_path.iterdir()) == [target]


def test_a_reader_always_finds_one_of_them_while_they_are_replaced(tmp_path: Path):
    target, done = tmp_path / "bundle", threading.Event()
    misses, reads = [], 0
    with directory_by_rename(target) as folder:
        (folder / "bundle.json").write_text("0")

    def replace() -> None:
        for number in range(300):
            with directory_by_rename(target) as folder:
                (folder / "bundle.json").write_text(str(number))
        done.set()

    writer = threading.Thread(target=replace)
    writer.start()
    while not done.is_set():
        reads += 1
        try:
            (target / "bundle.json").read_text()
        except FileNotFoundError as error:
            misses.append(error)
    writer.join()
    assert reads > 100
    assert not misses


def test_two_writers_of_one_file_leave_one_of_their_texts(tmp_path: Path):
    place, texts = tmp_path / "registry.json", [bytes([65 + n]) * 200_000 for n in range(4)]
    writers = [
        threading.Thread(target=lambda text=text: [write_bytes(place, text) for _ in range(20)])
        for text in texts
    ]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert place.read_bytes() in texts
    assert list(tmp_path.iterdir()) == [place]
