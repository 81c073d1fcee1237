"""A small dataset, the run left alone, and ways to hurt another one."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ray.util.state import list_actors

from leuk_ray.datasets.images import StorageSettings
from leuk_ray.datasets.prepare import prepare
from leuk_ray.datasets.prepared import PreparedDataset
from leuk_ray.datasets.synthetic import SyntheticSpec, write_c_nmc
from leuk_ray.recipes.recipe import load_recipe

EPOCHS = 8
SETTINGS = [
    "weights=scratch", "input_size=64", f"epochs={EPOCHS}", "frozen_norm=none", "lr=1e-4",
    "schedule.kind=cosine",  # a plateau would end the run early
]  # fmt: skip


def recipe():
    return load_recipe("lite", SETTINGS)


def make_dataset(folder: Path) -> PreparedDataset:
    write_c_nmc(folder / "cells", SyntheticSpec(cells=121, subjects=18, seed=3))
    prepare(folder / "cells", folder / "dataset", "c-nmc", StorageSettings(size=64))
    return PreparedDataset.open(str(folder / "dataset"))


def history(run: Path) -> list[dict]:
    file = run / "metrics.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def checkpoints_that_count(run: Path) -> int:
    """Those that Ray Train has listed; it looks every two seconds, longer than an epoch here."""
    file = run / "checkpoints" / "checkpoint_manager_snapshot.json"
    try:
        return json.loads(file.read_text())["current_report_index"]
    except (FileNotFoundError, ValueError):  # not there yet, or being written
        return 0


def results(run: Path) -> list[tuple[float, float]]:
    """What must be equal to the last bit: losses of every epoch."""
    lines = history(run)
    assert len(lines) == EPOCHS
    return [(line["train_loss"], line["validation_loss"]) for line in lines]


def train_workers() -> list[Any]:
    """The live training workers, with pid and node_id (Ray's ActorState, which hides its type)."""
    actors: list[Any] = list_actors(filters=[("state", "=", "ALIVE")], limit=1000)
    return [actor for actor in actors if actor.class_name == "RayTrainWorker"]


def kill_a_worker() -> None:
    os.kill(train_workers()[-1].pid, signal.SIGKILL)


def after_epoch(run: Path, epoch: int, hurt: Callable[[], None]) -> threading.Event:
    """Call `hurt` in the middle of the epoch that follows `epoch`."""
    return when(lambda: len(history(run)) >= epoch, hurt)


def when(happens: Callable[[], bool], hurt: Callable[[], None]) -> threading.Event:
    """Call `hurt` shortly after something is the case; the event is set when that is done.

    The thread stays: what Ray starts on Linux dies with the thread that started it.
    """
    done = threading.Event()

    def watch() -> None:
        while not happens():
            time.sleep(0.05)
        time.sleep(0.3)
        hurt()
        done.set()
        threading.Event().wait()

    threading.Thread(target=watch, daemon=True).start()
    return done
