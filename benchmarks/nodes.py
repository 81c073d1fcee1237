"""What the driver and the controller of a run do as the number of nodes grows: CPU time.

    python benchmarks/nodes.py [--nodes 1 2 4 8] [--epochs 12] [--results F.json]

Each node is a raylet of its own on this machine, with one training worker; every worker gets as
many SYNTHETIC cells (64 px) of `lite`, so an epoch has as many steps on 8 nodes as on 1. Counted
from the end of the first epoch to the end of the last: CPU time of the driver (this process), of
Ray Train's controller, and of Ray's daemons. The nodes share this machine's cores, so that steps
last longer the more there are: what is done by the clock is given a second, not a step.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import ray
from processes import Usage, usage
from ray.cluster_utils import Cluster
from results import Result, finish

from leuk_ray.cluster import ray_cluster
from leuk_ray.datasets.images import StorageSettings
from leuk_ray.datasets.prepare import prepare
from leuk_ray.datasets.prepared import PreparedDataset
from leuk_ray.datasets.synthetic import SyntheticSpec, write_c_nmc
from leuk_ray.recipes.recipe import load_recipe
from leuk_ray.training.trainer import run_training

STEPS, BATCH = 6, 4  # of a worker and epoch; three quarters of the cells train
SETTINGS = [
    "weights=scratch", "input_size=64", "frozen_norm=none", "balance=none", "schedule.kind=cosine",
    "fractions=[0.75,0.125,0.125]",
]  # fmt: skip
CORES = 2  # of a node: a worker, and room for what reads


def make_dataset(folder: Path, nodes: int) -> PreparedDataset:
    cells = nodes * STEPS * BATCH * 4 // 3
    write_c_nmc(folder / "cells", SyntheticSpec(cells=cells, subjects=16))
    ray_cluster.connect()
    prepare(folder / "cells", folder / "dataset", "c-nmc", StorageSettings(size=64))
    ray.shutdown()
    return PreparedDataset.open(str(folder / "dataset"))


def measure(nodes: int, epochs: int, folder: Path) -> tuple[Usage, int]:
    """What was used from the end of the first epoch to that of the last; steps in between."""
    dataset = make_dataset(folder, nodes)
    head = {"num_cpus": CORES, "include_dashboard": True}
    many = Cluster(initialize_head=True, head_node_args=head)
    for _ in range(nodes - 1):
        many.add_node(num_cpus=CORES)
    ray.init(address=many.address, log_to_driver=False)
    marks: list[Usage] = []
    ended = threading.Event()

    def watch() -> None:
        metrics = folder / "run" / "metrics.jsonl"
        while len(marks) < epochs and not ended.is_set():
            done = len(metrics.read_text().splitlines()) if metrics.exists() else 0
            if done > len(marks):
                marks.extend([usage(os.getpid())] * (done - len(marks)))
            time.sleep(0.1)

    watching = threading.Thread(target=watch)
    watching.start()
    try:
        batch = f"batch_size={BATCH * nodes}"
        recipe = load_recipe("lite", [*SETTINGS, f"epochs={epochs}", batch])
        run_training(recipe, dataset, folder / "run", workers=nodes, evaluated=False)
    finally:
        ended.set()
        watching.join()
        ray.shutdown()
        many.shutdown()
    assert len(marks) == epochs, "the run ended before its last epoch"
    return marks[-1] - marks[0], STEPS * (epochs - 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--nodes", type=int, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--results", type=Path)
    options = parser.parse_args()
    os.environ.update(ray_cluster.LOCAL_ENVIRONMENT)
    spent: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory(prefix="leuk_ray-nodes-") as scratch:
        for nodes in options.nodes:
            folder = Path(scratch) / str(nodes)
            folder.mkdir()
            used, steps = measure(nodes, options.epochs, folder)
            print(f"{nodes} nodes, {used.at:.0f} s, {steps} steps; cores: {used}", file=sys.stderr)
            for role, name in (("driver", "driver"), ("controller", "controller of Ray Train")):
                milliseconds = 1000 * used.spent[role]
                spent.setdefault(f"{name}, ms a step", []).append(milliseconds / steps)
                spent.setdefault(f"{name}, ms a second", []).append(milliseconds / used.at)
            spent.setdefault("Ray's daemons, ms a second and node", []).append(
                1000 * used.spent["daemons"] / used.at / nodes
            )
    results = []
    for name, values in spent.items():
        results.append(Result(f"{name}: {options.nodes} nodes", values, unit="ms"))
        if len(options.nodes) > 1:
            slope, _ = np.polyfit(options.nodes, values, 1)
            results.append(Result(f"{name}: more for each node", [float(slope)], unit="ms"))
        print(f"{name}: {', '.join(f'{value:.2f}' for value in values)}", file=sys.stderr)
    finish(results, options.results)


if __name__ == "__main__":
    main()
