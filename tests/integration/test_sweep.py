"""Sweeps on Ray: every run recorded, failures contained, the best bundled and judged once."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from leuk_ray.config import load_recipe
from leuk_ray.datasets.splits import split_cells
from leuk_ray.errors import UserError
from leuk_ray.inference.classifier import Classifier
from leuk_ray.runs.folder import RunFolder, read_history, read_steps
from leuk_ray.runs.placement import Resources
from leuk_ray.runs.spec import RunSpec, split_key
from leuk_ray.runs.table import RunTable
from leuk_ray.runs.trial import Shared, train_in_process
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


def test_what_is_no_sweep_or_another_one_is_not_resumed(grid, dataset, tmp_path: Path):
    out, _ = grid
    settings = load_sweep(str(out.parent / "small.yaml"))
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="is no sweep"):
        run_sweep(settings, dataset, tmp_path, resume=True)
    other = load_sweep(str(out.parent / "small.yaml"), ["epochs=4"])
    with pytest.raises(UserError, match="other settings"):
        run_sweep(other, dataset, out, resume=True)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_a_run_takes_over_anothers_weights_moments_and_place_in_time(dataset, tmp_path: Path):
    recipe = sweep(tmp_path, search={"lr": {"choice": [1e-3]}}, searcher="grid").base()
    shared = Shared(
        root=tmp_path,
        dataset=dataset,
        splits={split_key(recipe): split_cells(dataset.cells, recipe.split)},
        resources=Resources(),
        side_by_side=1,
        judged=True,
        checkpoints=True,
    )
    kept = tmp_path / "checkpoint"

    def keep_the_first(metrics, save):
        if metrics["epoch"] == 1:
            kept.mkdir()
            save(kept)

    def history(name: str) -> list[dict]:
        measured = ("seconds", "images_per_second", "data_wait_seconds")
        return [
            {key: value for key, value in line.items() if key not in measured}
            for line in read_history(tmp_path / name)
        ]

    winner = RunSpec("winner", recipe, {"training.lr": 1e-3})
    train_in_process(winner, shared, keep_the_first)
    for name, rate in (("same", 1e-3), ("changed", 5e-4)):
        loser = RunSpec(name, recipe, {"training.lr": rate})
        RunFolder(tmp_path / name, recipe, dataset).start(shared.split(recipe))
        train_in_process(loser, replace(shared, judged=False), lambda metrics, save: None, kept)
        assert history(name)[0] == history("winner")[0]
        step = {"epoch": 1, "from": "winner", "changed": {"training.lr": [1e-3, rate]}}
        assert read_steps(tmp_path / name) == [step]
        assert load_recipe(str(tmp_path / name / "config.yaml")).training.lr == rate
    report = json.loads((tmp_path / "winner" / "report" / "report.json").read_text())
    assert report["run"]["stopping"]["reason"] == "all 3 epochs done"
    assert report["metrics"]["test"]["cells"] > 0
    assert history("same") == history("winner"), "as if it had been the winner from the start"
    assert history("changed")[1]["lr"] == pytest.approx(5e-4)
    assert history("changed")[1]["train_loss"] != history("winner")[1]["train_loss"]
