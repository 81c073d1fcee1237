"""A Ray with two logical CPUs: what fits runs, what does not is refused, nothing hangs."""

from pathlib import Path

import pytest
import ray

from leuk_ray import cluster
from leuk_ray.config import load_recipe
from leuk_ray.datasets.prepare import prepare
from leuk_ray.datasets.prepared import PreparedDataset
from leuk_ray.datasets.synthetic import SyntheticSpec, write_c_nmc
from leuk_ray.errors import UserError
from leuk_ray.images import StorageSettings
from leuk_ray.training.trainer import run_training


@pytest.fixture(scope="module", autouse=True)
def two_cpus():
    ray.init(num_cpus=2, include_dashboard=True, log_to_driver=False)
    yield
    ray.shutdown()


@pytest.mark.timeout(240)
def test_one_worker_streams_and_two_are_refused(tmp_path: Path):
    cluster.connect(num_workers=2)  # joins the Ray that runs, and changes nothing about it
    assert ray.cluster_resources()["CPU"] == 2
    write_c_nmc(tmp_path / "cells", SyntheticSpec(cells=60, subjects=12))
    prepare(tmp_path / "cells", tmp_path / "dataset", "c-nmc", StorageSettings(size=64))
    dataset = PreparedDataset.open(str(tmp_path / "dataset"))
    recipe = load_recipe("lite", ["input_size=64", "epochs=1"])
    with pytest.raises(UserError, match="needs 2 CPUs and 1 for Ray Data, 3 in all"):
        run_training(recipe, dataset, tmp_path / "run", workers=2)
    bundle = run_training(recipe, dataset, tmp_path / "run", workers=1).bundle
    assert (bundle / "bundle.json").exists()
