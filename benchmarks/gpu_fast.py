"""Parts of benchmarks/gpu.py that time a GPU: training and scoring, each beside its ceiling.

Contestants of a ratio take turns in one process; the first round warms up and does not count.
"""

from __future__ import annotations

import copy
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from augmentation import torchvision_policy
from gpu_common import (
    ArrayReader,
    Bench,
    as_training_cells,
    bare_step,
    make_learner,
    recipe_of,
    tf32,
    train_briefly,
)
from loaders import Files
from results import Result, ratios
from torch import Tensor
from torch._dynamo.utils import counters
from torch.nn import functional as F
from torch.utils.data import DataLoader, RandomSampler

from leuk_ray.augment.policies import apply, augment_tensors
from leuk_ray.datasets.images import StorageSettings
from leuk_ray.datasets.loaders import ReaderLoader, ResidentLoader
from leuk_ray.datasets.synthetic import SyntheticSpec, write_c_nmc
from leuk_ray.inference.classifier import Classifier
from leuk_ray.inference.engines import Engine, PyTorchEngine
from leuk_ray.training.cells import EpochPlanner
from leuk_ray.training.loop import train_epoch
from leuk_ray.training.state import TrainingState

ROUNDS = 2
SIDES = {"V2-S": 300, "B3": 300, "SE-CNN": 224}
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
NAMES = {"fp32": "TF32 (PyTorch's default)", "bf16": "bf16"}
CPU = torch.device("cpu")


class Trained:
    """A network that the real loop trains on resident cells, an epoch of `images` at a time."""

    def __init__(
        self, bench: Bench, network: str, batch: int, images: int, precision: str, *more: str
    ) -> None:
        self.side = bench.size(SIDES[network], 32)
        pixels, self.labels = bench.cells(bench.size(256, 16), self.side)
        wanted = [f"batch_size={batch}", f"balance={images // 2}", f"precision={precision}", *more]
        self.recipe = recipe_of(network, self.side, *wanted)
        self.cells = as_training_cells(self.labels, 0)
        self.learner = make_learner(self.recipe, bench.device, torch.float32)
        self.images, self.batch, self.dtype = images, batch, DTYPES[precision]
        source = ReaderLoader(ArrayReader(pixels), bench.device)
        self.loader = ResidentLoader(source, self.cells.train, self.side, bench.device)

    def epoch(self) -> None:
        """One epoch."""
        state, recipe = TrainingState(), self.recipe
        train_epoch(
            self.learner,
            state,
            EpochPlanner(self.cells, recipe.training, recipe.seed),
            self.loader,
            recipe.augment,
            lambda _: None,
        )


class Bare:
    """The same network, optimizer and cells in a plain loop that does not augment."""

    def __init__(self, peer: Trained) -> None:
        self.peer = peer
        device = peer.learner.device
        self.learner = make_learner(peer.recipe, device, torch.float32)
        self.learner.start_epoch(0)
        self.labels = torch.from_numpy(peer.labels).float().to(device)

    def epoch(self) -> None:
        """As many images as the peer's epoch."""
        pixels = self.peer.loader.pixels
        for _ in range(self.peer.images // self.peer.batch):
            rows = torch.randint(len(pixels), (self.peer.batch,), device=pixels.device)
            images = pixels.index_select(0, rows).permute(0, 3, 1, 2)
            bare_step(self.learner, images, self.labels[rows], self.peer.dtype)


def race(bench: Bench, images: int, *epochs: Callable[[], None]) -> list[list[float]]:
    """Images/s of each contestant, one a round."""
    rates: list[list[float]] = [[] for _ in epochs]
    for number in range(ROUNDS + 1):
        for found, epoch in zip(rates, epochs, strict=True):
            rate = images / bench.seconds(epoch)
            if number:
                found.append(rate)
    return rates


def speed(bench: Bench) -> None:
    """Training images/s against a bare step on the same resident cells; memory at its fullest."""
    for precision in ("bf16", "fp32"):
        for network in bench.networks(*SIDES):
            for batch in (bench.size(128, 8), bench.size(16, 4)):
                images = bench.size(6 * 128 if batch > 16 else 12 * 16, 16)
                if bench.is_gpu:  # a graph's memory counts as allocated only while it is recorded
                    torch.cuda.reset_peak_memory_stats()
                trained = Trained(bench, network, batch, images, precision)
                trained.epoch()
                peak = torch.cuda.max_memory_allocated() / 1e9 if bench.is_gpu else 0.0
                bare = Bare(trained)
                launched = Trained(bench, network, batch, images, precision, "cuda_graph=false")
                own, one_by_one, peer = race(
                    bench, images, trained.epoch, launched.epoch, bare.epoch
                )
                name = f"{network}, {trained.side} px, batch {batch}, {NAMES[precision]}"
                bench.findings.add(
                    Result(f"{name}: training", own, unit="images/s"),
                    ratios(f"{name}: of a bare step", own, peer, 0.97),
                    ratios(f"{name}: the same without a CUDA graph", one_by_one, peer, 0.97),
                )
                if bench.is_gpu:
                    bench.findings.add(Result(f"{name}: memory", [peak], unit="GB"))
                del trained, launched, bare


class Marks:
    """Moments in the device's order of work; the seconds between them, summed by name."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self.passed: list[tuple[str, torch.Event]] = []

    def __call__(self, name: str) -> None:
        """What was started since the last mark belongs to `name`."""
        event = torch.Event(self.bench.device.type, enable_timing=True)
        event.record()
        self.passed.append((name, event))

    def milliseconds(self) -> dict[str, float]:
        """Of each name; `start` has none."""
        self.bench.finish()
        sums: dict[str, float] = {}
        for (_, before), (name, event) in zip(self.passed, self.passed[1:], strict=False):
            if name != "start":
                sums[name] = sums.get(name, 0.0) + before.elapsed_time(event)
        return sums


def split(bench: Bench) -> None:
    """A step by its phases, as CUDA events see them."""
    if not bench.is_gpu:
        bench.findings.note("CUDA events: GPUs only, the step runs but is not timed")
    for network in bench.networks("V2-S", "SE-CNN"):
        for batch in (bench.size(128, 4), bench.size(16, 2)):
            trained = Trained(bench, network, batch, 4 * batch, "bf16")
            trained.epoch()
            steps, learner, fill = bench.size(10, 1), trained.learner, trained.recipe.augment.fill
            marks = Marks(bench) if bench.is_gpu else lambda _: None
            labels = torch.from_numpy(trained.labels).float().to(bench.device)
            for step in range(2 * steps):  # the first half warms up
                if step == steps and bench.is_gpu:
                    marks = Marks(bench)
                rows = np.random.default_rng(step).integers(0, len(labels), batch)
                marks("start")
                (images,) = trained.loader.iter_batches([rows])
                marks("pixels")
                params = augment_tensors(
                    trained.recipe.augment,
                    seed=0,
                    keys=trained.cells.keys[rows],
                    copy_index=np.full(batch, step, np.uint64),
                    side=trained.side,
                )
                assert params is not None
                images = apply(images, params.to(bench.device), fill)
                marks("augment")
                log_odds = learner.class_logits(images, None)[:, 0]
                marks("forward")
                target = labels[torch.from_numpy(rows)]
                learner.backward(F.binary_cross_entropy_with_logits(log_odds, target))
                marks("backward")
                learner.step()
                marks("optimizer")
            if isinstance(marks, Marks):
                found = marks.milliseconds()
                name, total = f"{network}, batch {batch}, bf16, of a step", sum(found.values())
                shares = {phase: found[phase] / total for phase in found}
                bench.findings.add(
                    Result(f"{name}: augment", [shares.pop("augment")], 0.03, better="less"),
                    *[Result(f"{name}: {phase}", [share]) for phase, share in shares.items()],
                    Result(f"{name}: all", [total / steps], unit="ms"),
                )


def engines(bench: Bench) -> None:
    """Probabilities of the device's engine against the CPU's, and images/s by batch."""
    for network in bench.networks("V2-S", "SE-CNN", "lite"):
        side = bench.size(SIDES.get(network, 160), 32)
        pixels, labels = bench.cells(bench.size(128, 16), side)
        recipe = recipe_of(
            network, side, "epochs=2", f"batch_size={bench.size(16, 4)}", "balance=none"
        )
        learner, _ = train_briefly(recipe, bench.device, pixels, labels, len(labels) // 4)
        model = learner.eval_model.eval()
        device, cpu = PyTorchEngine(model, bench.device), PyTorchEngine(copy.deepcopy(model), CPU)
        exact = _probability(cpu, pixels)
        with tf32(False):
            apart = {"float32 without TF32": (_probability(device, pixels), 1e-4)}
        apart["PyTorch's default (TF32)"] = (_probability(device, pixels), 1e-3)

        def in_bf16(batch: np.ndarray, engine: Engine = device) -> tuple[np.ndarray, np.ndarray]:
            with torch.autocast(bench.device.type, torch.bfloat16):
                return engine(batch)

        apart["bf16"] = (_probability(in_bf16, pixels), 1e-3)
        for name, (found, goal) in apart.items():
            worst = float(np.abs(found - exact).max())
            bench.findings.add(
                Result(
                    f"{network}, {name}: probability from the CPU's", [worst], goal, better="less"
                )
            )
        for batch in (1, 16, 128):
            many = np.resize(pixels, (batch, *pixels.shape[1:]))
            for name, engine in (("default", device), ("bf16", in_bf16)):
                calls = bench.size(max(8, 1024 // batch), 1)
                engine(many)
                times = [
                    bench.seconds(lambda: [engine(many) for _ in range(calls)])  # noqa: B023
                    for _ in range(ROUNDS)
                ]
                rates = [calls * batch / seconds for seconds in times]
                bench.findings.add(
                    Result(f"{network}, {name}, batch {batch}: scoring", rates, unit="images/s")
                )
    bundle = make_bundle(bench)
    pixels, _ = bench.cells(bench.size(32, 4), 224)
    scored = {
        name: Classifier.load(bundle, name, "auto").score(pixels).probability
        for name in ("cpu", bench.device.type)  # the CPU's is ONNX Runtime
    }
    worst = float(np.abs(scored["cpu"] - scored[bench.device.type]).max())
    bench.findings.add(
        Result("a bundle on the device, from ONNX Runtime's", [worst], 1e-3, better="less")
    )


def _probability(engine: Callable, pixels: np.ndarray) -> np.ndarray:
    logit, _ = engine(pixels)
    return 1 / (1 + np.exp(-logit))


def make_bundle(bench: Bench) -> Path:
    """benchmarks/bundle.py's, made once."""
    bundle = bench.scratch / "lite.bundle"
    if not bundle.exists():
        script = str(Path(__file__).with_name("bundle.py"))
        subprocess.run([sys.executable, script, str(bundle)], check=True)
    return bundle


class AugmentedFiles(Files):
    """BMP files, decoded and augmented by torchvision v2 in a DataLoader's worker."""

    policy = torchvision_policy()

    def __getitem__(self, row: int) -> tuple[Tensor, float]:
        label = float(self.paths[row].parent.name == "all")
        return self.policy(super().__getitem__(row).permute(2, 0, 1)), label


def loader(bench: Bench) -> None:
    """Training images/s against torchvision v2 and a DataLoader on the BMP files."""
    folder = bench.scratch / "bmp"
    if not folder.exists():
        write_c_nmc(folder, SyntheticSpec(cells=bench.size(256, 16), subjects=8))
    paths, cores = sorted(folder.rglob("*.bmp")), os.cpu_count() or 1
    for network in bench.networks("V2-S", "SE-CNN"):
        batch, images = bench.size(128, 4), bench.size(24 * 128, 16)
        trained = Trained(bench, network, batch, images, "bf16")
        bare = Bare(trained)
        files = AugmentedFiles(paths, StorageSettings(size=trained.side))
        batches = DataLoader(
            files,
            batch,
            sampler=RandomSampler(files, replacement=True, num_samples=images),
            num_workers=min(cores, 16),
            prefetch_factor=4,
            pin_memory=bench.is_gpu,
            persistent_workers=True,
        )

        def theirs(batches=batches, bare=bare) -> None:
            for pixels, labels in batches:
                pixels = pixels.to(bench.device, non_blocking=True)
                pixels = pixels.contiguous(memory_format=torch.channels_last)
                target = labels.float().to(bench.device, non_blocking=True)
                bare_step(bare.learner, pixels, target, torch.bfloat16)

        own, peer = race(bench, images, trained.epoch, theirs)
        name = f"{network}, batch {batch}, bf16"
        bench.findings.add(
            ratios(f"{name}: of torchvision v2 and DataLoader on {cores} cores", own, peer, 1.5),
            Result(f"{name}: torchvision v2 and DataLoader", peer, unit="images/s"),
        )


def compiled(bench: Bench) -> None:
    """Augmentation and network compiled as one graph; what it gains over a recorded pass."""
    for network in ("SE-CNN", "V2-S")[: bench.size(2, 1)]:
        batch = bench.size(32 if network == "SE-CNN" else 128, 4)
        images = bench.size(8 * 128, 8)
        recorded = Trained(bench, network, batch, images, "bf16")
        counters.clear()
        graph = Trained(bench, network, batch, images, "bf16", "compile=true")
        first = bench.seconds(graph.epoch)
        name = f"{network}, batch {batch}, bf16, compiled"
        bench.findings.add(
            Result(f"{name}: graphs", [counters["stats"]["unique_graphs"]], 1, "graphs", "less"),
            Result(f"{name}: breaks", [sum(counters["graph_break"].values())], 0, "breaks", "less"),
            Result(f"{name}: first epoch", [first], unit="s"),
        )
        recorded_rates, rates = race(bench, images, recorded.epoch, graph.epoch)
        bench.findings.add(ratios(f"{name}: of a recorded pass", rates, recorded_rates))
