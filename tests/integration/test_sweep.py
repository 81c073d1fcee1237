"""Sweeps on Ray: every run recorded, failures contained, the best bundled and judged once."""

import json
import os
from pathlib import Path

import pytest
import yaml

from leuk_ray.errors import UserError
from leuk_ray.inference.classifier import Classifier
from leuk_ray.runs.table import RunTable
from leuk_ray.tuning.settings import load_sweep
from leuk_ray.tuning.sweep import run_sweep

SMALL = {
    "recipe": "bukhari2022-se",
    "overrides": {
        "protocol": "subject-disjoint",
        "filters": [4, 8, 8],
        "input_size": 64,
        "balance": "none",
        "epochs": 3,
        "policy": "none",
    },
    "metric": "validation_auc",
    "resources": {"cpus": 1, "side_by_side": 2},
}


def sweep(folder: Path, **changes):
    path = folder / "small.yaml"
    path.write_text(yaml.safe_dump(SMALL | changes))
    return load_sweep(str(path))


@pytest.fixture(scope="module")
def grid(dataset, tmp_path_factory) -> tuple[Path, dict]:
    """Two learning rates that train and one that cannot, with two seeds."""
    folder = tmp_path_factory.mktemp("sweeps")
    settings = sweep(
        folder,
        search={"lr": {"choice": [1e-3, 1e-4, 1e30]}},
        searcher="grid",
        seeds=[0, 1],
        finalists=2,
        top=2,
    )
    report = run_sweep(settings, dataset, folder / "grid")
    return folder / "grid", report


def test_a_run_that_cannot_train_is_recorded_and_stops_no_other(grid):
    out, report = grid
    records = RunTable(out / "runs.jsonl").records()
    assert {name: record.status for name, record in records.items()} == {
        "000": "finished", "001": "finished", "002": "failed",
        "000-seed1": "finished", "001-seed1": "finished",
    }  # fmt: skip
    assert "is not a number" in records["002"].reason
    assert "lower lr" in records["002"].reason
    assert report["counts"] == {
        "configurations": 3, "runs": 5, "epochs": 12, "finished": 4, "stopped": 0, "failed": 1,
    }  # fmt: skip
    assert all(len(r.curve) == 3 for r in records.values() if r.status == "finished")


def test_the_best_are_bundles_that_answer_and_only_the_winner_met_the_test_cells(
    grid, cells_folder
):
    out, report = grid
    image = next(cells_folder.rglob("*.bmp"))
    for place in (1, 2):
        (answer,) = Classifier.load(out / "top" / str(place)).predict([("x", image.read_bytes())])
        assert 0 <= answer.probability <= 1  # pyright: ignore[reportAttributeAccessIssue]
    judged = json.loads((out / "winner" / "report.json").read_text())
    assert judged["sentence"] == report["winner"]["test"]
    assert not list((out / "runs").rglob("predictions.parquet"))
    assert "Within noise" in report["verdict"] or "leads" in report["verdict"]
    assert report["standings"][0]["seeds"] == [0, 1]


def test_the_report_stands_alone_and_tensorboard_has_the_settings(grid):
    out, _ = grid
    page = (out / "report" / "report.html").read_text()
    assert "http" not in page.replace("https://", "http://").split("</style>")[1].lower()
    assert page.count("data:image/png;base64") >= 3
    assert len((out / "report" / "runs.csv").read_text().splitlines()) == 6
    assert len(list((out / "tensorboard").iterdir())) == 5
    assert not (out / "tune").exists(), "Ray Tune's own files are gone"


def test_a_finished_sweep_resumed_repeats_nothing(grid, dataset):
    out, report = grid
    before = (out / "runs.jsonl").read_text()
    settings = load_sweep(str(out.parent / "small.yaml"))
    with pytest.raises(UserError, match="--resume"):
        run_sweep(settings, dataset, out)
    again = run_sweep(settings, dataset, out, resume=True)
    after = (out / "runs.jsonl").read_text()
    assert after.startswith(before)
    repeated = [json.loads(line)["name"] for line in after[len(before) :].splitlines()]
    assert repeated == ["002"], "only the failed run is tried again"
    assert again["winner"] == report["winner"]
