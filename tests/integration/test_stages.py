"""Eight stages by the Python API, from files to a service: the same scores everywhere."""

import base64
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import pytest

import leuk_ray as lr
from leuk_ray.datasets.prepared import PreparedDataset
from leuk_ray.datasets.synthetic import SyntheticSpec
from leuk_ray.datasets.synthetic_stages import stage_name, write_stages
from leuk_ray.evaluation.calibration import class_logits_of, class_probabilities
from leuk_ray.evaluation.report_model import Report
from leuk_ray.io.storage import read_table
from leuk_ray.recipes.recipe import load_recipe
from leuk_ray.training.dry_run import dry_run
from leuk_ray.workflows.predict import predict_to_table
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
    return lr.prepare(
        folder,
        str(folder.parent / "dataset"),
        "folders",
        size=64,
        classes=STAGES,
        positive=STAGES[:2],
        ordered=True,
    )


def test_training_evaluation_answers_and_both_protocols_give_the_same_probabilities(
    folder: Path, stages: PreparedDataset, tmp_path: Path
):
    planned = dry_run(RECIPE, stages, workers=2)
    assert planned["steps_per_epoch"] > 1
    run = tmp_path / "run"
    result = lr.train(RECIPE, stages, str(run), workers=2)
    trained = read_table(run / "report" / "predictions.parquet")
    trained = trained.filter(pc.field("role") == "test").sort_by("uid")
    expected = class_probabilities(class_logits_of(trained), 1.0)
    assert expected.shape[1] == 8
    label = trained["label"].to_numpy()
    confusion = Report.read(run / "report").tested_classes
    assert confusion is not None
    assert confusion["accuracy"]["numerator"] == (expected.argmax(axis=1) == label).sum()

    metrics = result.to_pandas().set_index(["view", "metric"])
    accuracy = metrics.loc[("classes", "accuracy")]
    assert accuracy["numerator"] / accuracy["denominator"] == accuracy["value"]
    assert accuracy["denominator"] == len(label)
    assert "SYNTHETIC" in repr(result)
    assert "SYNTHETIC" in repr(stages)
    assert "<table" in result._repr_html_()
    assert len(stages.to_pandas()) == 144

    repeated = lr.evaluate(result, stages, tmp_path / "again", workers=2)
    assert repeated.to_pandas().equals(result.to_pandas())
    again = read_table(tmp_path / "again" / "predictions.parquet")
    again = again.filter(pc.field("role") == "test").sort_by("uid")
    ways = {"evaluate": class_probabilities(class_logits_of(again), 1.0)}

    uids = trained["uid"].to_pylist()
    files = [folder / f"{uid}.png" for uid in uids]
    out = tmp_path / "answers.parquet"
    predict_to_table(run / "bundle", files, out, workers=0)
    row_of = {row["name"]: row for row in read_table(out).to_pylist()}
    rows = [row_of[file.name] for file in files]
    answered = lr.Classifier.load(str(run)).predict(files).to_pandas()
    ways["api"] = answered[[f"probability:{stage}" for stage in STAGES]].to_numpy()
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
