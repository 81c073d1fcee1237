"""Workers and drivers are killed in the middle of a run; it ends as if they had not been."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray
import torch
from fsspec.implementations.local import LocalFileSystem
from pyarrow.fs import FSSpecHandler, PyFileSystem

from leuk_ray.cluster import ray_cluster
from leuk_ray.datasets.prepared import PreparedDataset
from leuk_ray.training import trainer
from leuk_ray.training.attempts import interruptions
from leuk_ray.training.trainer import run_training
from leuk_ray.workflows.train import train_and_evaluate
from tests.support.hurting import (
    EPOCHS,
    SETTINGS,
    after_epoch,
    checkpoints_that_count,
    history,
    kill_a_worker,
    recipe,
    results,
    train_workers,
    when,
)


@pytest.fixture(scope="module")
def dataset(undisturbed) -> Iterator[PreparedDataset]:
    ray_cluster.connect(num_workers=3)
    yield undisturbed.dataset
    ray.shutdown()


@pytest.mark.timeout(400)
def test_a_killed_worker_changes_no_number(undisturbed, dataset, tmp_path: Path):
    out = tmp_path / "run"
    after_epoch(out, 2, kill_a_worker)
    run_training(recipe(), dataset, out, workers=2)
    assert results(out) == undisturbed.results
    (interruption,) = interruptions(out)
    assert interruption["lost_workers"]
    assert (interruption["workers_before"], interruption["workers_after"]) == (2, 2)


@pytest.mark.timeout(400)
def test_two_killed_workers_in_a_row_change_no_number(undisturbed, dataset, tmp_path: Path):
    out = tmp_path / "run"
    killed = [after_epoch(out, 1, kill_a_worker), after_epoch(out, 3, kill_a_worker)]
    report = train_and_evaluate(recipe(), dataset, out, workers=2)
    assert all(event.is_set() for event in killed)
    assert results(out) == undisturbed.results
    assert [bool(item["lost_workers"]) for item in interruptions(out)] == [True, True]
    notes = [note for note in report.run.notes if note.startswith("Interrupted at")]
    assert len(notes) == 2, "the report lists them"


class StuckUpload(LocalFileSystem):
    """The first time the second epoch's weights come, a part is written, then nothing more.

    who: a file that then holds the pid of the process that writes.
    """

    cachable = False

    def __init__(self, who: str) -> None:
        super().__init__()
        self.who = Path(who)

    def _open(self, path, mode="rb", block_size=None, **options):
        file = super()._open(path, mode=mode, block_size=block_size, **options)
        if "w" in mode and str(path).endswith("epoch_0002/state.pt") and not self.who.exists():
            file.write(b"half")
            file.flush()
            self.who.write_text(str(os.getpid()))
            time.sleep(200)
        return file


@pytest.mark.timeout(400)
def test_a_checkpoint_whose_upload_was_cut_off_is_not_gone_on_from(
    undisturbed, dataset, tmp_path: Path, monkeypatch
):
    out, who = tmp_path / "run", tmp_path / "who"
    half = out / "checkpoints" / "epoch_0002" / "state.pt"
    files = PyFileSystem(FSSpecHandler(StuckUpload(str(who))))
    path = trainer.filesystem(out)[1]
    monkeypatch.setattr(trainer, "filesystem", lambda location: (files, path))
    left_behind = []

    def kill_the_writer() -> None:
        left_behind.append(half.read_bytes())
        os.kill(int(who.read_text()), signal.SIGKILL)

    when(
        lambda: who.exists() and who.read_text() != "" and checkpoints_that_count(out) == 1,
        kill_the_writer,
    )
    run_training(recipe(), dataset, out, workers=2)
    assert left_behind == [b"half"]
    (interruption,) = interruptions(out)
    assert interruption["epochs_done"] == 1, "the last whole checkpoint is the first epoch's"
    assert results(out) == undisturbed.results
    for state in (out / "checkpoints").glob("epoch_*/state.pt"):
        torch.load(state, weights_only=True)


@pytest.mark.timeout(400)
def test_a_killed_driver_resumes_to_the_same_numbers(undisturbed, dataset, tmp_path: Path):
    out = tmp_path / "run"
    words = ["train", "lite", "--data", dataset.location, "--out", str(out), "--workers", "2"]
    driver = subprocess.Popen(
        [sys.executable, "-m", "leuk_ray", *words, *SETTINGS],
        env=os.environ | {"RAY_ADDRESS": ray.get_runtime_context().gcs_address},
        stderr=subprocess.PIPE,
        text=True,
    )
    assert after_epoch(out, 2, driver.kill).wait(timeout=210)
    assert driver.wait(timeout=10) == -signal.SIGKILL, driver.communicate()[1]
    assert 2 <= len(history(out)) < EPOCHS
    deadline = time.monotonic() + 60
    while train_workers() and time.monotonic() < deadline:
        time.sleep(0.5)
    run_training(recipe(), dataset, out, workers=2, resume=True)
    assert results(out) == undisturbed.results
    (interruption,) = interruptions(out)
    assert interruption["lost_workers"] == [], "no worker was lost: the run was resumed"
