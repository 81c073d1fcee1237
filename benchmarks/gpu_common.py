"""What the parts of benchmarks/gpu.py share: where they run, SYNTHETIC cells, a short training."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from parts import Findings
from torch.nn import functional as F

from leuk_ray.datasets.images import StorageSettings, to_storage
from leuk_ray.datasets.loaders import ReaderLoader, ResidentLoader
from leuk_ray.datasets.plan import uid_keys
from leuk_ray.datasets.synthetic import SyntheticSpec, draw_cells, render
from leuk_ray.models.zoo import build
from leuk_ray.recipes.recipe import Recipe, load_recipe
from leuk_ray.training.cells import EpochPlanner, TrainingCells
from leuk_ray.training.learner import Learner
from leuk_ray.training.loop import train
from leuk_ray.training.state import TrainingState

NETWORKS = {
    "lite": "lite",
    "V2-S": "saeed2022-v2s",
    "B3": "saeed2022-b3",
    "SE-CNN": "bukhari2022-se",
}
SUBJECTS = 16


@dataclass(frozen=True)
class Bench:
    """Where a part runs: on `device`, `tiny` to try the wiring, `scratch` shared by all parts."""

    device: torch.device
    tiny: bool
    scratch: Path
    findings: Findings

    def size(self, full: int, tiny: int) -> int:
        """A size, or the one that only tries the wiring."""
        return tiny if self.tiny else full

    def networks(self, *names: str) -> tuple[str, ...]:
        """The networks of a part; where only the wiring is tried, the last, a small one."""
        return names[-1:] if self.tiny else names

    @property
    def is_gpu(self) -> bool:
        """Whether the figures are a GPU's."""
        return self.device.type == "cuda"

    def finish(self) -> None:
        """Wait for the device."""
        if self.is_gpu:
            torch.cuda.synchronize(self.device)

    def seconds(self, work: Callable[[], object]) -> float:
        """Seconds of some work, the device's included."""
        self.finish()
        started = time.perf_counter()
        work()
        self.finish()
        return time.perf_counter() - started

    def cells(self, num: int, side: int) -> tuple[np.ndarray, np.ndarray]:
        """SYNTHETIC cells: (num, side, side, 3) uint8 and their labels, rendered once."""
        file = self.scratch / f"cells-{num}-{side}.npz"
        if not file.exists():
            drawn = draw_cells(SyntheticSpec(cells=num, subjects=min(SUBJECTS, num)))
            order = np.random.default_rng(0).permutation(num)
            storage = StorageSettings(size=side)
            pixels = np.stack([to_storage(render(drawn[i]), storage) for i in order])
            labels = np.asarray([drawn[i].label for i in order])
            own = file.with_name(f"{os.getpid()}-{file.name}")  # other parts render it as well
            np.savez(own, pixels=pixels, labels=labels)
            own.replace(file)
        with np.load(file) as found:
            return found["pixels"], found["labels"]


@contextmanager
def tf32(allowed: bool) -> Iterator[None]:
    """PyTorch's default lets convolutions round to TF32; a comparison in float32 must not."""
    kept = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = allowed
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = kept


def recipe_of(network: str, side: int, *overrides: str) -> Recipe:
    """A network's recipe at a size; weights that need no download, a constant learning rate."""
    weights = "imagenet" if network == "lite" else "scratch"
    changes = [f"input_size={side}", f"weights={weights}", "kind=constant", *overrides]
    return load_recipe(NETWORKS[network], changes)


@dataclass(frozen=True)
class ArrayReader:
    """A loader's reader of pixels in memory, (N, size, size, 3) uint8."""

    pixels: np.ndarray

    @property
    def size(self) -> int:
        """Side, pixels."""
        return self.pixels.shape[1]

    def read(self, rows: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
        """The pixels of rows."""
        if out is None:
            return self.pixels[rows]
        out[:] = self.pixels[rows]
        return out


def as_training_cells(labels: np.ndarray, num_validation: int) -> TrainingCells:
    """The first rows validate, the others train."""
    rows = np.arange(len(labels))
    uids = [f"c{row}" for row in rows]
    train_rows, validation_rows = rows[num_validation:], rows[:num_validation]
    return TrainingCells(uids, labels.astype(np.int64), uid_keys(uids), train_rows, validation_rows)


def make_learner(recipe: Recipe, device: torch.device, dtype: torch.dtype) -> Learner:
    """A learner whose first weights depend on the recipe alone."""
    torch.manual_seed(recipe.seed)
    core = build(recipe.model, load_weights=True).to(device, dtype)
    return Learner(core, recipe.training, recipe.augment.fill)


def train_briefly(
    recipe: Recipe,
    device: torch.device,
    pixels: np.ndarray,
    labels: np.ndarray,
    num_validation: int,
    dtype: torch.dtype = torch.float32,
    resume_from: Path | None = None,
    save_to: Path | None = None,
) -> tuple[Learner, list[dict]]:
    """Train through `leuk_ray.training.loop.train` with a resident loader.

    Returns:
        The learner and its history, a dict an epoch.
    """
    cells, learner = as_training_cells(labels, num_validation), make_learner(recipe, device, dtype)
    state = TrainingState.load(resume_from, learner) if resume_from else TrainingState()
    source = ReaderLoader(ArrayReader(pixels), device)
    loaders = [
        ResidentLoader(source, rows, source.reader.size, device)
        for rows in (cells.train, cells.validation)
    ]

    def report(metrics: dict, save: Callable[[Path], None]) -> None:
        if save_to is not None:
            folder = save_to / f"epoch-{metrics['epoch']}"
            folder.mkdir(parents=True)
            save(folder)

    planner = EpochPlanner(cells, recipe.training, recipe.seed)
    state = train(learner, state, planner, *loaders, recipe.augment, report)
    return learner, state.history


def bare_step(
    learner: Learner, images: torch.Tensor, labels: torch.Tensor, precision: torch.dtype
) -> None:
    """A step as one writes it in plain PyTorch: no augmentation, metrics or schedule."""
    with torch.autocast(images.device.type, precision, enabled=precision != torch.float32):
        logits = learner.model(images)[0]
    logits = logits[:, -1] - (logits[:, 0] if logits.shape[1] == 2 else 0)
    F.binary_cross_entropy_with_logits(logits.float(), labels).backward()
    learner.optimizer.step()
    learner.optimizer.zero_grad()
