"""Workers and drivers are killed in the middle of a run; it ends as if they had not been."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import ray
from hurting import SETTINGS, after_epoch, history, make_dataset, recipe, results, train_workers

from leuk_ray import cluster
from leuk_ray.datasets.prepared import PreparedDataset
from leuk_ray.runs.run import train_and_judge
from leuk_ray.training.trainer import run_training


@pytest.fixture(scope="module", autouse=True)
def local_ray():
    cluster.connect(num_workers=3)
    yield
    ray.shutdown()


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> PreparedDataset:
    return make_dataset(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def undisturbed(dataset, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "undisturbed"
    run_training(recipe(), dataset, out, workers=2)
    assert len(history(out)) == 4
    return out


@pytest.mark.timeout(280)
def test_two_killed_workers_in_a_row_change_no_number(undisturbed, dataset, tmp_path: Path):
    out = tmp_path / "run"

    def kill_one() -> None:
        os.kill(train_workers()[-1].pid, signal.SIGKILL)

    threads = [after_epoch(out, 1, kill_one), after_epoch(out, 3, kill_one)]
    report = train_and_judge(recipe(), dataset, out, workers=2)
    for thread in threads:
        thread.join(timeout=10)
    assert results(out) == results(undisturbed)
    lines = [json.loads(x) for x in (out / "interruptions.jsonl").read_text().splitlines()]
    assert len(lines) == 2
    assert all(line["lost_workers"] for line in lines)
    notes = [note for note in report["run"]["notes"] if note.startswith("Interrupted at")]
    assert len(notes) == 2, "the report lists them"


@pytest.mark.timeout(280)
def test_a_killed_driver_resumes_to_the_same_numbers(undisturbed, dataset, tmp_path: Path):
    out = tmp_path / "run"
    words = ["train", "lite", "--data", dataset.location, "--out", str(out), "--workers", "2"]
    driver = subprocess.Popen(
        [sys.executable, "-m", "leuk_ray.cli", *words, *SETTINGS],
        env=os.environ | {"RAY_ADDRESS": ray.get_runtime_context().gcs_address},
        stderr=subprocess.PIPE,
        text=True,
    )
    after_epoch(out, 2, driver.kill).join(timeout=210)
    assert driver.wait(timeout=10) == -signal.SIGKILL, driver.communicate()[1]
    assert 2 <= len(history(out)) < 4
    deadline = time.monotonic() + 60
    while train_workers() and time.monotonic() < deadline:
        time.sleep(0.5)
    run_training(recipe(), dataset, out, workers=2, resume=True)
    assert results(out) == results(undisturbed)
