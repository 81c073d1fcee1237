"""Experiments: what cannot work is refused before Ray is asked for anything; a few rows run."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from leuk_ray.cli import main as cli
from leuk_ray.datasets.images import StorageSettings
from leuk_ray.datasets.prepare import prepare
from leuk_ray.datasets.prepared import PreparedDataset
from leuk_ray.evaluation.baselines import BASELINES, measure, score_baseline
from leuk_ray.experiments.baselines import outcomes_of_baselines
from leuk_ray.experiments.experiment import run_experiment
from leuk_ray.experiments.plan import make_plan
from leuk_ray.experiments.report import ExperimentReport
from leuk_ray.experiments.settings import load_experiment
from leuk_ray.runs.spec import make_splits, split_key
from leuk_ray.utils.errors import UserError


def refused(capsys, monkeypatch, *arguments: object) -> str:
    monkeypatch.setattr(sys, "argv", ["leuk-ray", "experiment", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("leuk-ray: ")]
    assert ended.value.code == 2
    assert len(said) == 1
    return said[0]


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("saeed", (), "no such experiment or .yaml file; did you mean saeed2022"),
        ("saeed2022", ("--models", "vgg"), "--models vgg: saeed2022 has none"),
        ("saeed2022", ("epoch=1",), "no such setting; did you mean epochs"),
        ("saeed2022", ("backbone=resnet1",), "timm"),
        ("bukhari2022", (), "split.source all-idb1: no cell comes from it"),
    ],
)
def test_what_cannot_work_is_refused_in_one_line(
    name: str, options: tuple, message: str, dataset, tmp_path: Path, capsys, monkeypatch
):
    out = tmp_path / "out"
    asked = ("--data", dataset.location, "--out", out, "--scale", "tiny", "--models", "v2s")
    if name == "bukhari2022":
        asked = asked[:-2]
    assert message in refused(capsys, monkeypatch, name, *asked, *options)
    assert not out.exists()


def test_data_without_subjects_cannot_keep_them_apart(cells_folder: Path, tmp_path: Path):
    folder = cells_folder / "training_data" / "fold_0"
    prepare(folder, tmp_path / "nameless", "folders", StorageSettings(size=64))
    nameless = PreparedDataset.open(str(tmp_path / "nameless"))

    def never():
        raise AssertionError("Ray was asked for")

    with pytest.raises(UserError, match=r"protocol subject-disjoint: .* cells have no subject"):
        run_experiment(
            load_experiment("saeed2022"),
            nameless,
            tmp_path / "out",
            scale="tiny",
            connect=never,
            only=["efficientnet-b0"],
        )
    assert not (tmp_path / "out").exists()


def test_baselines_side_by_side_give_the_numbers_of_one_process(dataset, tmp_path: Path):
    experiment = load_experiment("saeed2022")
    plan = make_plan(experiment, experiment.scales["tiny"], dataset.cells, {})
    splits = make_splits(dataset, [spec.resolved for spec in plan.specs.values()])
    found = outcomes_of_baselines(tmp_path, experiment, plan, dataset, splits)
    assert {place.of for place in found} == {"area", "texture-svm"}
    whole = np.arange(len(dataset.cells))
    features = dict(zip(BASELINES, measure(BASELINES, dataset.reader(), whole), strict=True))
    specs = {(p.data, p.protocol, p.repeat): spec for p, spec in plan.specs.items()}
    for place in found:
        spec = specs[place.data, place.protocol, place.repeat]
        split = splits[split_key(spec.resolved)]
        name = BASELINES[[*BASELINES].index(place.of)]
        alone = score_baseline(name, dataset.cells, split, place.repeat - 1, features[name])
        uids = dataset.cells["uid"].take(pa.array(alone.rows)).to_pylist()
        expected = dict(zip(uids, alone.logits.tolist(), strict=True))
        scored = pq.read_table(tmp_path / "baselines" / f"{place.name}.parquet")
        assert len(scored)
        for uid, probability in zip(
            *(scored[n].to_pylist() for n in ("uid", "probability")), strict=True
        ):
            assert probability == pytest.approx(1 / (1 + math.exp(-expected[uid])), abs=1e-9)
    written = {path: path.stat().st_mtime_ns for path in (tmp_path / "baselines").iterdir()}
    assert outcomes_of_baselines(tmp_path, experiment, plan, dataset, splits) == found
    assert {path: path.stat().st_mtime_ns for path in written} == written, "nothing is scored twice"


def test_a_few_rows_train_are_reported_and_are_not_repeated(dataset, tmp_path: Path):
    def asked(only=("efficientnet-b0", "vit-b16"), **options):
        return run_experiment(
            load_experiment("saeed2022"),
            dataset,
            tmp_path / "out",
            scale="tiny",
            connect=lambda: None,
            only=only,
            show_images=False,
            **options,
        )

    report = asked()
    assert [run["status"] for run in report.runs] == ["finished"] * 4
    rows = {row["name"]: row for row in report.tables[1]["rows"]}
    voted = rows["EfficientNet-B0 + ViT, soft vote"]
    assert [line["protocol"] for line in voted["ours"]] == ["paper-literal", "subject-disjoint"]
    assert all("accuracy" in line["cells"] for line in voted["ours"])
    assert rows["VGG16 + ECA"]["reason"] == "left out by --models"
    assert {leak["of"] for leak in report.leaks} == {"efficientnet-b0", "vit-b16", "b0-vit"}
    assert "samples" not in report.figures
    assert ExperimentReport.read(tmp_path / "out" / "report") == report
    table = (tmp_path / "out" / "runs.jsonl").read_text()
    with pytest.raises(UserError, match="--resume"):
        asked()
    with pytest.raises(UserError, match="other settings"):
        asked(resume=True, values={"training.epochs": 3})
    assert asked(only=["vit-b16"], resume=True) == report, "what was trained before stays"
    assert (tmp_path / "out" / "runs.jsonl").read_text() == table
