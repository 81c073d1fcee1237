"""Sweeps as a user runs them: killed and resumed, in a population, over several workers."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import ray
import yaml

from leuk_ray.cluster import ray_cluster

TINY = {
    "recipe": "bukhari2022-se",
    "overrides": {
        "protocol": "subject-disjoint",
        "filters": [4, 8, 8],
        "input_size": 64,
        "balance": "none",
        "epochs": 4,
    },
    "metric": "validation_loss",
    "resources": {"cpus": 1},
}


def leuk_ray(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "leuk_ray", *map(str, arguments)]


def run(*arguments: object, timeout: int = 400) -> dict:
    done = subprocess.run(
        leuk_ray(*arguments, "--json"), capture_output=True, text=True, timeout=timeout, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("synthetic")
    run("synth", folder / "cells", "--cells", 60, "--subjects", 12)
    run("prepare", folder / "cells", folder / "dataset", "--layout", "c-nmc", "--size", 64)
    return folder / "dataset"


def write(folder: Path, **changes) -> Path:
    path = folder / "sweep.yaml"
    path.write_text(yaml.safe_dump(TINY | changes))
    return path


def lines(out: Path) -> list[dict]:
    table = out / "runs.jsonl"
    return [json.loads(line) for line in table.read_text().splitlines()] if table.exists() else []


@pytest.mark.timeout(1200)
def test_a_killed_sweep_goes_on_and_ends_as_the_unbroken_one(dataset: Path, tmp_path: Path):
    grid = {"lr": {"choice": [3e-3, 1e-3, 3e-4, 1e-4]}, "batch_size": {"choice": [8, 16]}}
    sweep = write(tmp_path, search=grid, searcher="grid", top=2)
    unbroken = run("tune", sweep, "--data", dataset, "--out", tmp_path / "unbroken")
    out = tmp_path / "broken"
    command = leuk_ray("tune", sweep, "--data", dataset, "--out", out)
    driver = subprocess.Popen(command, start_new_session=True, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 300
    while len(lines(out)) < 3 and time.monotonic() < deadline:
        time.sleep(0.2)
    os.killpg(driver.pid, signal.SIGKILL)  # the driver and the Ray that it started
    driver.wait()
    before = lines(out)
    assert 3 <= len(before) < 8, "killed in the middle"
    resumed = run("tune", sweep, "--data", dataset, "--out", out, "--resume")
    after = lines(out)
    assert after[: len(before)] == before
    assert sorted(line["name"] for line in after) == [f"{n:03d}" for n in range(8)]
    for ours, theirs in zip(resumed["leaderboard"], unbroken["leaderboard"], strict=True):
        assert ours["overrides"] == theirs["overrides"]
        assert ours["mean"] == pytest.approx(theirs["mean"], abs=1e-6)
    assert resumed["winner"] == unbroken["winner"]


@pytest.mark.timeout(600)
def test_in_a_population_losers_take_weights_and_a_changed_rate_of_winners(
    dataset: Path, tmp_path: Path
):
    sweep = write(
        tmp_path,
        search={"lr": {"log_uniform": [1e-7, 1e-2]}},
        scheduler={"kind": "pbt", "interval": 1},
        trials=4,
        overrides=TINY["overrides"] | {"epochs": 5, "schedule.kind": "cosine"},
    )
    report = run("tune", sweep, "--data", dataset, "--out", tmp_path / "out")
    runs = {line["name"]: line for line in report["runs"]}
    assert len(runs) == 4
    assert report["counts"]["failed"] == 0
    steps = [(name, step) for name, line in runs.items() for step in line["lineage"]["steps"]]
    assert steps
    for name, step in steps:
        assert step["from"] != name
        old, new = step["changed"]["training.lr"]
        assert old != new or old in (1e-7, 1e-2), "only at a bound may a change be cut off"
        assert 1e-7 <= new <= 1e-2
    assert all(len(line["curve"]) == 5 for line in runs.values())


@pytest.fixture
def own_ray():
    """A Ray that outlives the command, to see what that leaves there."""
    ray_cluster.connect(num_workers=3)
    yield ray.get_runtime_context().gcs_address
    ray.shutdown()


@pytest.mark.timeout(400)
def test_runs_of_two_workers_are_placed_stopped_early_and_give_back_their_cpus(
    own_ray: str, dataset: Path, tmp_path: Path
):
    sweep = write(
        tmp_path,
        search={"lr": {"choice": [1e-4, 0.5]}},  # the second leaps out of all reason
        searcher="grid",
        scheduler={"kind": "asha", "grace": 1, "reduction": 2},
        resources={"workers": 2},
        top=1,
    )
    out = tmp_path / "out"
    report = run("tune", sweep, "--data", dataset, "--out", out, "--address", own_ray)
    assert report["leaderboard"][0]["overrides"] == {"training.lr": 1e-4}
    states = {line["name"]: (line["status"], len(line["curve"])) for line in report["runs"]}
    assert states["000"] == ("finished", 4)
    assert states["001"][0] == "stopped"
    assert states["001"][1] < 4
    assert (out / "top" / "1" / "bundle.json").exists()
    deadline = time.monotonic() + 30  # Ray Train looks after what was stopped once a second
    while ray.available_resources().get("CPU", 0) < ray.cluster_resources()["CPU"]:
        assert time.monotonic() < deadline, "a run that was stopped keeps its workers' CPUs"
        time.sleep(0.5)
