"""A node is lost in the middle of a run; it goes on on another and ends with the same numbers."""

from __future__ import annotations

from pathlib import Path

import pytest
import ray
from hurting import after_epoch, make_dataset, recipe, results, train_workers
from ray.cluster_utils import Cluster

from leuk_ray import cluster
from leuk_ray.training.attempts import interruptions
from leuk_ray.training.trainer import run_training


@pytest.fixture
def nodes():
    many = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": True})
    for _ in range(2):
        many.add_node(num_cpus=2)
    cluster.connect(many.address)
    yield many
    ray.shutdown()
    many.shutdown()


@pytest.mark.timeout(290)
def test_a_lost_node_changes_no_number(nodes: Cluster, tmp_path: Path):
    dataset = make_dataset(tmp_path)
    run_training(recipe(), dataset, tmp_path / "undisturbed", workers=2)
    out = tmp_path / "run"

    def lose_a_node() -> None:
        hosts = {worker.node_id for worker in train_workers()}
        lost = next(n for n in nodes.worker_nodes if n.node_id in hosts)
        nodes.remove_node(lost, allow_graceful=False)

    after_epoch(out, 1, lose_a_node)
    run_training(recipe(), dataset, out, workers=2)
    assert len(nodes.worker_nodes) == 1
    assert results(out) == results(tmp_path / "undisturbed")
    (interruption,) = interruptions(out)
    assert interruption["lost_workers"]
