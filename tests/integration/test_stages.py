"""Eight stages from files to a service: two workers, a dry run, and the same scores everywhere."""

import base64
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import pytest

from leuk_ray.datasets.images import StorageSettings
from leuk_ray.datasets.layouts import LayoutOptions
from leuk_ray.datasets.prepare import prepare
from leuk_ray.datasets.prepared import PreparedDataset
from leuk_ray.datasets.synthetic import SyntheticSpec
from leuk_ray.datasets.synthetic_stages import stage_name, write_stages
from leuk_ray.evaluation.calibration import class_logits_of, class_probabilities
from leuk_ray.evaluation.report_model import Report
from leuk_ray.io.storage import read_table
from leuk_ray.recipes.recipe import load_recipe
from leuk_ray.runs.target import EvaluationTarget
from leuk_ray.training.dry_run import dry_run
from leuk_ray.workflows.evaluate import evaluate
from leuk_ray.workflows.pool import Pool
from leuk_ray.workflows.predict import predict_to_table
from leuk_ray.workflows.train import train_and_evaluate
from tests.support.serving_bundles import client_of

STAGES = [stage_name(stage) for stage in range(8)]
RECIPE = load_recipe("lite", ["input_size=64", "epochs=1", "lr=1e-3", "batch_size=16"])


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("stages") / "cells"
    write_stages(folder, SyntheticSpec(cells=144, subjects=9, seed=5), stages=8)
    return folder


@pytest.fixture(scope="module")
def stages(folder: Path) -> PreparedDataset:
    options = LayoutOptions.parse(",".join(STAGES), ",".join(STAGES[:2]), ordered=True)
    target = folder.parent / "dataset"
    prepare(folder, target, "folders", StorageSettings(size=64), options=options)
    return PreparedDataset.open(target)


def test_training_evaluation_answers_and_both_protocols_give_the_same_probabilities(
    folder: Path, stages: PreparedDataset, tmp_path: Path
):
    planned = dry_run(RECIPE, stages, workers=2)
    assert planned["steps_per_epoch"] > 1
    run = tmp_path / "run"
    train_and_evaluate(RECIPE, stages, run, workers=2)
    trained = read_table(run / "report" / "predictions.parquet")
    trained = trained.filter(pc.field("role") == "test").sort_by("uid")
    expected = class_probabilities(class_logits_of(trained), 1.0)
    assert expected.shape[1] == 8
    label = trained["label"].to_numpy()
    confusion = Report.read(run / "report").tested_classes
    assert confusion is not None
    assert confusion["accuracy"]["numerator"] == (expected.argmax(axis=1) == label).sum()

    evaluate(EvaluationTarget.at(run), stages, tmp_path / "again", pool=Pool(2))
    again = read_table(tmp_path / "again" / "predictions.parquet")
    again = again.filter(pc.field("role") == "test").sort_by("uid")
    ways = {"evaluate": class_probabilities(class_logits_of(again), 1.0)}

    uids = trained["uid"].to_pylist()
    files = [folder / f"{uid}.png" for uid in uids]
    out = tmp_path / "answers.parquet"
    predict_to_table(run / "bundle", files, out, workers=0)
    row_of = {row["name"]: row for row in read_table(out).to_pylist()}
    rows = [row_of[file.name] for file in files]
    ways["predict"] = np.asarray([[row[f"probability:{s}"] for s in STAGES] for row in rows])

    parts = [("file", (file.name, file.read_bytes(), "image/png")) for file in files]
    data = [base64.b64encode(file.read_bytes()).decode() for file in files]
    request = {"name": "image", "shape": [len(data)], "datatype": "BYTES", "data": data}
    with client_of(run / "bundle") as client:
        answers = client.post("/v1/predict", files=parts).json()["predictions"]
        (name,) = [model["name"] for model in client.get("/v1/models").json()["models"]]
        v2 = client.post(f"/v2/models/{name}/infer", json={"inputs": [request]}).json()
    ways["v1"] = np.asarray([list(answer["probabilities"].values()) for answer in answers])
    outputs = {output["name"]: output for output in v2["outputs"]}
    ways["v2"] = np.reshape(outputs["probabilities"]["data"], (len(data), 8))
    for way, found in ways.items():
        np.testing.assert_allclose(found, expected, atol=1e-6, err_msg=way)
    called = [STAGES[number] for number in expected.argmax(axis=1)]
    assert [row["label"] for row in rows] == called
    assert [answer["label"] for answer in answers] == called
    assert outputs["label"]["data"] == called
    positive = expected[:, :2].sum(axis=1)
    np.testing.assert_allclose([row["probability"] for row in rows], positive, atol=1e-6)
