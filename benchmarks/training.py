"""`leuk-ray train` beside bare torchrun loops: 2 workers on CPU, the same cells, network and batch.

    python benchmarks/training.py [--networks lite] [--cells 480] [--rounds 2] [--results F.json]

Peers (benchmarks/ddp_peer.py): DistributedDataParallel over tensors in memory, and over BMP files
that a DataLoader decodes with Pillow. They have the settings that served them best: channels_last,
no broadcast of buffers, gradients as views of buckets, one thread a process, and glibc's allocator
told to keep its memory. They neither augment, validate nor report, `leuk-ray train` does. Each is
a process of its own; rounds go forwards and backwards through the contestants, so that a machine
that slows down treats all alike. A ratio is between rates of the training part of an epoch:
`leuk-ray train` in its first epoch, which streams, and in the later ones (metrics.jsonl), against
the peers after their first epoch. CPU time of Ray's daemons and of all other processes is read
from /proc meanwhile. Cells are rendered (SYNTHETIC).
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import ray
from processes import Usage, usage
from results import Result, finish, ratios

from leuk_ray.cluster import ray_cluster
from leuk_ray.datasets.images import StorageSettings
from leuk_ray.datasets.prepare import prepare
from leuk_ray.datasets.synthetic import SyntheticSpec, write_c_nmc
from leuk_ray.recipes.recipe import load_recipe

WORKERS = 2
NETWORKS = {"lite": "lite", "SE-CNN": "bukhari2022-se"}
SPLIT = ["protocol=subject-disjoint", "fractions=[0.8,0.1,0.1]", "balance=none"]
BEST = ray_cluster.LOCAL_ENVIRONMENT | {"OMP_NUM_THREADS": "1"}
CORES = os.cpu_count() or 1


@dataclass(frozen=True)
class Rates:
    """Images/s of a contestant: of its first epoch, and the median of the later ones.

    workers, daemons: cores that the training processes and Ray's daemons kept busy after the first
        epoch.
    others: cores that were busy with what does not belong to the contestant.
    """

    first: float
    later: float
    workers: float
    others: float
    daemons: float = 0.0


def ours(recipe: str, dataset: Path, epochs: int, scratch: Path) -> Rates:
    """`leuk-ray train` from its command line."""
    run = Path(tempfile.mkdtemp(dir=scratch)) / "run"
    command = [sys.executable, "-m", "leuk_ray", "train", recipe, "--data", str(dataset)]
    command += ["--out", str(run), "--workers", str(WORKERS), f"epochs={epochs}", *SPLIT]
    with subprocess.Popen(command, stdout=sys.stderr) as process:
        marks = _watch(run / "metrics.jsonl", epochs, process)
        assert process.wait() == 0, "leuk-ray train failed"
    history = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    rates = [epoch["images_per_second"] for epoch in history]
    spent = marks[-1] - marks[0]
    waited = ", ".join(f"{epoch['data_wait_seconds']:.2f}" for epoch in history)
    print(f"  cores busy after the first epoch: {spent}", file=sys.stderr)
    print(f"  seconds waited for pixels, by epoch: {waited}", file=sys.stderr)
    later = statistics.median(rates[1:])
    workers, others, daemons = map(spent.cores, ("workers", "others", "daemons"))
    return Rates(rates[0], later, workers, others, daemons)


def _watch(metrics: Path, epochs: int, process: subprocess.Popen) -> list[Usage]:
    """What had been used when each epoch was recorded."""
    marks: list[Usage] = []
    while len(marks) < epochs:
        assert process.poll() is None, "leuk-ray train ended early"
        done = len(metrics.read_text().splitlines()) if metrics.exists() else 0
        if done > len(marks):  # looking costs 10 ms of CPU time
            marks += [usage(process.pid)] * (done - len(marks))
        time.sleep(0.1)
    return marks


def peer(source: str, recipe: str, dataset: Path, epochs: int, scratch: Path) -> Rates:
    """benchmarks/ddp_peer.py under torchrun."""
    script = str(Path(__file__).with_name("ddp_peer.py"))
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command = [*launch, "--nproc-per-node", str(WORKERS), script, source, recipe, str(dataset)]
    command += [str(scratch / "cells"), str(epochs)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, env=os.environ | BEST, text=True
    ) as process:
        assert process.stdout is not None
        rates, marks = [], []
        for line in process.stdout:
            rates.append(float(line))
            marks.append(usage(process.pid))
    assert process.returncode == 0, "torchrun failed"
    spent = marks[-1] - marks[0]
    later = statistics.median(rates[1:])
    return Rates(rates[0], later, spent.cores("actors"), spent.cores("others"))


CONTESTANTS: dict[str, Callable[[str, Path, int, Path], Rates]] = {
    "DDP, in memory": lambda *given: peer("memory", *given),
    "leuk-ray train": ours,
    "DDP, DataLoader": lambda *given: peer("files", *given),
}


def race(recipe: str, dataset: Path, epochs: int, rounds: int, scratch: Path) -> dict:
    """The rates of every contestant, one a round."""
    found: dict[str, list[Rates]] = {name: [] for name in CONTESTANTS}
    for number in range(rounds):
        for name in list(CONTESTANTS)[:: -1 if number % 2 else 1]:
            rates = CONTESTANTS[name](recipe, dataset, epochs, scratch)
            found[name].append(rates)
            print(
                f"{recipe:15} {name:16} first {rates.first:6.1f}, later {rates.later:6.1f} "
                f"images/s; it kept {rates.workers:.2f} cores busy, others {rates.others:.2f}",
                file=sys.stderr,
            )
    return found


def evaluate(network: str, found: dict[str, list[Rates]]) -> list[Result]:
    own, bare, loader = (
        found[name] for name in ("leuk-ray train", "DDP, in memory", "DDP, DataLoader")
    )
    later, first = [rates.later for rates in own], [rates.first for rates in own]
    memory, files = ([rates.later for rates in peer] for peer in (bare, loader))
    without_daemons = [r.later / (1 - r.daemons / CORES) for r in own]
    return [
        ratios(f"{network}: later epochs, of DDP in memory", later, memory, 0.90),
        ratios(f"{network}: the same, daemons' CPU taken off", without_daemons, memory, 0.95),
        ratios(f"{network}: first epoch, of DDP in memory", first, memory, 0.80),
        ratios(f"{network}: later epochs, of DDP + DataLoader", later, files, 1),
        Result(
            f"{network}: CPU time an image in the workers, of DDP in memory",
            [(a.workers / a.later) / (b.workers / b.later) for a, b in zip(own, bare, strict=True)],
        ),
        Result(f"{network}: Ray's daemons", [r.daemons for r in own], unit="cores"),
        Result(f"{network}: later epochs", later, unit="images/s"),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--cells", type=int, default=480)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--results", type=Path)
    options = parser.parse_args()
    results: list[Result] = []
    with tempfile.TemporaryDirectory(prefix="leuk_ray-training-") as folder:
        scratch = Path(folder)
        write_c_nmc(scratch / "cells", SyntheticSpec(cells=options.cells, subjects=24))
        for network in options.networks:
            recipe, dataset = NETWORKS[network], scratch / f"{network}.dataset"
            size = load_recipe(recipe).model.input_size
            ray_cluster.connect()
            prepare(scratch / "cells", dataset, "c-nmc", StorageSettings(size=size))
            ray.shutdown()
            found = race(recipe, dataset, options.epochs, options.rounds, scratch)
            results += evaluate(network, found)
    finish(results, options.results)


if __name__ == "__main__":
    main()
