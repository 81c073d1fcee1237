"""What a run would take. Nothing is trained or kept."""

from __future__ import annotations

import os
import resource
import time
from typing import Any

import numpy as np
import psutil
import ray
import torch

from leuk_ray.cluster import ray_cluster
from leuk_ray.cluster.ray_cluster import Workers, span
from leuk_ray.datasets.prepared import PreparedDataset
from leuk_ray.datasets.splits import rows_with_role, split_cells
from leuk_ray.inference.engines import score_images
from leuk_ray.models.zoo import build
from leuk_ray.recipes.recipe import Recipe
from leuk_ray.training.cells import check_run
from leuk_ray.training.learner import Learner, Microbatch
from leuk_ray.training.state import TrainingState
from leuk_ray.training.stochastic import random_parts
from leuk_ray.utils import scratch

_STEPS = 3


def dry_run(
    recipe: Recipe,
    dataset: PreparedDataset,
    *,
    workers: Workers,
    gpus: bool = False,
    measure: bool = False,
    address: str | None = None,
) -> dict[str, Any]:
    """Check a run as training would, and say what it would take.

    Args:
        recipe, dataset: what would be trained, on what.
        workers: how many would train; of an elastic number, the fewest are counted with, since
            none of them would need more.
        gpus: one for each worker.
        measure: also take a few steps of one worker, on random pixels, on Ray.
        address: a Ray cluster to ask for its CPUs and GPUs.

    Returns:
        `cells` by role; `workers` counted with; `steps_per_epoch`, `samples_per_epoch`,
        `epochs`; `parameters`; `bytes` of the pixels, of a checkpoint and of the run on disk.
        Measured: `device`, `bytes` of a worker's memory at its fullest, and `seconds` of a step,
        an epoch and the run at most, without start and first reading.

    Raises:
        UserError: what training would refuse.
    """
    fewest, most = span(workers)
    if measure or address:
        ray_cluster.connect(address, workers)
        ray_cluster.require(workers, gpus)
    values = _count(recipe, dataset, fewest, most, gpus)
    return _with_measured(recipe, dataset, values, gpus) if measure else values


def _count(
    recipe: Recipe, dataset: PreparedDataset, workers: int, most: int, gpus: bool
) -> dict[str, Any]:
    split = split_cells(dataset.cells, recipe.split, dataset.classes)
    planner = check_run(recipe, dataset, split, most, gpus)
    cells, plan = planner.cells, planner.plan(epoch=0)
    settings, side = recipe.training, dataset.storage.size
    model = build(recipe.model, load_weights=False, num_classes=cells.num_classes)
    learner = Learner(model, settings, recipe.augment.fill)
    sizes = _checkpoint_bytes(learner)
    checkpoint = sum(sizes.values())
    kept = min(settings.keep + 1, settings.epochs)
    return {
        "cells": {
            "train": len(cells.train),
            "validation": len(cells.validation),
            "test": len(rows_with_role(dataset.cells, split, ("test",))),
        },
        "workers": workers,
        "epochs": settings.epochs,
        "steps_per_epoch": len(plan),
        "samples_per_epoch": len(plan.rows),
        "parameters": sum(p.numel() for p in learner.model.parameters()),
        "bytes": {
            "pixels": (len(cells.train) + len(cells.validation)) * side * side * 3,
            "checkpoint": checkpoint,
            "disk": kept * checkpoint + sizes["model.safetensors"],
        },
    }


def _with_measured(
    recipe: Recipe, dataset: PreparedDataset, values: dict[str, Any], gpus: bool
) -> dict[str, Any]:
    workers, cells = values["workers"], values["cells"]
    share = -(-recipe.training.batch_size // workers)
    on_node = -(-workers // len(ray.nodes()))
    task = ray.remote(num_cpus=1, num_gpus=int(gpus), max_calls=1)(_measure)
    measured = ray.get(
        task.remote(recipe, len(dataset.classes), share, dataset.storage.size, on_node)
    )
    scored = measured["score_seconds"] / workers
    epoch = values["steps_per_epoch"] * measured["step_seconds"] + cells["validation"] * scored
    whole = values["epochs"] * epoch + cells["test"] * scored
    return values | {
        "device": measured["device"],
        "bytes": values["bytes"] | {"worker": measured["memory_bytes"]},
        "seconds": {"step": measured["step_seconds"], "epoch": epoch, "run": whole},
    }


def _checkpoint_bytes(learner: Learner) -> dict[str, int]:
    """Size of each file of a checkpoint once the optimizer has moved every weight."""
    learner.start_epoch(learner.settings.frozen_epochs)
    for parameter in learner.model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    learner.optimizer.step()
    with scratch.temporary("checkpoint") as folder:
        TrainingState().save(folder, learner)
        return {file.name: file.stat().st_size for file in folder.iterdir()}


def _measure(
    recipe: Recipe, num_classes: int, share: int, side: int, on_node: int
) -> dict[str, Any]:
    """Return a worker's steps on its share of a batch, with every layer training."""
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // on_node))
    device = torch.device("cuda" if ray.get_gpu_ids() else "cpu")
    before = psutil.Process().memory_info().rss
    model = build(recipe.model, load_weights=False, num_classes=num_classes).to(device)
    learner = Learner(model, recipe.training, recipe.augment.fill)
    learner.start_epoch(recipe.training.frozen_epochs)
    generator = np.random.default_rng(0)
    pixels = generator.integers(0, 256, (share, side, side, 3), np.uint8)
    parts = np.array_split(np.arange(share), recipe.training.accumulate)
    step_seconds = []
    for step in range(_STEPS + 1):  # the first one warms up
        started = time.perf_counter()
        for part in parts:
            read = np.concatenate([part, part]) if recipe.augment.mixes else part
            images = torch.from_numpy(pixels[read]).to(device).permute(0, 3, 1, 2)
            microbatch = Microbatch(
                images,
                **random_parts(
                    learner,
                    recipe.augment,
                    seed=recipe.seed,
                    keys=read.astype(np.uint64),
                    copy_index=np.full(len(read), step, np.uint64),
                    samples=len(part),
                    side=side,
                ),
                labels=torch.from_numpy(read % num_classes).to(device),
                weights=torch.ones(len(read), device=device),
                scale=1 / share,
            )
            learner.learn(microbatch)
        learner.step()
        _finish(device)
        step_seconds.append(time.perf_counter() - started)
    learner.eval_model.eval()
    images = torch.from_numpy(pixels).to(device).permute(0, 3, 1, 2)
    started = time.perf_counter()
    score_images(learner.eval_model, images)
    _finish(device)
    score_seconds = (time.perf_counter() - started) / share
    if device.type == "cuda":
        memory = torch.cuda.max_memory_allocated(device)
    else:
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before
    return {
        "step_seconds": float(np.median(step_seconds[1:])),
        "score_seconds": score_seconds,
        "memory_bytes": memory,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU",
    }


def _finish(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
