"""A small training for tests of the loop: 64 cells of noise, the ALL ones with a bright square."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from leuk_ray.augment.settings import AugmentSettings
from leuk_ray.datasets.loaders import Loader, ResidentLoader
from leuk_ray.datasets.plan import uid_keys
from leuk_ray.models.network import ImageClassifier
from leuk_ray.models.settings import ModelSettings
from leuk_ray.models.zoo import build
from leuk_ray.recipes.training import TrainingSettings
from leuk_ray.training.cells import EpochPlanner, TrainingCells
from leuk_ray.training.learner import Learner
from leuk_ray.training.loop import train
from leuk_ray.training.state import TrainingState

SIZE = 32
TRAIN, VALIDATION = 53, 11  # neither divides by 2, 3 or 16
POLICY = AugmentSettings()
MIXED = AugmentSettings(mixup=0.4, cutmix=1.0)
CPU = torch.device("cpu")
SETTINGS = TrainingSettings(
    epochs=3, batch_size=16, frozen_norm="all", balance="equal", lr=3e-4, optimizer="adamax"
)


def changed(**changes) -> TrainingSettings:
    return TrainingSettings(**{**SETTINGS.model_dump(), **changes})


class ArrayLoader:
    """Pixels in memory; remembers what it delivered."""

    def __init__(self, pixels: np.ndarray, device: torch.device = CPU) -> None:
        self.pixels = torch.from_numpy(pixels).to(device)
        self.delivered: list[np.ndarray] = []

    def iter_batches(self, batches):
        for rows in batches:
            self.delivered.append(rows)
            yield self.pixels[torch.from_numpy(rows)].permute(0, 3, 1, 2)


def make_cells() -> tuple[TrainingCells, np.ndarray]:
    generator = np.random.default_rng(0)
    total = TRAIN + VALIDATION
    labels = generator.integers(0, 2, total)
    pixels = generator.integers(0, 120, (total, SIZE, SIZE, 3), np.uint8)
    pixels[labels == 1, 8:24, 8:24] += 90
    rows = generator.permutation(total)
    uids = [f"c{n}" for n in range(total)]
    train_rows, validation_rows = np.sort(rows[:TRAIN]), np.sort(rows[TRAIN:])
    return TrainingCells(uids, labels, uid_keys(uids), train_rows, validation_rows), pixels


def make_model(**changes) -> ImageClassifier:
    torch.manual_seed(0)
    return build(ModelSettings(input_size=SIZE, weights="scratch", **changes), load_weights=True)


def run(
    settings: TrainingSettings = SETTINGS,
    *,
    resident: bool = False,
    resume_from: Path | None = None,
    save_to: Path | None = None,
    loader: Loader | None = None,
    dtype: torch.dtype = torch.float32,
    device: torch.device = CPU,
    model: ImageClassifier | None = None,
    augmentation: AugmentSettings = POLICY,
    progress=lambda update: None,
) -> list[dict]:
    """One worker's run; returns the history without timings."""
    torch.set_num_threads(1)
    cells, pixels = make_cells()
    wrap = DistributedDataParallel if dist.is_initialized() else lambda module: module
    learner, state = (
        Learner((model or make_model()).to(device, dtype), settings, wrap=wrap),
        TrainingState(),
    )
    if resume_from is not None:
        state = TrainingState.load(resume_from, learner)
    source = loader or ArrayLoader(pixels, device)
    source = ResidentLoader(source, cells.train, SIZE, device) if resident else source

    def report(metrics, save):
        if save_to is not None:
            target = save_to / f"epoch_{metrics['epoch']}"
            target.mkdir()
            save(target)

    validation_loader = ArrayLoader(pixels, device)
    planner = EpochPlanner(cells, settings, seed=0)
    state = train(
        learner, state, planner, source, validation_loader, augmentation, report, progress
    )
    unlike = ("seconds", "data_wait_seconds", "images_per_second", "workers")
    return [{k: v for k, v in line.items() if k not in unlike} for line in state.history]


def run_mixed(settings: TrainingSettings = SETTINGS, **options) -> list[dict]:
    """With cells mixed with others of their batch, and residual branches dropped."""
    return run(settings, augmentation=MIXED, model=make_model(drop_path=0.3), **options)
