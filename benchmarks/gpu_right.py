"""Parts of benchmarks/gpu.py that compare a GPU's results with the CPU's.

Tolerances: a training in float64 must repeat to 1e-6, which shows that both devices compute the
same thing. In float32 rounding grows with every step, so a device may lie three times as far from
the CPU as float32 lies from float64 on the CPU itself, measured in the same run (at least 1e-4).
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch
from gpu_common import Bench, recipe_of, tf32, train_briefly
from results import Result

from leuk_ray.augment.params import POLICIES
from leuk_ray.augment.policies import apply, augment_tensors
from leuk_ray.augment.settings import AugmentSettings

ROOT = Path(__file__).parents[1]
CPU = torch.device("cpu")
EVERYTHING = ["ema_decay=0.9", "clip_grad_norm=1.0", "accumulate=2"]


def tests(bench: Bench) -> None:
    """The unit tests that are marked `gpu`."""
    files = [
        str(f) for f in sorted(ROOT.glob("tests/unit/**/test_*.py")) if "mark.gpu" in f.read_text()
    ]
    command = [sys.executable, "-m", "pytest", "-v", "-m", "gpu", *files]
    environment = os.environ | {"PYTHONUNBUFFERED": "1"}
    outcomes = {"PASSED": 0, "FAILED": 0, "ERROR": 0, "SKIPPED": 0}
    with subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            print(line, end="", flush=True)
            name, _, outcome = line.partition(" ")
            outcome = outcome.split(" ")[0]
            if "::" in name and outcome in outcomes:  # a summary's lines begin with the outcome
                outcomes[outcome] += 1
                bench.findings.note(f"{name.rpartition('/')[2]}: {outcome.lower()}")
    failed = outcomes["FAILED"] + outcomes["ERROR"]
    bench.findings.add(
        Result("tests marked gpu: failed", [failed], 0, "tests", "less"),
        Result("tests marked gpu: passed", [outcomes["PASSED"]], unit="tests"),
    )


def losses(bench: Bench) -> None:
    """Losses of 20 steps, a step an epoch through the real loop, GPU against CPU.

    Without augmentation, which has a part of its own: its pixels are float32 on both devices.
    """
    num, steps = bench.size(16, 4), bench.size(20, 3)
    trials = {"lite": [], "V2-S": [], "SE-CNN": [], "lite, EMA, clipped, 2 passes": EVERYTHING}
    for name, more in trials.items():
        side = 32 if name == "V2-S" else bench.size(64, 32)  # a CPU in float64 is slow
        cells = bench.cells(2 * num, side)
        changes = [
            f"epochs={steps}",
            f"batch_size={num}",
            "balance=none",
            "policy=none",
            "lr=1e-4",
            *more,
        ]
        recipe = recipe_of(name.split(",")[0], side, *changes)

        def trained(
            device: torch.device, dtype: torch.dtype, recipe=recipe, cells=cells
        ) -> np.ndarray:
            _, history = train_briefly(recipe, device, *cells, num, dtype)
            return np.asarray([[m["train_loss"], m["validation_loss"]] for m in history])

        with tf32(False):
            exact = trained(CPU, torch.float64)
            rounded = trained(CPU, torch.float32)
            same = _apart(trained(bench.device, torch.float64), exact)
            own = _apart(trained(bench.device, torch.float32), rounded)
        floor = _apart(rounded, exact)
        default = _apart(trained(bench.device, torch.float32), rounded)
        goal = max(1e-4, 3 * floor)
        bench.findings.add(
            Result(
                f"{name}: losses of {steps} steps from the CPU's, float64",
                [same],
                1e-6,
                better="less",
            ),
            Result(f"{name}: the same, float32 without TF32", [own], goal, better="less"),
            Result(f"{name}: the same, PyTorch's default (TF32)", [default]),
            Result(f"{name}: float32 from float64 on the CPU", [floor]),
        )


def _apart(ours: np.ndarray, theirs: np.ndarray) -> float:
    """Largest difference, relative to losses of about 1."""
    return float((np.abs(ours - theirs) / np.maximum(1, np.abs(theirs))).max())


def augment(bench: Bench) -> None:
    """Pixels of every policy and fill, GPU against CPU, in levels of 0..255."""
    pixels, _ = bench.cells(bench.size(64, 4), bench.size(300, 48))
    images = torch.from_numpy(pixels).permute(0, 3, 1, 2)
    keys = np.arange(len(pixels), dtype=np.uint64)
    for policy in POLICIES:
        for fill in ("black", "reflect"):
            settings = AugmentSettings(policy=policy, fill=fill)
            params = augment_tensors(
                settings, seed=0, keys=keys, copy_index=keys, side=images.shape[-1]
            )
            assert params is not None
            theirs = apply(images, params, fill)
            ours = apply(images.to(bench.device), params.to(bench.device), fill).cpu()
            far = (ours.round() - theirs.round()).abs()
            bench.findings.add(
                Result(
                    f"{policy}, {fill}: pixels from the CPU's",
                    [far.max().item()],
                    1,
                    "levels",
                    "less",
                ),
                Result(f"{policy}, {fill}: values that differ", [(far > 0).double().mean().item()]),
            )


def resume(bench: Bench) -> None:
    """Four epochs at once and in two halves; bit for bit where PyTorch is deterministic."""
    num, side = bench.size(64, 16), bench.size(96, 32)
    pixels, labels = bench.cells(num, side)
    trials = {"SE-CNN": [], "lite": EVERYTHING, "V2-S": ["precision=bf16"]}
    for network in bench.networks("V2-S", "SE-CNN", "lite"):
        more = trials[network]
        changes = [f"batch_size={bench.size(16, 4)}", "balance=none", *more]
        recipe = recipe_of(network, side, "epochs=4", *changes)
        for deterministic in (True, False):
            mode = "deterministic" if deterministic else "default"
            torch.use_deterministic_algorithms(deterministic)
            torch.backends.cudnn.deterministic = deterministic
            folder = bench.scratch / f"resume-{network}-{mode}"
            try:
                whole, history = train_briefly(
                    recipe, bench.device, pixels, labels, num // 4, save_to=folder
                )
                again, resumed = train_briefly(
                    recipe, bench.device, pixels, labels, num // 4, resume_from=folder / "epoch-2"
                )
            except RuntimeError as error:  # an operation that has no deterministic form
                bench.findings.note(f"{network}, {mode}: {str(error).splitlines()[0][:300]}")
                continue
            finally:
                torch.use_deterministic_algorithms(False)
                torch.backends.cudnn.deterministic = False
            pairs = zip(whole.model.parameters(), again.model.parameters(), strict=True)
            weights = max((a - b).abs().max().item() for a, b in pairs)
            loss = abs(history[-1]["train_loss"] - resumed[-1]["train_loss"])
            goal = 0 if deterministic else None
            bench.findings.add(
                Result(
                    f"{network}, {mode}: weights of a resumed run apart",
                    [weights],
                    goal,
                    better="less",
                ),
                Result(
                    f"{network}, {mode}: its last training loss apart", [loss], goal, better="less"
                ),
            )


def precision(bench: Bench) -> None:
    """Validation loss of `lite` in each precision, against float32's of the same seeds.

    A short training amplifies any rounding, so a difference is set beside what another seed makes.
    """
    side, seeds = bench.size(160, 32), range(bench.size(5, 2))
    pixels, labels = bench.cells(bench.size(384, 16), side)
    trials = {"bf16": ["precision=bf16"]}
    if bench.is_gpu:
        trials |= {"TF32": [], "fp16 with scaler": ["precision=fp16"]}
    else:
        bench.findings.note("fp16 and TF32: GPUs only, left out")

    def losses(*more: str) -> np.ndarray:
        batch, found = f"batch_size={bench.size(16, 4)}", []
        for seed in seeds:
            changes = ["epochs=4", batch, "balance=none", f"seed={seed}", *more]
            recipe = recipe_of("lite", side, *changes)
            _, history = train_briefly(recipe, bench.device, pixels, labels, len(labels) // 3)
            found.append(history[-1]["validation_loss"])
        return np.asarray(found)

    with tf32(False):
        exact = losses()
    spread = float(exact.std(ddof=1))
    bench.findings.add(
        Result("validation loss, float32", exact.tolist(), unit="nats"),
        Result("validation loss, float32: standard deviation over seeds", [spread], unit="nats"),
    )
    for name, more in trials.items():
        apart = losses(*more) - exact
        bench.findings.add(
            Result(f"validation loss, {name} less float32's", apart.tolist(), unit="nats"),
            Result(
                f"validation loss, {name}: mean difference, of that standard deviation",
                [abs(float(apart.mean())) / spread],
                1,
                better="less",
            ),
        )
