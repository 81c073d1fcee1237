"""What a run would take, from a few real steps on random pixels: nothing is trained or kept."""

from __future__ import annotations

import os
import resource
import tempfile
import time
from pathlib import Path

import numpy as np
import psutil
import ray
import torch

from leuk_ray.augment.policies import parameters
from leuk_ray.cluster import Workers, span
from leuk_ray.config import Recipe
from leuk_ray.datasets.plan import plan_epoch
from leuk_ray.datasets.prepared import PreparedDataset
from leuk_ray.datasets.splits import rows_with_role, split_cells
from leuk_ray.inference.engines import score_images
from leuk_ray.models.zoo import build
from leuk_ray.training.learner import Learner
from leuk_ray.training.losses import classification_loss
from leuk_ray.training.state import TrainingState
from leuk_ray.training.trainer import check_run

_STEPS = 3


def dry_run(
    recipe: Recipe, dataset: PreparedDataset, *, workers: Workers, gpus: bool = False
) -> dict:
    """Check a run as training would, measure one worker's steps, and reckon; Ray must be up.

    Of an elastic number of workers, with the fewest: none of them would need more.

    Returns:
        `cells` by role; `workers` reckoned with; `steps_per_epoch`, `uses_per_epoch`, `epochs`;
        `parameters`; `bytes` of the pixels, of a worker's memory at its fullest, of a checkpoint
        and of the run on disk; `seconds` of a step, an epoch and the run at most, without start
        and first reading.

    Raises:
        UserError: what training would refuse.
    """
    split = split_cells(dataset.cells, recipe.split)
    cells = check_run(recipe, dataset, split, workers, gpus)
    settings, side = recipe.training, dataset.storage.size
    plan = plan_epoch(
        cells.train,
        cells.labels[cells.train],
        seed=recipe.seed,
        epoch=0,
        balance=settings.balance,
        batch_size=settings.batch_size,
    )
    measure = ray.remote(num_cpus=1, num_gpus=int(gpus), max_calls=1)(_measure)
    num_workers, _ = span(workers)
    share = -(-settings.batch_size // num_workers)
    on_node = -(-num_workers // len(ray.nodes()))
    measured = ray.get(measure.remote(recipe, share, side, on_node))
    num_test = len(rows_with_role(dataset.cells, split, ("test",)))
    scored = len(cells.validation) / num_workers * measured["score_seconds"]
    epoch = len(plan) * measured["step_seconds"] + scored
    whole = settings.epochs * epoch + num_test / num_workers * measured["score_seconds"]
    kept = min(settings.keep + 1, settings.epochs) * measured["checkpoint_bytes"]
    return {
        "cells": {
            "train": len(cells.train),
            "validation": len(cells.validation),
            "test": num_test,
        },
        "workers": num_workers,
        "epochs": settings.epochs,
        "steps_per_epoch": len(plan),
        "uses_per_epoch": len(plan.rows),
        "parameters": measured["parameters"],
        "bytes": {
            "pixels": (len(cells.train) + len(cells.validation)) * side * side * 3,
            "worker": measured["memory_bytes"],
            "checkpoint": measured["checkpoint_bytes"],
            "disk": kept + measured["weights_bytes"],
        },
        "seconds": {"step": measured["step_seconds"], "epoch": epoch, "run": whole},
        "device": measured["device"],
    }


def _measure(recipe: Recipe, share: int, side: int, on_node: int) -> dict:
    """A worker's steps on its share of a batch, with every layer training."""
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // on_node))
    device = torch.device("cuda" if ray.get_gpu_ids() else "cpu")
    before = psutil.Process().memory_info().rss
    core = build(recipe.model, load_weights=False).to(device)
    learner = Learner(core, recipe.training, recipe.augment.fill)
    learner.start_epoch(recipe.training.frozen_epochs)
    generator = np.random.default_rng(0)
    pixels = generator.integers(0, 256, (share, side, side, 3), np.uint8)
    parts = np.array_split(np.arange(share), recipe.training.accumulate)
    step_seconds = []
    for step in range(_STEPS + 1):  # the first one warms up
        started = time.perf_counter()
        for part in parts:
            images = torch.from_numpy(pixels[part]).to(device).permute(0, 3, 1, 2)
            drawn = parameters(
                recipe.augment,
                seed=recipe.seed,
                keys=part.astype(np.uint64),
                draws=np.full(len(part), step, np.uint64),
                side=side,
            )
            log_odds = learner.log_odds(images, drawn and drawn.to(device))
            labels = torch.from_numpy(part % 2).to(device)
            learner.backward(classification_loss(log_odds, labels, recipe.training.loss).mean())
        learner.step()
        _finish(device)
        step_seconds.append(time.perf_counter() - started)
    learner.scored.eval()
    images = torch.from_numpy(pixels).to(device).permute(0, 3, 1, 2)
    started = time.perf_counter()
    score_images(learner.scored, images)
    _finish(device)
    score_seconds = (time.perf_counter() - started) / share
    with tempfile.TemporaryDirectory() as name:
        TrainingState().save(Path(name), learner)
        sizes = {file.name: file.stat().st_size for file in Path(name).iterdir()}
    if device.type == "cuda":
        memory = torch.cuda.max_memory_allocated(device)
    else:
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before
    return {
        "parameters": sum(p.numel() for p in core.parameters()),
        "step_seconds": float(np.median(step_seconds[1:])),
        "score_seconds": score_seconds,
        "memory_bytes": memory,
        "checkpoint_bytes": sum(sizes.values()),
        "weights_bytes": sizes["model.safetensors"],
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU",
    }


def _finish(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
