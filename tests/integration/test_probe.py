"""A probe on Ray Train: the same head at any number of workers, and a bundle like any other."""

import json
from pathlib import Path

import numpy as np
import pytest

from leuk_ray.bundles.bundle import load_bundle
from leuk_ray.inference.check import graph_difference
from leuk_ray.inference.classifier import Classifier
from leuk_ray.inference.explain import explain_pixels
from leuk_ray.inference.onnx_export import export_bundle
from leuk_ray.models.zoo import build
from leuk_ray.recipes.recipe import load_recipe
from leuk_ray.workflows.train import train_and_evaluate

RECIPE = load_recipe("lite-probe", ["input_size=64"])


@pytest.fixture(scope="module")
def runs(dataset, tmp_path_factory) -> list[Path]:
    folder = tmp_path_factory.mktemp("probe")
    for workers in (1, 2):
        train_and_evaluate(RECIPE, dataset, folder / str(workers), workers=workers)
    return [folder / "1", folder / "2"]


def test_one_and_two_workers_fit_the_same_head_and_leave_the_backbone(runs: list[Path]):
    one, two = (load_bundle(run / "bundle").model.state_dict() for run in runs)
    pretrained = build(RECIPE.model, load_weights=True).state_dict()
    for name, value in one.items():
        own = "head." in name
        np.testing.assert_allclose(value, two[name], atol=1e-4 if own else 0, err_msg=name)
        assert own or value.equal(pretrained[name]), name
    (line,) = map(json.loads, (runs[0] / "metrics.jsonl").read_text().splitlines())
    assert line["penalty_folds"] >= 2
    page = (runs[0] / "report" / "report.html").read_text()
    assert "the head is logistic regression on its standardized features" in page


def test_its_bundle_is_exported_and_explained_like_any_other(runs: list[Path], tmp_path, dataset):
    export_bundle(runs[0] / "bundle", tmp_path / "graph", onnx=True)
    exported = load_bundle(tmp_path / "graph")
    assert graph_difference(exported, exported.folder / "model.onnx") < 1e-4
    pixels = dataset.reader().read(np.asarray([3, 60]))
    found = explain_pixels(Classifier.load(runs[0] / "bundle"), pixels)
    assert all(0 < one.agreeing <= 1 for one in found)
