"""One file a node: written once, by whoever comes first, and never half."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from leuk_ray.datasets import host_cache
from leuk_ray.datasets.host_cache import open_host_cache
from leuk_ray.datasets.prepared import PreparedDataset
from leuk_ray.utils.errors import StorageError

IMAGE_BYTES = 16 * 16 * 3
NEEDED = 123 * IMAGE_BYTES

OPENER = """
import resource, sys, time
from pathlib import Path
import numpy as np
from leuk_ray.datasets import host_cache
from leuk_ray.datasets.prepared import PixelReader, PreparedDataset
from leuk_ray.utils.errors import StorageError

dataset, folder, mode = PreparedDataset.open(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
host_cache._WRITE_BYTES = 10 * 768
read, writes = PixelReader.read, []

def slow_read(self, rows, out=None):
    if rows[0] == 0:
        writes.append(1)
    if mode == "hang" and rows[0] == 100:
        print("writing", flush=True)
        time.sleep(120)
    time.sleep(0.05)
    return read(self, rows, out)

PixelReader.read = slow_read
if mode == "full":
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
print("ready", flush=True)
sys.stdin.readline()
try:
    cache = host_cache.open_host_cache(dataset, folder)
except StorageError as error:
    sys.exit(f"refused: {error}")
print(len(writes), int(cache.read(np.arange(len(cache))).astype(np.int64).sum()), flush=True)
"""


class Opener:
    """Another process that opens the cache when told to."""

    def __init__(self, dataset: PreparedDataset, folder: Path, mode: str = "") -> None:
        command = [sys.executable, "-c", OPENER, dataset.location, str(folder), mode]
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True)
        assert self.line() == "ready"

    def line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def start(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name != "lock")


def disk_with(free: int, monkeypatch) -> None:
    monkeypatch.setattr(host_cache.shutil, "disk_usage", lambda path: SimpleNamespace(free=free))


def test_it_reads_what_the_dataset_holds(numbered_dataset, folder, monkeypatch):
    monkeypatch.setattr(host_cache, "_WRITE_BYTES", 10 * IMAGE_BYTES)  # 13 writes, the last of 3
    cache = open_host_cache(numbered_dataset, folder)
    reader = numbered_dataset.reader()
    assert len(cache) == len(reader) == 123
    for rows in ([0, 122, 7, 7, 119, 120], [], list(range(123))):
        wanted = np.asarray(rows, np.int64)
        assert np.array_equal(cache.read(wanted), reader.read(wanted))
    assert names(folder) == [f"{numbered_dataset.pixels_key()}.arrow"]


def test_the_writer_holds_a_few_images_in_memory(store_pixels, tmp_path, folder):
    """64 MB of pixels, 1 MB at a time: in a process of its own, whose peak is its own."""
    dataset = store_pixels(tmp_path / "dataset", np.zeros((333, 256, 256, 3), np.uint8))
    code = f"""
from pathlib import Path
from resource import RUSAGE_SELF, getrusage
from leuk_ray.datasets import host_cache
from leuk_ray.datasets.prepared import PreparedDataset
host_cache._WRITE_BYTES = 2**20
dataset = PreparedDataset.open(Path({str(dataset.location)!r}))
dataset.reader().read(__import__("numpy").arange(8))
before = getrusage(RUSAGE_SELF).ru_maxrss
host_cache.open_host_cache(dataset, Path({str(folder)!r}))
print(getrusage(RUSAGE_SELF).ru_maxrss - before)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 16 * 1024  # kB


def test_of_two_processes_one_writes_and_both_read(numbered_dataset, folder):
    openers = [Opener(numbered_dataset, folder) for _ in range(2)]
    for opener in openers:
        opener.start()
    answers = [opener.process.communicate(timeout=60) for opener in openers]
    assert all(not errors for _, errors in answers), answers
    writes, sums = zip(*(map(int, answer.split()) for answer, _ in answers), strict=True)
    assert sorted(writes) == [0, 1]
    expected = int(numbered_dataset.reader().read(np.arange(123)).astype(np.int64).sum())
    assert set(sums) == {expected}


def test_a_writer_that_hangs_is_given_up_and_one_that_is_killed_blocks_nobody(
    numbered_dataset, folder, monkeypatch
):
    opener = Opener(numbered_dataset, folder, "hang")
    opener.start()
    try:
        assert opener.line() == "writing"
        assert [name.endswith(".partial") for name in names(folder)] == [True]
        monkeypatch.setattr(host_cache, "_PATIENCE_SECONDS", 0.5)
        with pytest.raises(StorageError, match="another process holds the lock and has written"):
            open_host_cache(numbered_dataset, folder)
    finally:
        opener.kill()
    assert [name.endswith(".partial") for name in names(folder)] == [True]
    assert len(open_host_cache(numbered_dataset, folder)) == 123
    assert names(folder) == [f"{numbered_dataset.pixels_key()}.arrow"]


def test_a_disk_that_fills_up_while_writing_leaves_nothing(numbered_dataset, folder):
    opener = Opener(numbered_dataset, folder, "full")
    opener.start()
    _, errors = opener.process.communicate(timeout=60)
    assert errors.startswith(f"refused: {folder}: the host cache cannot be kept there (File too")
    assert errors.count("\n") == 1
    assert names(folder) == []


def test_too_small_a_disk_is_refused_with_the_arithmetic(numbered_dataset, folder, monkeypatch):
    disk_with(2 * NEEDED - 2, monkeypatch)
    with pytest.raises(StorageError, match=r"take 0 MB of disk, .* may hold 0 MB more") as caught:
        open_host_cache(numbered_dataset, folder)
    assert "\n" not in str(caught.value)
    assert names(folder) == []
    disk_with(2 * NEEDED, monkeypatch)
    open_host_cache(numbered_dataset, folder)


def test_the_file_unused_for_longest_makes_room(store_pixels, tmp_path, folder, monkeypatch):
    """Three files of about 94 kB where two may lie; the mapped one stays."""
    datasets = []
    for number in range(4):
        pixels = np.full((123, 16, 16, 3), number, np.uint8)
        pixels[0, 0, 0, 0] = 200 + number
        datasets.append(store_pixels(tmp_path / f"set{number}", pixels))
    keys = [f"{dataset.pixels_key()}.arrow" for dataset in datasets]
    mapped = open_host_cache(datasets[0], folder)
    for number, dataset in enumerate(datasets[1:3]):
        open_host_cache(dataset, folder)
        os.utime(folder / keys[1 + number], (2000 - number, 2000 - number))
    os.utime(folder / keys[0], (1000, 1000))
    assert names(folder) == sorted(keys[:3])
    held = sum((folder / key).stat().st_size for key in keys[:3])
    disk_with(2 * (held + NEEDED - 1) - held, monkeypatch)  # one byte too little for all four
    open_host_cache(datasets[3], folder)
    assert names(folder) == sorted([keys[0], keys[1], keys[3]])
    assert mapped.read(np.asarray([0]))[0, 0, 0, 0] == 200


def test_it_may_be_deleted_or_spoilt_at_any_time(numbered_dataset, folder):
    cache = open_host_cache(numbered_dataset, folder)
    before = cache.read(np.arange(123))
    path = next(folder.glob("*.arrow"))
    path.unlink()
    assert np.array_equal(cache.read(np.arange(123)), before)
    for spoilt in (b"", b"ARROW1\0\0", before.tobytes()[:50_000]):
        path.write_bytes(spoilt)
        assert np.array_equal(
            open_host_cache(numbered_dataset, folder).read(np.arange(123)), before
        )


def test_images_prepared_anew_are_cached_anew(store_pixels, tmp_path, folder):
    pixels = np.zeros((9, 16, 16, 3), np.uint8)
    first = store_pixels(tmp_path / "one", pixels)
    second = store_pixels(tmp_path / "two", pixels + 1)
    assert first.manifest["fingerprint"] == second.manifest["fingerprint"]
    assert open_host_cache(first, folder).read(np.arange(9)).max() == 0
    assert open_host_cache(second, folder).read(np.arange(9)).min() == 1


def test_a_folder_that_others_can_open_is_refused(numbered_dataset, folder):
    folder.mkdir()
    folder.chmod(0o755)
    with pytest.raises(StorageError, match="is open to other users"):
        open_host_cache(numbered_dataset, folder)
    folder.chmod(0o700)
    assert len(open_host_cache(numbered_dataset, folder)) == 123


def test_a_place_that_is_no_folder_is_refused(numbered_dataset, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match=r"cannot be kept there \(.*set TMPDIR"):
        open_host_cache(numbered_dataset, tmp_path / "file" / "cache")
