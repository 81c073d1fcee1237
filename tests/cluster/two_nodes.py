"""A Ray of two nodes with a dashboard, until standard input closes. Run by test_jobs.py."""

import sys

from ray.cluster_utils import Cluster

port, cpus = int(sys.argv[1]), int(sys.argv[2])
cluster = Cluster(
    initialize_head=True,
    head_node_args={
        "num_cpus": cpus,
        "include_dashboard": True,
        "dashboard_host": "127.0.0.1",
        "dashboard_port": port,
    },
)
cluster.add_node(num_cpus=cpus)
cluster.wait_for_nodes()
print("ready", cluster.head_node.get_temp_dir_path(), flush=True)
sys.stdin.read()
cluster.shutdown()
