"""Seconds from `leuk-ray train` to its first step, beside an empty TorchTrainer.

    python benchmarks/start.py [--rounds 2] [--results F.json]

The peer (benchmarks/start_peer.py) starts Ray and a TorchTrainer of 2 workers whose loop imports
torch and reports once: Ray's own minimum. Both are clocked from the start of their process, ours
by what it says on stderr (the bar moves with the first step) and by the run's folder; then they
are ended. 96 SYNTHETIC cells, recipe `lite`. Also the seconds of `leuk-ray --help`.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import ray
from processes import stop
from results import Result, finish

from leuk_ray.cluster import ray_cluster
from leuk_ray.datasets.images import StorageSettings
from leuk_ray.datasets.prepare import prepare
from leuk_ray.datasets.synthetic import SyntheticSpec, write_c_nmc

WORKERS = 2
LIMIT_SECONDS = 240
STAGES = {  # what marks the end of a stage on stderr; the folder tells when the workers are there
    "imports and checks": "ray: starting",
    "Ray": "train: starting",
    "workers and network": "attempts.jsonl",
    "data and first step": "train: epoch",
}


def time_peer(scratch: Path) -> float:
    mark = Path(tempfile.mkdtemp(dir=scratch)) / "reported"
    command = [sys.executable, str(Path(__file__).with_name("start_peer.py")), str(mark)]
    started = time.monotonic()
    with subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL) as child:
        while not mark.exists():
            assert child.poll() is None or mark.exists(), "the empty TorchTrainer failed"
            assert time.monotonic() - started < LIMIT_SECONDS
            time.sleep(0.05)
        seconds = time.monotonic() - started
        assert child.wait() == 0
    return seconds


def time_ours(dataset: Path, scratch: Path) -> dict[str, float]:
    """Seconds of every stage of `leuk-ray train`."""
    run = Path(tempfile.mkdtemp(dir=scratch)) / "run"
    command = [sys.executable, "-m", "leuk_ray", "train", "lite", "--data", str(dataset)]
    command += ["--out", str(run), "--workers", str(WORKERS), "epochs=1", "fractions=[0.5,0.3,0.2]"]
    said = bytearray()
    started, ended, seconds = time.monotonic(), {}, {}
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL) as child:
        assert child.stderr is not None
        reading = threading.Thread(target=_read, args=(child.stderr.fileno(), said), daemon=True)
        reading.start()
        while len(ended) < len(STAGES):
            assert child.poll() is None, said.decode()[-2000:]
            assert time.monotonic() - started < LIMIT_SECONDS
            for stage, mark in STAGES.items():
                there = (run / mark).exists() if mark.endswith("jsonl") else mark.encode() in said
                if stage not in ended and there:
                    ended[stage] = time.monotonic()
            time.sleep(0.02)
        stop(child)
        reading.join()
    for stage, end in ended.items():
        seconds[stage] = end - started
        started = end
    return seconds


def _read(stream: int, said: bytearray) -> None:
    while data := os.read(stream, 65536):
        said.extend(data)


def time_help() -> float:
    started = time.monotonic()
    command = [sys.executable, "-m", "leuk_ray", "--help"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.monotonic() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--results", type=Path)
    options = parser.parse_args()
    helped = [time_help() for _ in range(options.rounds + 2)]
    ours, peer = [], []
    with tempfile.TemporaryDirectory(prefix="leuk_ray-start-") as folder:
        scratch = Path(folder)
        write_c_nmc(scratch / "cells", SyntheticSpec(cells=96, subjects=24))
        ray_cluster.connect()
        prepare(scratch / "cells", scratch / "dataset", "c-nmc", StorageSettings(size=160))
        ray.shutdown()
        for _ in range(options.rounds):
            peer.append(time_peer(scratch))
            ours.append(time_ours(scratch / "dataset", scratch))
            print(f"empty TorchTrainer {peer[-1]:.1f} s, {ours[-1]}", file=sys.stderr)
    totals = [sum(stages.values()) for stages in ours]
    results = [
        Result(
            "first step of `leuk-ray train`, of an empty TorchTrainer",
            [own / other for own, other in zip(totals, peer, strict=True)],
            1.3,
            better="less",
        ),
        Result("leuk-ray --help", [statistics.median(helped)], 0.5, "s", "less"),
        Result("empty TorchTrainer", peer, unit="s"),
    ]
    results += [
        Result(f"of the start: {name}", [s[name] for s in ours], unit="s") for name in STAGES
    ]
    finish(results, options.results)


if __name__ == "__main__":
    main()
