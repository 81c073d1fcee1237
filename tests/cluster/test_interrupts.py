"""Ctrl-C in a real command with a Ray of its own: what it says, leaves, and how it goes on."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from leuk_ray.datasets.synthetic import SyntheticSpec, write_c_nmc


def interrupted(words: list[str], when, tmp: Path) -> str:
    """Standard error of a command that gets SIGINT, as a terminal sends it, once `when()`."""
    environment = os.environ | {"TMPDIR": str(tmp), "LEUK_RAY_TEST": str(tmp)}
    with (tmp.parent / "stderr").open("w+") as stderr:
        process = subprocess.Popen(
            [sys.executable, "-m", "leuk_ray", *words],
            stderr=stderr,
            stdout=subprocess.DEVNULL,
            env=environment,
            start_new_session=True,
        )
        deadline = time.monotonic() + 90
        while not when():
            assert process.poll() is None, "it ended before it was interrupted"
            assert time.monotonic() < deadline
            time.sleep(0.05)
        os.killpg(process.pid, signal.SIGINT)
        pressed = time.monotonic()
        assert process.wait(timeout=30) == 130
        assert time.monotonic() - pressed < 10
        stderr.seek(0)
        output = stderr.read()
    assert "Traceback" not in output
    assert not [one for one in psutil.process_iter() if of_this(one, tmp)], "processes are left"
    return output


def of_this(process: psutil.Process, tmp: Path) -> bool:
    try:
        return process.environ().get("LEUK_RAY_TEST") == str(tmp)
    except psutil.Error:
        return False


@pytest.mark.timeout(300)
def test_prepare_and_train_are_interrupted_and_go_on(tmp_path: Path):
    tmp, cells, dataset, run = (tmp_path / name for name in ("tmp", "cells", "dataset", "run"))
    tmp.mkdir()
    write_c_nmc(cells, SyntheticSpec(cells=120, subjects=12))
    words = ["prepare", str(cells), str(dataset), "--layout", "c-nmc", "--size", "48"]
    output = interrupted(words, lambda: (tmp / "ray" / "session_latest").exists(), tmp)
    assert "interrupted. No partial output was left." in output
    assert not list(tmp_path.glob("dataset*"))
    command = [sys.executable, "-m", "leuk_ray", *words, "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=90)
    assert json.loads(done.stdout)["counts"]["rows"] == 120, done.stderr

    words = ["train", "bukhari2022-se", "--data", str(dataset), "--out", str(run)]
    words += ["protocol=subject-disjoint", "input_size=48", "balance=20", "epochs=400"]

    def trains() -> bool:  # and Ray Train has listed a checkpoint, which is after its upload
        listed = run / "checkpoints" / "checkpoint_manager_snapshot.json"
        return listed.exists() and "epoch_0001" in listed.read_text()

    output = interrupted(words, trains, tmp)
    assert f"interrupted. {run} is intact; run the same command with --resume" in output
    (folder,) = tmp.glob("leuk_ray-*/scratch")
    assert list(folder.iterdir()) == []
    epochs = len((run / "metrics.jsonl").read_text().splitlines())

    def trains_again() -> bool:
        return len((run / "attempts.jsonl").read_text().splitlines()) == 2

    interrupted([*words, "--resume"], trains_again, tmp)
    again = json.loads((run / "attempts.jsonl").read_text().splitlines()[-1])
    assert 0 < again["epochs_done"] <= epochs

    paper = tmp_path / "paper"
    words = ["experiment", "saeed2022", "--data", str(dataset), "--out", str(paper)]
    words += ["--scale", "tiny", "--models", "efficientnet-b0"]
    output = interrupted(words, (paper / "tune" / "trials").exists, tmp)
    assert f"interrupted. {paper} is intact; run the same command with --resume" in output
    assert list(folder.iterdir()) == []
