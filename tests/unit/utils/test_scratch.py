"""Temporary folders: gone with the process, also one that is killed."""

import subprocess
import sys
from pathlib import Path

import pytest

from leuk_ray.utils import scratch
from leuk_ray.utils.errors import UserError

_HOLD = """
import sys, time
from leuk_ray.utils import scratch
print(scratch.make("checkpoint"), flush=True)
{}
"""


@pytest.fixture(autouse=True)
def own_tmp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    monkeypatch.setattr(scratch, "_own", {})  # other tests of this process have made one
    return tmp_path


def process(end: str) -> tuple[subprocess.Popen[str], Path]:
    started = subprocess.Popen(
        [sys.executable, "-c", _HOLD.format(end)], stdout=subprocess.PIPE, text=True
    )
    assert started.stdout is not None
    return started, Path(started.stdout.readline().strip())


def test_a_process_that_ends_leaves_nothing():
    ended, folder = process("")
    ended.wait(timeout=20)
    assert not folder.parent.exists()


def test_a_killed_process_is_cleaned_up_after_and_a_living_one_is_left_alone(own_tmp: Path):
    living, used = process("time.sleep(60)")
    killed, left = process("time.sleep(60)")
    killed.kill()
    killed.wait(timeout=20)
    (left / "weights").write_bytes(b"0" * 1000)
    try:
        with scratch.temporary("upload") as folder:  # looks for what others left
            assert folder.is_dir()
            assert used.is_dir()
            assert not left.parent.exists()
        assert not folder.exists()
    finally:
        living.kill()
        living.wait(timeout=20)
    scratch.remove_own()
    scratch.remove_abandoned()
    assert list((own_tmp / scratch.user_folder().name / "scratch").iterdir()) == []


def test_a_folder_open_to_others_is_refused():
    scratch.user_folder().chmod(0o755)
    with pytest.raises(UserError, match="is open to other users"):
        scratch.make("checkpoint")
