"""One local Ray for all integration tests, and one small synthetic dataset."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest
import ray

from leuk_ray.cluster import ray_cluster
from leuk_ray.datasets.images import StorageSettings
from leuk_ray.datasets.prepare import prepare
from leuk_ray.datasets.prepared import PreparedDataset
from leuk_ray.datasets.synthetic import SyntheticSpec, write_c_nmc


@pytest.fixture(scope="session")
def s3_port() -> int:
    """Where `test_s3` starts its server."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@pytest.fixture(scope="session", autouse=True)
def local_ray(s3_port: int):
    # Workers have the environment that Ray was started in.
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{s3_port}")
        patch.setenv("AWS_ACCESS_KEY_ID", "nobody")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "nothing")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        root = Path(__file__).parents[2]  # what tests hand to workers, workers can import
        patch.setenv("PYTHONPATH", str(root), prepend=os.pathsep)
        ray_cluster.connect(num_workers=3)
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
