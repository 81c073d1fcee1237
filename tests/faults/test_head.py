"""The head is lost: its tables' server alone, with Redis behind it, or all of it."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray
from ray.cluster_utils import Cluster

from leuk_ray.training.attempts import interruptions
from leuk_ray.training.trainer import run_training
from tests.support.hurting import (
    EPOCHS,
    SETTINGS,
    after_epoch,
    checkpoints_that_count,
    history,
    recipe,
    results,
)
from tests.support.job_cluster import ROOT, JobCluster, free_port


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[str]:
    program = shutil.which("redis-server")
    if not program:
        pytest.skip("no redis-server on PATH: nothing for the head to keep its tables in")
    port = free_port()
    options = ["--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(tmp_path)]
    process = subprocess.Popen([program, *options], stdout=subprocess.DEVNULL)
    yield f"127.0.0.1:{port}"
    process.terminate()
    process.wait(timeout=10)


@pytest.fixture
def nodes(undisturbed, redis: str, monkeypatch) -> Iterator[Cluster]:
    """A head that computes nothing, and a node with an address of its own."""
    monkeypatch.setenv("RAY_REDIS_ADDRESS", redis)
    head = {"num_cpus": 0, "include_dashboard": True, "dashboard_port": free_port()}
    many = Cluster(initialize_head=True, head_node_args=head)
    many.add_node(num_cpus=4, node_ip_address="127.0.0.2")
    ray.init(address=many.address, _node_ip_address="127.0.0.2", log_to_driver=False)
    yield many
    ray.shutdown()
    many.shutdown()


@pytest.mark.timeout(400)
def test_a_run_does_not_notice_that_the_server_of_tables_was_killed(
    nodes: Cluster, undisturbed, tmp_path: Path
):
    (worker_node,) = nodes.worker_nodes
    assert ray.get_runtime_context().get_node_id() == worker_node.node_id, "the driver's node"
    out = tmp_path / "run"

    def kill_and_restart() -> None:
        assert nodes.head_node is not None
        nodes.head_node.kill_gcs_server()
        time.sleep(3)
        nodes.head_node.start_gcs_server()

    restarted = after_epoch(out, 1, kill_and_restart)
    run_training(recipe(), undisturbed.dataset, out, workers=2)
    assert restarted.is_set()
    assert results(out) == undisturbed.results
    assert interruptions(out) == []
    assert len([node for node in ray.nodes() if node["Alive"]]) == 2, (
        "the tables are those of before"
    )


@pytest.mark.timeout(400)
def test_a_job_submitted_again_after_the_head_was_lost_resumes(undisturbed, tmp_path: Path):
    out = tmp_path / "run"
    words = [
        "submit", "--name", "nightly", "--working-dir", ROOT,
        "train", "lite", "--data", undisturbed.dataset.location, "--out", out,
        "--workers", 2, "--resume", *SETTINGS,
    ]  # fmt: skip
    first = JobCluster(num_nodes=2, cpus=3)
    try:
        job = first.start(tmp_path, *words)
        while checkpoints_that_count(out) == 0:
            assert job.poll() is None, job.communicate()[1]
            time.sleep(0.2)
    finally:
        first.kill()
    _, said = job.communicate(timeout=60)
    assert job.returncode == 1, said
    assert "the cluster cannot be reached any more" in said
    assert "Traceback" not in said
    assert len(history(out)) < EPOCHS
    second = JobCluster(num_nodes=2, cpus=3)
    try:
        done = second.leuk_ray(tmp_path, *words)
    finally:
        second.stop()
    assert done.returncode == 0, done.stderr
    assert results(out) == undisturbed.results
    (interruption,) = interruptions(out)
    assert interruption["epochs_done"] >= 1
    assert (out / "report" / "report.json").exists()
