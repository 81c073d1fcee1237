"""A Ray of several nodes with a dashboard, until standard input closes. Run by job_cluster.py."""

import sys

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
for _ in range(num_nodes - 1):
    cluster.add_node(num_cpus=cpus)
cluster.wait_for_nodes()
print("ready", cluster.address, cluster.head_node.get_temp_dir_path(), flush=True)
sys.stdin.read()
cluster.shutdown()
