"""A run on Ray Train, from recipe to bundle and report."""

import json
import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from leuk_ray.augment.settings import AugmentSettings
from leuk_ray.bundles.bundle import derive_bundle, load_bundle
from leuk_ray.datasets.images import StorageSettings
from leuk_ray.datasets.loaders import ReaderLoader, ResidentLoader, StreamLoader, make_loaders
from leuk_ray.datasets.plan import plan_epoch
from leuk_ray.datasets.splits import rows_with_role, split_cells
from leuk_ray.evaluation.report_model import Report
from leuk_ray.inference.classifier import Classifier
from leuk_ray.inference.predictions import Prediction
from leuk_ray.models.zoo import build
from leuk_ray.recipes.recipe import load_recipe
from leuk_ray.runs.report import report_on
from leuk_ray.runs.target import EvaluationTarget
from leuk_ray.training.cells import EpochPlanner, TrainingCells
from leuk_ray.training.dry_run import dry_run
from leuk_ray.training.learner import Learner
from leuk_ray.training.loop import train
from leuk_ray.training.state import TrainingState
from leuk_ray.training.trainer import run_training
from leuk_ray.utils.errors import TrainingDiverged, UserError
from leuk_ray.workflows.compare import compare
from leuk_ray.workflows.evaluate import evaluate
from leuk_ray.workflows.pool import Pool, score_rows
from leuk_ray.workflows.train import train_and_evaluate

CPU = torch.device("cpu")


def recipe(**changes):
    base = {
        "input_size": 64,
        "epochs": 2,
        "frozen_norm": "all",
        "lr": 1e-4,
    } | changes
    return load_recipe("lite", [f"{key}={value}" for key, value in base.items()])


@pytest.fixture(scope="module")
def run(dataset, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "two"
    train_and_evaluate(recipe(), dataset, out, workers=2)
    return out


def history(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_a_run_leaves_everything_the_contract_names(run: Path):
    names = {path.name for path in run.iterdir()}
    assert names >= {
        "config.yaml", "split.parquet", "metrics.jsonl", "tensorboard", "checkpoints",
        "report", "bundle", "environment.json",
    }  # fmt: skip
    assert load_recipe(str(run / "config.yaml")) == recipe()
    report = json.loads((run / "report" / "report.json").read_text())
    assert report["run"]["synthetic"]
    assert len(history(run)) == 2


def test_every_validation_and_test_row_is_scored_exactly_once(run: Path):
    split = pq.read_table(run / "split.parquet").to_pylist()
    scored = pq.read_table(run / "report" / "predictions.parquet")["uid"].to_pylist()
    assert sorted(scored) == sorted(r["uid"] for r in split if r["role"] != "train")


@pytest.fixture
def cache_file(dataset) -> Iterator[Path]:
    """Where a run keeps the node's host cache; it is not left behind."""
    folder = Path(tempfile.gettempdir()) / f"leuk_ray-{os.getuid()}"
    file = folder / f"{dataset.pixels_key()}.arrow"
    file.unlink(missing_ok=True)
    yield file
    file.unlink(missing_ok=True)


def test_another_number_of_workers_and_another_cache_give_the_same_run(
    run: Path, dataset, tmp_path: Path, cache_file: Path
):
    trained = run_training(recipe(cache="host"), dataset, tmp_path / "run", workers=3)
    assert cache_file.exists()
    split = pq.read_table(run / "split.parquet")
    judged = rows_with_role(dataset.cells, split, ("validation", "test"))
    assert trained.rows.tolist() == judged.tolist(), "each row scored exactly once"
    assert len(judged) % 2, "a count that two workers do not divide"
    for ours, theirs in zip(history(tmp_path / "run"), history(run), strict=True):
        for name in ("train_loss", "validation_loss"):
            assert ours[name] == pytest.approx(theirs[name], abs=1e-3), name


def test_a_run_stopped_and_resumed_equals_the_unbroken_one(run: Path, dataset, tmp_path: Path):
    out = tmp_path / "run"
    run_training(recipe(epochs=1), dataset, out, workers=2)
    (out / "config.yaml").write_text(recipe().to_yaml())
    state = next((out / "checkpoints").glob("epoch_*")) / "state.pt"
    unfinished = torch.load(state, weights_only=True) | {"stopped": ""}
    torch.save(unfinished, state)
    run_training(recipe(), dataset, out, workers=2, resume=True)
    for ours, theirs in zip(history(out), history(run), strict=True):
        assert ours["train_loss"] == theirs["train_loss"]
        assert ours["validation_loss"] == theirs["validation_loss"]


def test_existing_and_foreign_runs_are_refused(run: Path, dataset):
    with pytest.raises(UserError, match="--resume"):
        run_training(recipe(), dataset, run, workers=1)
    with pytest.raises(UserError, match="another recipe"):
        run_training(recipe(lr=0.5), dataset, run, workers=1, resume=True)


def test_what_cannot_work_is_refused_before_anything_is_written(dataset, tmp_path: Path):
    with pytest.raises(UserError, match="needs 500 CPUs and 1 for Ray Data, 501 in all"):
        run_training(recipe(), dataset, tmp_path / "run", workers=500)
    with pytest.raises(UserError, match="need 1 GPUs, the cluster has 0"):
        run_training(recipe(), dataset, tmp_path / "run", workers=1, gpus=True)
    with pytest.raises(UserError, match="2 workers need 4; raise batch_size"):
        run_training(recipe(batch_size=2), dataset, tmp_path / "run", workers=(1, 2))
    with pytest.raises(UserError, match=r"timm .* has none"):
        run_training(recipe(backbone="nonsense"), dataset, tmp_path / "run", workers=1)
    assert not (tmp_path / "run").exists()


def test_a_dry_run_reckons_what_the_plan_says(dataset):
    values = dry_run(recipe(ema_decay=0.9), dataset, workers=(2, 3), measure=True)
    assert values["workers"] == 2
    split = split_cells(dataset.cells, recipe().split)
    train_rows = rows_with_role(dataset.cells, split, ("train",))
    labels = np.asarray(dataset.cells["label"].to_pylist())[train_rows]
    uses = 2 * max(np.bincount(labels))  # lite balances the classes
    assert values["samples_per_epoch"] == uses
    assert values["steps_per_epoch"] == -(-uses // 16)
    assert values["cells"]["train"] == len(train_rows)
    # Weights twice (trained and averaged), Adamax's two moments, and a little beside them.
    assert values["bytes"]["checkpoint"] == pytest.approx(4 * 4 * values["parameters"], rel=0.1)
    assert 0 < values["seconds"]["step"] < values["seconds"]["epoch"] < values["seconds"]["run"]


def test_what_only_a_gpu_can_do_is_refused_without_one(dataset, tmp_path: Path):
    for setting in ("sync_batchnorm=true", "precision=fp16"):
        name, _, value = setting.partition("=")
        with pytest.raises(UserError, match="add --gpus"):
            run_training(recipe(**{name: value}), dataset, tmp_path / "run", workers=1)
    assert not (tmp_path / "run").exists()


def test_feeds_deliver_the_same_pixels_in_the_same_order(dataset):
    generator = np.random.default_rng(0)
    batches = [generator.integers(0, 121, n) for n in (16, 16, 1, 15, 0, 121, 300, 7)]
    expected = list(ReaderLoader(dataset.reader(), CPU).iter_batches(batches))
    stream, ahead = StreamLoader(dataset.reader(), CPU), StreamLoader(dataset.reader(), CPU, 400)
    resident = ResidentLoader(stream, np.arange(121), 64, CPU)
    for delivered in (
        stream.iter_batches(batches),
        ahead.iter_batches(batches),
        resident.iter_batches(batches),
        resident.iter_batches(batches),
    ):
        for ours, theirs in zip(delivered, expected, strict=True):
            assert torch.equal(ours, theirs)
    assert list(stream.iter_batches([])) == []


@pytest.mark.parametrize("window", ["all", 64])
def test_stream_host_and_device_feed_give_the_same_metrics_to_the_last_digit(
    dataset, window, cache_file: Path
):
    """And the network sees each cell as often as the plans say."""
    settings = recipe(window=window, balance="equal").training
    split = split_cells(dataset.cells, recipe().split)
    cells = TrainingCells.of(dataset, split)
    of_pixels = {x.tobytes(): row for row, x in enumerate(dataset.reader().read(np.arange(121)))}
    assert len(of_pixels) == 121, "each cell can be told by its pixels"
    expected: Counter = Counter()
    for epoch in range(2):
        expected += Counter(
            plan_epoch(
                cells.train, cells.labels[cells.train], seed=0, epoch=epoch,
                balance="equal", batch_size=16, window=window,
            ).rows.tolist()
        )  # fmt: skip
    expected += Counter(dict.fromkeys(cells.validation.tolist(), 2))
    histories = {}
    for cache in ("none", "host", "device"):
        torch.manual_seed(0)
        core = build(recipe().model, load_weights=True)
        seen: Counter = Counter()

        def count(module, inputs, seen=seen):
            images = inputs[0].permute(0, 2, 3, 1).to(torch.uint8)
            seen.update(of_pixels[image.numpy().tobytes()] for image in images)

        core.register_forward_pre_hook(count)
        loaders = make_loaders(
            dataset, cells.train, cells.validation, CPU, cache=cache, window=window,
            world_size=1, workers_on_node=1,
        )  # fmt: skip
        state = train(
            Learner(core, settings), TrainingState(), EpochPlanner(cells, settings, 0), *loaders,
            AugmentSettings(policy="none"), lambda metrics, save: None,
        )  # fmt: skip
        timings = ("seconds", "data_wait_seconds", "images_per_second")
        histories[cache] = [
            {key: value for key, value in line.items() if key not in timings}
            for line in state.history
        ]
        assert len(state.history) == 2
        assert seen == expected, cache
    assert histories["host"] == histories["none"]
    assert histories["device"] == histories["none"]


def test_the_same_bytes_give_the_same_probability_everywhere(
    run: Path, dataset, cells_folder: Path
):
    rows = np.asarray([5, 50, 100])
    _, logits = score_rows(run / "bundle", dataset, rows, Pool(2))
    files = {path.stem: path for path in cells_folder.rglob("*.bmp")}
    classifier = Classifier.load(run / "bundle")
    uids = [dataset.cells["uid"][row].as_py() for row in rows.tolist()]
    answers = classifier.predict([(uid, files[uid].read_bytes()) for uid in uids])
    for answer, logit in zip(answers, logits, strict=True):
        assert isinstance(answer, Prediction)
        assert answer.probability == pytest.approx(1 / (1 + np.exp(-logit[0])), abs=1e-5)


def test_a_bundle_alone_is_evaluated_on_the_test_cells_of_its_run_or_marked(
    run: Path, dataset, tmp_path: Path
):
    own = Report.read(run / "report").tested
    assert own is not None
    target = EvaluationTarget.at(run / "bundle")
    report = evaluate(target, dataset, tmp_path / "report", show_images=False)
    assert report.tested is not None
    assert report.tested["confusion"] == own["confusion"]
    assert report.run.label == ""
    marked = evaluate(target, dataset, tmp_path / "all", seen=True, show_images=False)
    assert marked.tested is not None
    assert marked.tested["cells"] == 121
    assert marked.run.label == "TRAINED-ON-THESE"
    with pytest.raises(UserError, match="neither a bundle nor a run"):
        EvaluationTarget.at(tmp_path)


def test_a_run_judged_again_tells_the_same_and_decides_by_its_validation_cells(
    run: Path, dataset, tmp_path: Path
):
    first = Report.read(run / "report")
    again = evaluate(EvaluationTarget.at(run), dataset, tmp_path / "again", show_images=False)
    assert again.metrics["validation"] == first.metrics["validation"]
    assert again.tested is not None
    assert first.tested is not None
    assert again.tested["confusion"] == first.tested["confusion"]
    assert again.decided is not None
    fixed = again.decided["fixed_on"]
    assert fixed["source"] == "validation cells of the run"
    assert fixed["cells"] == first.scored["validation"]["rows"]
    assert first.decided is not None
    logits = [point["log_odds"] for point in again.decided["points"]]
    assert logits == [point["log_odds"] for point in first.decided["points"]]
    checklist = json.loads((tmp_path / "again" / "checklist.json").read_text())
    values = {item["about"]: item["value"] for item in checklist}
    assert "adamax" in values["training"]
    assert values["initial weights"] == "imagenet"
    assert values["how images were acquired"] == "not available"
    manifest, card = (
        load_bundle(run / "bundle").manifest,
        (run / "bundle/MODEL_CARD.md").read_text(),
    )
    assert manifest.test["metrics"]["auc"]["value"] == first.tested["auc"]["value"]
    right = first.tested["accuracy"]
    assert f"{right['numerator']:.0f} of {right['denominator']}" in card


def test_two_bundles_are_compared_on_test_cells_alone(run: Path, dataset, tmp_path: Path):
    split = pq.read_table(run / "split.parquet")
    found = compare((run, run / "bundle"), dataset)
    assert found["cells"] == split["role"].to_pylist().count("test")
    (warning,) = found["warnings"]
    assert "have the same weights" in warning
    assert found["metrics"]["accuracy"]["difference"] == 0
    assert found["only_first"] == found["only_second"] == 0
    shutil.copytree(run / "bundle", tmp_path / "alone")
    assert compare((run, tmp_path / "alone"), dataset)["cells"] == found["cells"]
    other = load_bundle(run / "bundle")
    derive_bundle(other, tmp_path / "larger", changes={"storage": StorageSettings(size=96)})
    with pytest.raises(UserError, match="expects center crops stored at 96 px"):
        compare((run, tmp_path / "larger"), dataset)
    with pytest.raises(UserError, match="expects center crops stored at 96 px"):
        evaluate(EvaluationTarget.at(tmp_path / "larger"), dataset, tmp_path / "judged")


def test_a_report_tells_no_path_of_first_weights(run: Path, dataset, tmp_path: Path):
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    elsewhere = load_recipe(str(run / "config.yaml"), ["weights=/home/somebody/first.safetensors"])
    (copy / "config.yaml").write_text(elsewhere.to_yaml())
    split = pq.read_table(run / "split.parquet")
    rows = rows_with_role(dataset.cells, split, ("validation", "test"))
    out = tmp_path / "report"
    target, logits = EvaluationTarget.at(copy), np.zeros((len(rows), 1))
    report_on(target, dataset, split, rows, logits, out, show_images=False)
    for name in ("report.json", "report.html"):
        assert "somebody" not in (out / name).read_text()


def test_a_changed_bundle_is_refused(run: Path, tmp_path: Path):
    copy = tmp_path / "bundle"
    shutil.copytree(run / "bundle", copy)
    data = bytearray((copy / "model.safetensors").read_bytes())
    data[-1] ^= 1
    (copy / "model.safetensors").write_bytes(data)
    with pytest.raises(UserError, match="changed since it was written"):
        load_bundle(copy)


def test_a_workers_user_error_reaches_the_user_as_one_line(dataset, tmp_path: Path):
    with pytest.raises(TrainingDiverged, match=r"is not a number \(cells UID_.*lower lr") as caught:
        run_training(recipe(lr=1e30), dataset, tmp_path / "run", workers=2)
    assert "\n" not in str(caught.value)


def test_copies_train_and_test_as_the_paper_literally_has_it(dataset, tmp_path: Path):
    """Every copy of validation and test is scored once, and the report says LEAKY."""
    out = tmp_path / "literal"
    literal = recipe(protocol="paper-literal", copies=90, epochs=1)
    report = train_and_evaluate(literal, dataset, out, workers=2)
    split = pq.read_table(out / "split.parquet")
    wanted = [(r["uid"], r["copy"], r["role"]) for r in split.to_pylist() if r["role"] != "train"]
    scored = pq.read_table(out / "report" / "predictions.parquet").to_pylist()
    assert [(r["uid"], r["copy"], r["role"]) for r in scored] == wanted
    assert len(wanted) == 36
    assert report.run.leaky
    assert history(out)[0]["train_images"] == 144
    with pytest.raises(UserError, match="paper-literal tests on augmented copies"):
        evaluate(EvaluationTarget.at(out), dataset, tmp_path / "again")
