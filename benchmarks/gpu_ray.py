"""Parts of benchmarks/gpu.py that go through Ray and the command line, as a user does."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import ray
import torch
from gpu_common import Bench, recipe_of, train_briefly
from gpu_fast import make_bundle
from results import Result

from leuk_ray.cluster import ray_cluster

HERE = Path(__file__).parent


def _command(bench: Bench, name: str, *arguments: object) -> dict:
    """Run a leuk-ray command, note its seconds, and return what it says with --json."""
    started = time.monotonic()
    command = [sys.executable, "-m", "leuk_ray", name, *map(str, arguments), "--json"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    shown = " ".join([f"leuk-ray {name}", *(str(a) for a in arguments if str(a).startswith("--d"))])
    bench.findings.add(Result(shown.replace(" --data", ""), [time.monotonic() - started], unit="s"))
    return json.loads(done.stdout)


def end_to_end(bench: Bench) -> None:
    """Prepare, train, evaluate and predict through one Ray on the device; the same on the CPU."""
    ray_cluster.connect()
    os.environ["RAY_ADDRESS"] = ray.get_runtime_context().gcs_address
    gpus = ["--gpus"] * bench.is_gpu
    side, cells = bench.size(160, 32), bench.size(320, 64)
    folder = Path(tempfile.mkdtemp(dir=bench.scratch))
    images, dataset, run = folder / "cells", folder / "dataset", folder / "run"
    _command(bench, "synth", images, "--cells", cells)
    _command(bench, "prepare", images, dataset, "--layout", "c-nmc", "--size", side)
    train = ["train", "lite", f"input_size={side}", "--data", dataset, "--out"]
    _command(bench, *train, run, "epochs=3", *gpus)
    history = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    for name, epochs in (("first epoch", history[:1]), ("later epochs", history[1:])):
        rates = [epoch["images_per_second"] for epoch in epochs]
        bench.findings.add(Result(f"leuk-ray train, {name}", rates, unit="images/s"))
    waited = sum(epoch["data_wait_seconds"] for epoch in history[1:])
    spent = sum(epoch["seconds"] for epoch in history[1:])
    bench.findings.add(
        Result("leuk-ray train, later epochs: share waited for pixels", [waited / spent])
    )
    tables = {"device": ["--workers", 1, *gpus], "cpu": []}
    for name, more in tables.items():
        _command(bench, "predict", run, images, "--out", folder / f"{name}.csv", *more)
    ours, theirs = (_probabilities(folder / f"{name}.csv") for name in tables)
    assert ours.keys() == theirs.keys()
    assert len(ours) == cells
    apart = max(abs(ours[path] - theirs[path]) for path in ours)
    bench.findings.add(
        Result("leuk-ray predict: probability from the CPU's", [apart], 1e-3, better="less")
    )
    _command(
        bench, "evaluate", run, "--data", dataset, "--out", folder / "again", "--workers", 1, *gpus
    )
    told = _command(bench, *train, folder / "none", "--dry-run", "--measure", *gpus)
    _memory(bench, told, side)


def _probabilities(table: Path) -> dict[str, float]:
    with table.open() as file:
        return {row["path"]: float(row["probability"]) for row in csv.DictReader(file)}


def _memory(bench: Bench, told: dict, side: int) -> None:
    """GPU memory of a dry run beside that of a training in this process."""
    if not bench.is_gpu:
        bench.findings.note("memory against the dry run: GPUs only, left out")
        return
    pixels, labels = bench.cells(64, side)
    torch.cuda.reset_peak_memory_stats()
    train_briefly(
        recipe_of("lite", side, "epochs=1", "balance=none"), bench.device, pixels, labels, 16
    )
    peak = torch.cuda.max_memory_allocated() - pixels.nbytes
    bench.findings.add(
        Result(
            "GPU memory: a dry run's, of a training's without its pixels",
            [told["bytes"]["worker"] / peak],
        )
    )


def loaders(bench: Bench) -> None:
    """Resident, host and streamed loaders deliver the same batches; images/s (loaders.py)."""
    sizes = ["--cells", str(bench.size(512, 128)), "--repeats", str(bench.size(2, 1))]
    _benchmark(bench, "loaders", *sizes)


def serve(bench: Bench) -> None:
    """Requests/s over HTTP with the network on the device (benchmarks/serve.py)."""
    clients = ["--clients", *map(str, (16, 64) if bench.is_gpu else (2,))]
    bundle = str(make_bundle(bench))
    _benchmark(bench, "serve", "--bundle", bundle, "--seconds", str(bench.size(6, 2)), *clients)


def _benchmark(bench: Bench, name: str, *arguments: str) -> None:
    """Run another benchmark on the device and keep its results."""
    results = bench.scratch / f"{name}-results.json"
    command = [sys.executable, str(HERE / f"{name}.py"), *arguments]
    command += ["--device", bench.device.type, "--results", str(results)]
    subprocess.run(command, check=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    bench.findings.extend(json.loads(results.read_text()))
