"""What all these tests are measured by: one small run that nothing happens to."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import ray

from leuk_ray.cluster import ray_cluster
from leuk_ray.datasets.prepared import PreparedDataset
from leuk_ray.training.attempts import interruptions
from leuk_ray.training.trainer import run_training
from tests.support.hurting import make_dataset, recipe, results


@pytest.fixture(scope="session", autouse=True)
def importable() -> Iterator[None]:
    """What tests hand to workers, workers can import: they have the environment of their Ray."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(Path(__file__).parents[2]), prepend=os.pathsep)
        yield


@dataclass(frozen=True)
class Undisturbed:
    """A dataset, and what two workers on one node make of it."""

    dataset: PreparedDataset
    results: list[tuple[float, float]]


@pytest.fixture(scope="session")
def undisturbed(importable, tmp_path_factory) -> Undisturbed:
    """On a Ray of its own, which is gone afterwards: each test starts the one it will hurt."""
    folder: Path = tmp_path_factory.mktemp("undisturbed")
    ray_cluster.connect(num_workers=2)
    dataset = make_dataset(folder)
    run_training(recipe(), dataset, folder / "run", workers=2)
    assert interruptions(folder / "run") == []
    ray.shutdown()
    return Undisturbed(dataset, results(folder / "run"))
