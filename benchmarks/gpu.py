"""All that a GPU must show, right and fast, in one command of 8 minutes; every part alone too.

    python benchmarks/gpu.py [--only losses ...] [--out gpu-results] [--seconds 480]
    python benchmarks/gpu.py --device cpu     tries the wiring at tiny sizes: no figure counts

Needs one NVIDIA GPU. Parts run in processes of their own; OUT/table.md,
OUT/summary.json and a file for each part are written as results come. A part that fails or does
not fit into the time is named, the others go on, and the exit code is 1.
"""

from __future__ import annotations

import argparse
import importlib
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from parts import Findings, Part, findings_file, run_parts

# Part -> module, seconds it may take at most. Parts of gpu_right time nothing and run at once.
PARTS = {
    "tests": ("gpu_right", 150),
    "losses": ("gpu_right", 150),
    "augment": ("gpu_right", 60),
    "resume": ("gpu_right", 90),
    "precision": ("gpu_right", 90),
    "speed": ("gpu_fast", 120),
    "end_to_end": ("gpu_ray", 180),
    "split": ("gpu_fast", 40),
    "engines": ("gpu_fast", 80),
    "loader": ("gpu_fast", 60),
    "serve": ("gpu_ray", 150),
    "loaders": ("gpu_ray", 90),
    "compiled": ("gpu_fast", 150),
}


def facts(device: str) -> dict:
    """The machine: card, driver, versions."""
    from leuk_ray.utils.provenance import environment

    title = "CPU, tiny sizes: this only tries the wiring, no figure below is a GPU's"
    if device == "cuda":
        query = "--query-gpu=name,driver_version,memory.total"
        try:
            command = ["nvidia-smi", query, "--format=csv,noheader"]
            title = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        except (OSError, subprocess.CalledProcessError):
            title = "GPU; nvidia-smi does not answer, so the driver is unknown"
    title = title.strip()
    return {"device": title, "environment": environment()}


def run_part(name: str, device: str, out: Path, scratch: Path) -> None:
    """Run one part in this process."""
    import torch
    from gpu_common import Bench

    if device == "cuda":
        torch.zeros(1, device="cuda")  # fails here with PyTorch's reason where there is no GPU
    bench = Bench(
        torch.device(device), device == "cpu", scratch, Findings(findings_file(out, name))
    )
    getattr(importlib.import_module(PARTS[name][0]), name)(bench)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--out", type=Path, default=Path("gpu-results"))
    parser.add_argument("--seconds", type=float, default=480, help="for all parts")
    parser.add_argument("--child", choices=PARTS, help=argparse.SUPPRESS)
    parser.add_argument("--scratch", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        run_part(options.child, options.device, options.out, options.scratch)
        return
    # Deterministic cuBLAS wants it before CUDA starts; parts import leuk_ray from the checkout.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    root = str(Path(__file__).parents[1])
    os.environ["PYTHONPATH"] = os.pathsep.join(
        [root, *filter(None, [os.environ.get("PYTHONPATH")])]
    )
    with tempfile.TemporaryDirectory(prefix="leuk_ray-gpu-") as scratch:
        command = [sys.executable, __file__, "--device", options.device, "--out", str(options.out)]
        command += ["--scratch", scratch, "--child"]
        patience = 1 if options.device == "cuda" else 4  # CPUs are slow, even at tiny sizes
        parts = [
            Part(name, [*command, name], patience * limit, alone=module != "gpu_right")
            for name, (module, limit) in PARTS.items()
            if name in options.only
        ]
        outcomes = run_parts(parts, options.out, options.seconds, facts(options.device))
    print(f"\n{(options.out / 'table.md').read_text()}")
    missing = [outcome.part for outcome in outcomes if outcome.state != "done"]
    if missing:
        sys.exit(f"not done: {', '.join(missing)}; see {options.out}")


if __name__ == "__main__":
    main()
