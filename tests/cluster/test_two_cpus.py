"""A Ray with two logical CPUs: what fits runs, what does not is refused, nothing hangs."""

from pathlib import Path

import pytest
import ray
import yaml

from leuk_ray.cluster import ray_cluster
from leuk_ray.datasets.images import StorageSettings
from leuk_ray.datasets.prepare import prepare
from leuk_ray.datasets.prepared import PreparedDataset
from leuk_ray.datasets.synthetic import SyntheticSpec, write_c_nmc
from leuk_ray.recipes.recipe import load_recipe
from leuk_ray.training.trainer import run_training
from leuk_ray.tuning.settings import load_sweep
from leuk_ray.tuning.sweep import run_sweep
from leuk_ray.utils.errors import UserError


@pytest.fixture(scope="module", autouse=True)
def two_cpus():
    ray.init(num_cpus=2, include_dashboard=True, log_to_driver=False)
    yield
    ray.shutdown()


@pytest.mark.timeout(240)
def test_one_worker_streams_and_two_are_refused(tmp_path: Path):
    ray_cluster.connect(num_workers=2)  # joins the Ray that runs, and changes nothing about it
    assert ray.cluster_resources()["CPU"] == 2
    write_c_nmc(tmp_path / "cells", SyntheticSpec(cells=60, subjects=12))
    prepare(tmp_path / "cells", tmp_path / "dataset", "c-nmc", StorageSettings(size=64))
    dataset = PreparedDataset.open(str(tmp_path / "dataset"))
    recipe = load_recipe("lite", ["input_size=64", "epochs=1"])
    with pytest.raises(UserError, match="needs 2 CPUs and 1 for Ray Data, 3 in all"):
        run_training(recipe, dataset, tmp_path / "run", workers=2)
    run_training(recipe, dataset, tmp_path / "run", workers=1)
    assert (tmp_path / "run" / "bundle" / "bundle.json").exists()


@pytest.mark.timeout(240)
def test_two_runs_of_a_sweep_go_side_by_side_and_poor_ones_end_early(tmp_path: Path):
    write_c_nmc(tmp_path / "cells", SyntheticSpec(cells=60, subjects=12))
    prepare(tmp_path / "cells", tmp_path / "dataset", "c-nmc", StorageSettings(size=64))
    dataset = PreparedDataset.open(str(tmp_path / "dataset"))
    values = {
        "recipe": "bukhari2022-se",
        "overrides": {
            "protocol": "subject-disjoint",
            "filters": [4, 8, 8],
            "input_size": 64,
            "balance": "none",
            "epochs": 4,
        },
        "search": {"lr": {"choice": [1e-3, 3e-3, 1e-2, 1e-6, 1e-7, 1e-8]}},
        "searcher": "grid",
        "scheduler": {"kind": "asha", "grace": 1, "reduction": 2},
        "metric": "validation_loss",
        "resources": {"cpus": 1},
    }
    (tmp_path / "sweep.yaml").write_text(yaml.safe_dump(values))
    sweep = load_sweep(str(tmp_path / "sweep.yaml"))
    report = run_sweep(sweep, dataset, tmp_path / "sweep")
    assert report.counts["runs"] == 6
    assert report.counts["failed"] == 0
    assert report.counts["stopped"] >= 1
    for run in report.runs:
        assert (run["status"] == "stopped") == (len(run["curve"]) < 4)
    too_large = load_sweep(str(tmp_path / "sweep.yaml"), ["resources.cpus=3"])
    with pytest.raises(UserError, match="one run takes 3 CPUs; the cluster has 1 nodes with 2"):
        run_sweep(too_large, dataset, tmp_path / "never")
    assert not (tmp_path / "never").exists()
