"""Every sweep that is shipped, started as its file says and cut short by overrides."""

from pathlib import Path

import pytest
import ray
from click.testing import CliRunner

from leuk_ray.cli.main import cli
from leuk_ray.cluster import ray_cluster
from leuk_ray.datasets.images import StorageSettings
from leuk_ray.datasets.prepare import prepare
from leuk_ray.datasets.synthetic import SyntheticSpec, write_c_nmc
from leuk_ray.runs.table import RunTable

CONFIGS = Path(__file__).parents[2] / "tune_configs"
SHORT = ["seeds=[0]", "input_size=64", "balance=16"]  # 32 images an epoch
NO_GPU = ["resources.cpus=1", "resources.gpus=0", "weights=scratch", "frozen_norm=none"]
CASES = [
    ("quick", ["epochs=1", "trials=2"], 2),
    ("attention", ["epochs=1"], 7),
    ("lr_batch", ["epochs=1", "trials=2"], 2),
    ("saeed2022", ["epochs=1", "trials=2", *NO_GPU], 2),
    ("bukhari2022", ["epochs=1", "protocol=subject-disjoint"], 12),
    ("pbt", ["epochs=2", "trials=4", "scheduler.interval=1"], 4),
]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    ray_cluster.connect(num_workers=0)
    folder = tmp_path_factory.mktemp("synthetic")
    write_c_nmc(folder / "cells", SyntheticSpec(cells=60, subjects=12))
    prepare(folder / "cells", folder / "dataset", "c-nmc", StorageSettings(size=64))
    yield folder / "dataset"
    ray.shutdown()


@pytest.mark.timeout(300)
@pytest.mark.parametrize(("name", "overrides", "num_runs"), CASES)
def test_it_starts_and_leaves_a_bundle(name, overrides, num_runs, dataset: Path, tmp_path: Path):
    command = ["tune", str(CONFIGS / f"{name}.yaml"), "--data", str(dataset)]
    out = tmp_path / "out"
    done = CliRunner().invoke(cli, [*command, "--out", str(out), *SHORT, *overrides])
    assert done.exit_code == 0, done.exception
    records = RunTable(out / "runs.jsonl").records().values()
    assert [record.reason for record in records if record.status == "failed"] == []
    assert len(records) == num_runs
    assert (out / "top" / "1" / "bundle.json").exists()
    assert f"{out / 'report' / 'report.html'}" in done.output


def test_none_is_left_out():
    assert sorted(case[0] for case in CASES) == sorted(p.stem for p in CONFIGS.iterdir())
