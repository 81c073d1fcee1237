"""Sweeps on Ray: every run recorded, failures contained, the best bundled and judged once."""

import json
import re
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from click.testing import CliRunner

import leuk_ray as lr
from leuk_ray.cli.main import cli, main
from leuk_ray.datasets.images import StorageSettings
from leuk_ray.datasets.prepare import prepare
from leuk_ray.datasets.splits import split_cells
from leuk_ray.inference.classifier import Classifier
from leuk_ray.inference.predictions import Prediction
from leuk_ray.recipes.recipe import load_recipe
from leuk_ray.runs.folder import RunFolder
from leuk_ray.runs.placement import Resources
from leuk_ray.runs.spec import RunSpec, split_key
from leuk_ray.runs.table import RunTable, read_history, read_steps
from leuk_ray.runs.trial import TrialContext, train_in_process
from leuk_ray.tuning.report import SweepReport
from leuk_ray.tuning.settings import load_sweep
from leuk_ray.tuning.sweep import run_sweep
from leuk_ray.utils.errors import UserError
from tests.support.serving_bundles import client_of, predictions

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


def written(folder: Path, **changes) -> Path:
    path = folder / "small.yaml"
    path.write_text(yaml.safe_dump(SMALL | changes))
    return path


def sweep(folder: Path, **changes):
    return load_sweep(str(written(folder, **changes)))


@pytest.fixture(scope="module")
def grid(dataset, tmp_path_factory) -> tuple[Path, SweepReport]:
    """Two learning rates that train and one that cannot, with two seeds."""
    folder = tmp_path_factory.mktemp("sweeps")
    path = written(
        folder,
        search={"lr": {"choice": [1e-3, 1e-4, 1e30]}},
        searcher="grid",
        seeds=[0, 1],
        finalists=2,
        top=2,
    )
    result = lr.tune(path, dataset, str(folder / "grid"))
    table = result.to_pandas()
    assert list(table["place"]) == [1, 2]
    assert set(table["training.lr"]) <= {1e-3, 1e-4}
    assert lr.Classifier.load(result.bundle).classes == ("healthy", "ALL")
    assert repr(result).startswith("SYNTHETIC")
    return folder / "grid", result.report


def test_a_run_that_cannot_train_is_recorded_and_stops_no_other(grid):
    out, report = grid
    records = RunTable(out / "runs.jsonl").records()
    assert {name: record.status for name, record in records.items()} == {
        "000": "finished", "001": "finished", "002": "failed",
        "000-seed1": "finished", "001-seed1": "finished",
    }  # fmt: skip
    assert "is not a number" in records["002"].reason
    assert "lower lr" in records["002"].reason
    assert report.counts == {
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
        assert isinstance(answer, Prediction)
        assert answer.probability is not None
        assert 0 <= answer.probability <= 1
    judged = json.loads((out / "winner" / "report.json").read_text())
    assert judged["sentence"] == report.winner["test"]
    assert not list((out / "runs").rglob("predictions.parquet"))
    assert "Within noise" in report.summary or "leads" in report.summary
    assert report.leaderboard[0]["seeds"] == [0, 1]


def test_the_best_vote_together_in_a_command_and_over_http(grid, cells_folder, tmp_path: Path):
    out, _ = grid
    image, voted = next(cells_folder.rglob("*.bmp")), tmp_path / "voted"
    best = sorted((out / "top").iterdir())
    done = CliRunner().invoke(cli, ["ensemble", str(voted), *map(str, best)])
    assert "soft vote of 1, 2" in done.output
    done = CliRunner().invoke(cli, ["predict", str(voted), str(image), "--json"])
    (answer,) = json.loads(done.stdout)["predictions"]
    with client_of(voted) as client:
        (served,) = client.post("/v1/predict", content=image.read_bytes()).json()["predictions"]
    data = [("x", image.read_bytes())]
    each = [predictions(Classifier.load(bundle).predict(data))[0].probability for bundle in best]
    assert answer["probability"] == pytest.approx(np.mean(np.asarray(each)), abs=1e-6)
    assert served["probability"] == pytest.approx(answer["probability"], abs=1e-6)


def test_the_registry_knows_where_the_winner_came_from(grid, dataset, tmp_path: Path):
    out, report = grid
    registry = ["--registry", str(tmp_path / "models")]
    done = CliRunner().invoke(cli, ["models", "add", str(out / "top" / "1"), "cells", *registry])
    assert "cells@1: added" in done.output
    done = CliRunner().invoke(cli, ["models", "show", "cells", *registry, "--json"])
    assert json.loads(done.stdout)["versions"][0]["lineage"] == {
        "run": str(out / "runs" / report.winner["run"]),
        "data": str(dataset.location),
        "sweep": str(out),
    }


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
    settings = load_sweep(str(out.parent / "small.yaml"), ["resources.side_by_side=1"])
    again = run_sweep(settings, dataset, out, resume=True)
    after = (out / "runs.jsonl").read_text()
    assert after.startswith(before)
    repeated = [json.loads(line)["name"] for line in after[len(before) :].splitlines()]
    assert repeated == ["002"], "only the failed run is tried again"
    assert again.winner == report.winner


def test_what_is_no_sweep_or_another_one_is_not_resumed(grid, dataset, tmp_path: Path):
    out, _ = grid
    settings = load_sweep(str(out.parent / "small.yaml"))
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="is no sweep"):
        run_sweep(settings, dataset, tmp_path, resume=True)
    for changed in ("epochs=4", "resources.workers=2"):
        other = load_sweep(str(out.parent / "small.yaml"), [changed])
        with pytest.raises(UserError, match="other settings"):
            run_sweep(other, dataset, out, resume=True)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


@pytest.fixture(scope="module")
def one_class_to_validate(cells_folder, tmp_path_factory) -> Path:
    """C-NMC's fold 1, which validates, without a healthy cell."""
    folder = tmp_path_factory.mktemp("one_class")
    shutil.copytree(cells_folder, folder / "cells")
    shutil.rmtree(folder / "cells" / "training_data" / "fold_1" / "hem")
    prepare(folder / "cells", folder / "dataset", "c-nmc", StorageSettings(size=32))
    return folder / "dataset"


LR = {"lr": {"choice": [1e-3]}}


@pytest.mark.parametrize(
    ("changes", "typed", "words"),
    [
        ({"search": {}}, [], "search: dictionary should have at least 1 item"),
        (
            {"search": {"attention": {"choice": ["none", "multy"]}}},
            [],
            "search.model.attention: .*multy",
        ),
        (
            {"search": LR, "metric": "test_auc"},
            [],
            "metric: 'test_auc' is not known; choose",
        ),
        ({"search": LR}, ["protocol=official-folds"], "validation_auc: is not reported, as valid"),
        ({"search": LR}, ["resources.cpus=999"], "one run takes 999 CPUs; the cluster has 1 nodes"),
        ({"search": LR}, ["--resume"], "is no sweep"),
    ],
    ids=["empty", "variant", "metric", "not reported", "never placed", "no sweep"],
)
def test_a_mistake_is_one_line_and_starts_nothing(
    changes, typed, words, one_class_to_validate: Path, tmp_path: Path, capsys, monkeypatch
):
    (tmp_path / "s.yaml").write_text(yaml.safe_dump(SMALL | {"searcher": "grid"} | changes))
    out = tmp_path / "out"
    if "--resume" in typed:
        out.mkdir()
    data = ["--data", str(one_class_to_validate)]
    command = ["leuk-ray", "tune", str(tmp_path / "s.yaml"), *data, "--out", str(out), *typed]
    monkeypatch.setattr(sys, "argv", command)
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("leuk-ray: ")
    assert re.search(words, line), line
    assert not out.exists() or not list(out.iterdir())


def test_a_run_takes_over_anothers_weights_moments_and_place_in_time(dataset, tmp_path: Path):
    recipe = sweep(tmp_path, search={"lr": {"choice": [1e-3]}}, searcher="grid").base()
    shared = TrialContext(
        root=tmp_path,
        dataset=dataset,
        splits={split_key(recipe): split_cells(dataset.cells, recipe.split)},
        resources=Resources(),
        side_by_side=1,
        evaluated=True,
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
        train_in_process(loser, replace(shared, evaluated=False), lambda metrics, save: None, kept)
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
