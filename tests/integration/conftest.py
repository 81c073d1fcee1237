"""One local Ray for all integration tests, and one small synthetic dataset."""

from __future__ import annotations

from pathlib import Path

import pytest
import ray

from leuk_ray import cluster
from leuk_ray.datasets.prepare import prepare
from leuk_ray.datasets.prepared import PreparedDataset
from leuk_ray.datasets.synthetic import SyntheticSpec, write_c_nmc
from leuk_ray.images import StorageSettings


@pytest.fixture(scope="session", autouse=True)
def local_ray():
    cluster.connect(num_workers=3)
    yield
    ray.shutdown()


@pytest.fixture(scope="session")
def cells_folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("synthetic") / "cells"
    write_c_nmc(folder, SyntheticSpec(cells=121, subjects=18, seed=3))
    return folder


@pytest.fixture(scope="session")
def dataset(cells_folder: Path) -> PreparedDataset:
    target = cells_folder.parent / "dataset"
    prepare(cells_folder, target, "c-nmc", StorageSettings(size=64))
    return PreparedDataset.open(str(target))
