"""Nodes are lost and come in the middle of a run."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
from ray._private.node import Node
from ray.cluster_utils import Cluster
from ray.train import ScalingConfig, get_checkpoint

from leuk_ray.cluster import ray_cluster
from leuk_ray.datasets.plan import plan_epoch, uid_keys
from leuk_ray.datasets.splits import split_cells
from leuk_ray.training import collective, loop, trainer
from leuk_ray.training.attempts import attempts, interruptions
from leuk_ray.training.cells import TrainingCells
from leuk_ray.training.trainer import run_training
from leuk_ray.workflows.train import train_and_evaluate
from tests.support.hurting import (
    EPOCHS,
    after_epoch,
    checkpoints_that_count,
    history,
    recipe,
    results,
    train_workers,
    when,
)
from tests.support.job_cluster import free_port


@pytest.fixture
def nodes(undisturbed) -> Iterator[Cluster]:
    """A head that computes nothing, until nodes are added."""
    head = {"num_cpus": 0, "include_dashboard": True, "dashboard_port": free_port()}
    # Without hooks at exit, which only a main thread can set: a thread adds a node.
    many = Cluster(initialize_head=True, head_node_args=head, shutdown_at_exit=False)
    yield many
    ray.shutdown()
    many.shutdown()


def a_training_node(nodes: Cluster) -> Node:
    hosts = {worker.node_id for worker in train_workers()}
    return next(node for node in nodes.worker_nodes if node.node_id in hosts)


def lose_a_node(nodes: Cluster) -> None:
    nodes.remove_node(a_training_node(nodes), allow_graceful=False)


def preempt_a_node(nodes: Cluster) -> None:
    """As a cloud takes back a machine: notice first, and at the deadline it is gone."""
    node, seconds = a_training_node(nodes), 10
    words = [
        f"--address={nodes.address}", f"--node-id={node.node_id}", "--reason-message=spot",
        "--reason=DRAIN_NODE_REASON_PREEMPTION", f"--deadline-remaining-seconds={seconds}",
    ]  # fmt: skip
    subprocess.run([sys.executable, "-m", "ray.scripts.scripts", "drain-node", *words], check=True)
    time.sleep(seconds)
    nodes.remove_node(node, allow_graceful=False)


@pytest.mark.timeout(400)
def test_a_lost_node_changes_no_number(nodes: Cluster, undisturbed, tmp_path: Path):
    for _ in range(2):
        nodes.add_node(num_cpus=3)
    ray_cluster.connect(nodes.address)
    out = tmp_path / "run"
    after_epoch(out, 1, lambda: lose_a_node(nodes))
    run_training(recipe(), undisturbed.dataset, out, workers=2)
    assert len(nodes.worker_nodes) == 1
    assert results(out) == undisturbed.results
    (interruption,) = interruptions(out)
    assert interruption["lost_workers"]


def slow_worker(config: trainer.WorkerConfig) -> Any:
    """`train_worker`, slow enough to be met by a notice, until it goes on from a checkpoint."""
    if get_checkpoint() is None:
        random_parts = loop.random_parts

        def slowly(*args, **others):
            time.sleep(1)
            return random_parts(*args, **others)

        loop.random_parts = slowly
    return trainer.train_worker(config)


@pytest.mark.timeout(400)
def test_a_preempted_node_changes_no_number_and_is_listed(
    nodes: Cluster, undisturbed, tmp_path: Path, monkeypatch
):
    monkeypatch.setattr(trainer, "train_worker", slow_worker)
    # Which `connect` sets for a Ray on this machine alone, as the undisturbed run had.
    monkeypatch.delenv("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", raising=False)
    for _ in range(2):
        nodes.add_node(num_cpus=3)
    ray_cluster.connect(nodes.address)
    out = tmp_path / "run"
    taken = after_epoch(out, 1, lambda: preempt_a_node(nodes))
    report = train_and_evaluate(recipe(), undisturbed.dataset, out, workers=2)
    assert taken.wait(timeout=10)
    assert len(nodes.worker_nodes) == 1
    assert results(out) == undisturbed.results
    (interruption,) = interruptions(out)
    assert interruption["preempted"]
    assert interruption["lost_workers"]
    (note,) = [note for note in report.run.notes if note.startswith("Interrupted at")]
    assert "was lost, its node preempted" in note


# Elastic: where a run of this many workers stops in the middle of an epoch, until it is changed.
WAITS = {3: 1, 2: 2}


def recording_worker(config: trainer.WorkerConfig) -> Any:
    """`train_worker`, which writes down every use of a cell as it is trained on, in its order.

    uses/ATTEMPT-RANK.jsonl in the run's folder: keys and copy indices, a line for each step.
    """
    folder = Path(config.run) / "uses"
    folder.mkdir(exist_ok=True)
    random_parts, files = loop.random_parts, []

    def recorded(*args, keys: np.ndarray, copy_index: np.ndarray, **others):
        if not files:
            attempt = collective.from_rank_zero(len(attempts(config.run)) - 1)
            files.append(folder / f"{attempt}-{collective.rank()}.jsonl")
        with files[0].open("a") as file:
            file.write(json.dumps([keys.tolist(), copy_index.tolist()]) + "\n")
        epoch = int(copy_index[0]) >> 20
        workers = collective.world_size()
        begun = sum(1 for line in files[0].open() if json.loads(line)[1][0] >> 20 == epoch)
        if WAITS.get(workers) == epoch and begun == 3:
            (folder / f"waiting-{workers}").touch()
            time.sleep(250)
        return random_parts(*args, keys=keys, copy_index=copy_index, **others)

    loop.random_parts = recorded
    return trainer.train_worker(config)


def trained_on(run: Path, epoch: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Keys and copy indices of each step of a committed epoch, over workers of its last attempt."""
    starts = [attempt["epochs_done"] for attempt in attempts(run)]
    committed = max(number for number, start in enumerate(starts) if start <= epoch)
    steps: dict[int, list] = defaultdict(list)
    for file in sorted((run / "uses").glob(f"{committed}-*.jsonl")):  # by rank
        lines = [json.loads(line) for line in file.read_text().splitlines()]
        for step, line in enumerate(line for line in lines if line[1][0] >> 20 == epoch):
            steps[step].append(line)
    assert len(list((run / "uses").glob(f"{committed}-*"))) == attempts(run)[committed]["workers"]

    def whole(step: int, what: int) -> np.ndarray:
        return np.concatenate([np.asarray(part[what], np.uint64) for part in steps[step]])

    return [(whole(step, 0), whole(step, 1)) for step in range(len(steps))]


@pytest.mark.timeout(400)
def test_three_workers_two_and_three_again_lose_and_repeat_no_row(
    nodes: Cluster, undisturbed, tmp_path: Path, monkeypatch
):
    monkeypatch.setenv("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "15")  # not a minute
    for _ in range(3):
        nodes.add_node(num_cpus=1)
    ray_cluster.connect(nodes.address)
    out, dataset = tmp_path / "run", undisturbed.dataset
    monkeypatch.setattr(trainer, "train_worker", recording_worker)
    looks = partial(ScalingConfig, elastic_resize_monitor_interval_s=5)  # not every minute
    monkeypatch.setattr(trainer, "ScalingConfig", looks)

    def waits(workers: int, saved: int) -> bool:
        there = (out / "uses" / f"waiting-{workers}").exists()
        return there and checkpoints_that_count(out) == saved

    when(lambda: waits(3, saved=1), lambda: lose_a_node(nodes))
    when(lambda: waits(2, saved=2), lambda: nodes.add_node(num_cpus=1))
    report = train_and_evaluate(recipe(), dataset, out, workers=(2, 3))

    assert [attempt["workers"] for attempt in attempts(out)] == [3, 2, 3]
    assert [line["workers"] for line in history(out)] == [3, 2, *[3] * (EPOCHS - 2)]
    sizes = [(item["workers_before"], item["workers_after"]) for item in interruptions(out)]
    assert sizes == [(3, 2), (2, 3)]
    notes = [note for note in report.run.notes if note.startswith("Interrupted at")]
    assert "2 workers instead of 3" in notes[0]
    assert "3 workers instead of 2" in notes[1]

    cells = TrainingCells.of(dataset, split_cells(dataset.cells, recipe().split))
    keys = uid_keys(cells.uids)
    for epoch in range(EPOCHS):
        plan = plan_epoch(
            cells.train,
            cells.labels[cells.train],
            seed=recipe().seed,
            epoch=epoch,
            balance=recipe().training.balance,
            batch_size=recipe().training.batch_size,
        )
        steps = trained_on(out, epoch)
        assert len(steps) == len(plan)
        for step, (used, copy_index) in enumerate(steps):
            batch = slice(*plan.bounds[step : step + 2])
            assert used.tolist() == keys[plan.rows[batch]].tolist()
            assert copy_index.tolist() == plan.copy_index[batch].tolist()
