"""MLflow: one MLflow run, however often a run is stopped and resumed."""

from __future__ import annotations

from pathlib import Path

import pytest

from leuk_ray.recipes.recipe import load_recipe
from leuk_ray.training.tracking import EXPERIMENT, MlflowRun
from leuk_ray.utils.errors import UserError

mlflow = pytest.importorskip("mlflow")


def test_a_resumed_run_keeps_its_mlflow_run(tmp_path: Path, monkeypatch):
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    uri, folder = (tmp_path / "store").as_uri(), tmp_path / "run"
    folder.mkdir()
    recipe = load_recipe("lite", ["lr=0.01"])
    first = MlflowRun.of(uri, folder, recipe)
    first.log({"epoch": 1, "train_loss": 0.5, "monitor": "train_accuracy"}, 1)
    first.end("FAILED")
    again = MlflowRun.of(uri, folder, recipe)
    assert again == first
    again.log({"epoch": 2, "train_loss": 0.25, "monitor": "train_accuracy"}, 2)
    again.end("FINISHED")
    client = mlflow.MlflowClient(uri)
    experiment = client.get_experiment_by_name(EXPERIMENT)
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.status == "FINISHED"
    assert run.data.params["training.lr"] == "0.01"
    losses = client.get_metric_history(run.info.run_id, "train_loss")
    assert [(m.step, m.value) for m in losses] == [(1, 0.5), (2, 0.25)]
    assert uri not in (folder / "mlflow.json").read_text()


def test_a_store_that_cannot_be_used_is_one_line(tmp_path: Path, monkeypatch):
    monkeypatch.delenv("MLFLOW_ALLOW_FILE_STORE", raising=False)
    with pytest.raises(UserError, match="--mlflow: ") as caught:
        MlflowRun.of("nonsense://there", tmp_path, load_recipe("lite"))
    assert "\n" not in str(caught.value)
