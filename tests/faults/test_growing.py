"""A run that needs more nodes than there are, on a cluster that adds them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import ray
from ray.autoscaler._private.fake_multi_node.node_provider import (
    FAKE_HEAD_NODE_ID,
    FakeMultiNodeProvider,
)
from ray.cluster_utils import Cluster

from leuk_ray.cluster import ray_cluster
from leuk_ray.training.trainer import run_training
from tests.support.hurting import history, recipe
from tests.support.job_cluster import free_port

LISTS = (
    "setup_commands", "head_setup_commands", "worker_setup_commands", "initialization_commands",
    "head_start_ray_commands", "worker_start_ray_commands", "cluster_synced_files",
)  # fmt: skip


@pytest.fixture
def growing(undisturbed, tmp_path: Path, monkeypatch) -> Iterator[Cluster]:
    """A head with one CPU; Ray's autoscaler can add a node of two on this machine."""
    for name, value in {
        "RAY_FAKE_CLUSTER": "1",
        "RAY_enable_autoscaler_v2": "1",
        "AUTOSCALER_UPDATE_INTERVAL_S": "1",
        "RAY_CLOUD_INSTANCE_ID": FAKE_HEAD_NODE_ID,
        "RAY_OVERRIDE_NODE_ID_FOR_TESTING": FAKE_HEAD_NODE_ID,
        "RAY_NODE_TYPE_NAME": "ray.head.default",
    }.items():
        monkeypatch.setenv(name, value)
    port = free_port()
    address = f"{ray.util.get_node_ip_address()}:{port}"
    config = {
        "cluster_name": "growing",
        "max_workers": 1,
        "idle_timeout_minutes": 30,
        "provider": {
            "type": "external",  # Ray's wheel lacks the defaults of its type fake_multinode
            "module": f"{FakeMultiNodeProvider.__module__}.{FakeMultiNodeProvider.__name__}",
            "disable_node_updaters": True,  # nothing is to be installed over ssh
            "launch_multiple": True,
            "head_node_id": FAKE_HEAD_NODE_ID,
            "gcs_address": address,
        },
        "head_node_type": "ray.head.default",
        "available_node_types": {
            "ray.head.default": {"resources": {"CPU": 1}, "node_config": {}, "max_workers": 0},
            "worker": {"resources": {"CPU": 2}, "node_config": {}, "max_workers": 1},
        },
        "file_mounts": {},
        **dict.fromkeys(LISTS, ()),
    }
    (tmp_path / "autoscaling.json").write_text(json.dumps(config))
    head = {
        "num_cpus": 1,
        "include_dashboard": True,
        "dashboard_port": free_port(),
        "gcs_server_port": port,
        "autoscaling_config": str(tmp_path / "autoscaling.json"),
    }
    nodes = Cluster(initialize_head=True, head_node_args=head)
    ray_cluster.connect(nodes.address)
    yield nodes
    assert nodes.head_node is not None
    monitor = nodes.head_node.all_processes["monitor"][0].process.pid
    added = psutil.Process(monitor).children(recursive=True)
    ray.shutdown()
    nodes.shutdown()
    for process in added:
        if process.is_running():
            process.kill()


@pytest.mark.timeout(400)
def test_what_is_wanting_is_waited_for(growing: Cluster, undisturbed, tmp_path: Path, capsys):
    assert ray.cluster_resources()["CPU"] == 1
    out = tmp_path / "run"
    run_training(recipe(), undisturbed.dataset, out, workers=2)
    said = capsys.readouterr().err
    assert "needs 2 CPUs and 1 for Ray Data, 3 in all; the cluster has 1 so far" in said
    assert ray.cluster_resources()["CPU"] == 3
    assert {line["workers"] for line in history(out)} == {2}
