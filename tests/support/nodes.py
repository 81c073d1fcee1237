"""A Ray of several nodes with a dashboard, until standard input closes. Run by job_cluster.py."""

import contextlib
import sys
import tempfile

from ray.cluster_utils import Cluster

port, num_nodes, cpus = map(int, sys.argv[1:])
cluster = Cluster(
    initialize_head=True,
    head_node_args={
        "num_cpus": cpus,
        "include_dashboard": True,
        "dashboard_host": "127.0.0.1",
        "dashboard_port": port,
    },
)
with contextlib.ExitStack() as folders:
    for _ in range(num_nodes - 1):
        # A folder of its own, as on a machine of its own: each node unpacks a job's working
        # directory, and in a shared folder it would first remove the one the driver runs in.
        folder = tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp", ignore_cleanup_errors=True)
        cluster.add_node(num_cpus=cpus, temp_dir=folders.enter_context(folder))
    cluster.wait_for_nodes()
    assert cluster.head_node is not None
    print("ready", cluster.address, cluster.head_node.get_temp_dir_path(), flush=True)
    sys.stdin.read()
    cluster.shutdown()
