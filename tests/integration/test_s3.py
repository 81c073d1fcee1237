"""The whole path on s3://, against a real server on this machine."""

import io
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pyarrow.csv
import pytest
from moto.server import ThreadedMotoServer
from pyarrow import fs

from leuk_ray.bundles.bundle import load_bundle
from leuk_ray.cli import main as cli
from leuk_ray.datasets.images import StorageSettings
from leuk_ray.datasets.prepare import prepare
from leuk_ray.datasets.prepared import PreparedDataset
from leuk_ray.inference.classifier import Classifier
from leuk_ray.io.storage import (
    exists,
    fetched,
    list_files,
    read_bytes,
    read_json,
    read_table,
    upload,
    write_bytes,
)
from leuk_ray.recipes.recipe import load_recipe
from leuk_ray.training.trainer import run_training
from leuk_ray.utils.errors import UserError

BUCKET = "s3://lab"
SMALL = {
    "weights": "scratch",
    "input_size": 32,
    "epochs": 1,
    "frozen_norm": "none",
    "lr": 1e-4,
}


@pytest.fixture(scope="module", autouse=True)
def server(s3_port: int) -> Iterator[None]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=s3_port, verbose=False)
    server.start()
    fs.FileSystem.from_uri(f"{BUCKET}?allow_bucket_creation=true")[0].create_dir("lab")
    yield
    server.stop()


@pytest.fixture
def leuk_ray(capsys, monkeypatch):
    """Runs a command as typed, in this process; the values that --json prints."""

    def run(*arguments: object) -> dict:
        monkeypatch.setattr(sys, "argv", ["leuk-ray", *map(str, arguments), "--json"])
        cli.main()
        return json.loads(capsys.readouterr().out)

    return run


def settings(**changes: object) -> list[str]:
    return [f"{key}={value}" for key, value in (SMALL | changes).items()]


def test_prepare_split_audit_train_and_predict(cells_folder: Path, tmp_path: Path, leuk_ray):
    data, run = f"{BUCKET}/cells.dataset", f"{BUCKET}/runs/lite"
    counts = leuk_ray("prepare", cells_folder, data, "--layout", "c-nmc", "--size", 32)["counts"]
    assert (counts["rejected"], counts["rows"]) == (0, 121)
    local = prepare(cells_folder, tmp_path / "dataset", "c-nmc", StorageSettings(size=32))
    assert read_json(f"{data}/dataset.json") == local
    ours, theirs = PreparedDataset.open(data), PreparedDataset.open(tmp_path / "dataset")
    assert ours.cells.equals(theirs.cells)
    assert not exists(f"{data}.partial")

    split = leuk_ray("split", data, "--out", f"{BUCKET}/split.parquet")
    assert len(read_table(f"{BUCKET}/split.parquet")) == 121 - split["left_out"]
    leuk_ray("audit", data)
    leuk_ray("audit", data, "--out", f"{BUCKET}/audit")
    assert read_json(f"{data}/audit.json") == read_json(f"{BUCKET}/audit/audit.json")
    assert list_files(f"{BUCKET}/audit") == ["DATASHEET.md", "audit.html", "audit.json"]

    report = leuk_ray("train", "lite", *settings(), "--data", data, "--out", run)
    left = list_files(run)
    for name in ("config.yaml", "split.parquet", "environment.json", "metrics.jsonl"):
        assert name in left
    for folder in ("tensorboard/", "checkpoints/epoch_", "report/figures/", "bundle/model"):
        assert any(name.startswith(folder) for name in left), folder
    assert read_json(f"{run}/report/report.json") == report
    with pytest.raises(UserError, match="add --resume"):
        run_training(load_recipe("lite", settings()), ours, run, workers=1)
    with pytest.raises(UserError, match="another recipe"):
        run_training(load_recipe("lite", settings(lr=0.5)), ours, run, workers=1, resume=True)
    run_training(load_recipe("lite", settings()), ours, run, workers=1, resume=True)
    assert len(read_bytes(f"{run}/metrics.jsonl").splitlines()) == 1
    typed = "evaluate", run, "--data", data, "--out", f"{BUCKET}/again", "--no-images"
    judged = leuk_ray(*typed)
    auc = (found["metrics"]["test"]["auc"]["value"] for found in (judged, report))
    assert next(auc) == pytest.approx(next(auc), abs=1e-6)

    images = sorted(cells_folder.glob("training_data/fold_0/all/*.bmp"))[:3]
    for image in images:
        write_bytes(f"{BUCKET}/images/more/{image.name}", image.read_bytes())
    write_bytes(f"{BUCKET}/images/text.bmp", b"a letter")
    answers = leuk_ray("predict", run, f"{BUCKET}/images", "--out", f"{BUCKET}/answers.csv")
    table = pyarrow.csv.read_csv(io.BytesIO(read_bytes(f"{BUCKET}/answers.csv"))).to_pylist()
    with fetched(f"{run}/bundle") as bundle:
        direct = Classifier.load(bundle).predict([(i.name, i.read_bytes()) for i in images])
    assert [row["name"] for row in table] == [*(f"more/{i.name}" for i in images), "text.bmp"]
    for row, answer in zip(table, direct, strict=False):
        assert row["probability"] == pytest.approx(answer.as_dict()["probability"], abs=1e-6)
    assert "not_an_image" in table[3]["error"]
    assert answers["images"] == 4


def test_a_changed_bundle_is_refused_by_its_address(tmp_path: Path):
    (tmp_path / "bundle.json").write_text("{}")
    upload(tmp_path, f"{BUCKET}/broken")
    with pytest.raises(UserError, match=r"s3://lab/broken/bundle\.json: not understood"):
        load_bundle(f"{BUCKET}/broken")
    with pytest.raises(UserError, match="s3://lab/none: is no bundle"):
        load_bundle(f"{BUCKET}/none")


def test_addresses_that_cannot_work_are_told():
    with pytest.raises(UserError, match=r"s3://nowhere/file: cannot be written .*does not exist"):
        write_bytes("s3://nowhere/file", b"x")
    with pytest.raises(UserError, match="no prepared dataset"):
        PreparedDataset.open("s3://nowhere/dataset")
    server = "endpoint_override=127.0.0.1:1&scheme=http"
    with pytest.raises(UserError, match="cannot be re"):
        PreparedDataset.open(f"s3://lab/dataset?{server}")
