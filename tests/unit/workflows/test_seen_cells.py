"""A bundle alone is evaluated on cells of patients that did not make it, or marked; SYNTHETIC."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

import leuk_ray as lr
from leuk_ray.bundles.bundle import load_bundle, write_bundle, write_ensemble
from leuk_ray.bundles.lineage import CellLineage
from leuk_ray.bundles.manifest import ModelManifest
from leuk_ray.cli.messages import calibrate_text
from leuk_ray.datasets.classes import BINARY
from leuk_ray.datasets.prepared import PreparedDataset
from leuk_ray.evaluation.report_model import Report, ReportContext
from leuk_ray.inference.classifier import Classifier
from leuk_ray.runs.report import split_of
from leuk_ray.runs.target import EvaluationTarget, report_context
from leuk_ray.utils.errors import UserError
from leuk_ray.workflows.calibrate import calibrate
from leuk_ray.workflows.compare import compare
from leuk_ray.workflows.evaluate import evaluate
from tests.support.serving_bundles import cells, encode, write_small_bundle

SUBJECTS = 40  # of three cells each; the first twenty ALL
CELLS = 3 * SUBJECTS


def make_dataset(store_pixels: Any, folder: Path, seed: int) -> PreparedDataset:
    """Rendered cells of forty subjects, each a group."""
    step = slice(None, None, 5)
    pixels = np.stack([one[step, step][13:77, 13:77] for one in cells(CELLS, seed)])
    subject = [f"{'AH'[n // 60]}{n // 3}" for n in range(CELLS)]
    return store_pixels(
        folder,
        pixels,
        label=[1 - n // 60 for n in range(CELLS)],
        subject=subject,
        group=subject,
        source=["lab"] * CELLS,
        pixels_sha256=[f"{seed}-{n}" for n in range(CELLS)],
        width=[64] * CELLS,
        height=[64] * CELLS,
        format=["PNG"] * CELLS,
    )


@pytest.fixture(scope="module")
def trained_on(store_pixels, tmp_path_factory) -> PreparedDataset:
    return make_dataset(store_pixels, tmp_path_factory.mktemp("a") / "dataset", 1)


@pytest.fixture(scope="module")
def other(store_pixels, tmp_path_factory) -> PreparedDataset:
    return make_dataset(store_pixels, tmp_path_factory.mktemp("b") / "dataset", 2)


def bundle_of(path: Path, dataset: PreparedDataset, shift: int = 0, **changes: Any) -> Path:
    """A bundle whose run trained 5 of 10 subjects a class, validated on 2 and tests on 3."""
    number = [(int(name[1:]) + shift) % 10 for name in dataset.cells["subject"].to_pylist()]
    roles = ["test" if n > 6 else "validation" if n > 4 else "train" for n in number]
    split = pa.table({"uid": dataset.cells["uid"], "role": roles})
    path = write_small_bundle(
        path, seed=shift, storage=dataset.storage, datasets=(dataset.identity,), **changes
    )
    opened = load_bundle(path)
    assert isinstance(opened.manifest, ModelManifest)
    write_bundle(path, opened.manifest, opened.model, CellLineage.of_split(split, dataset.cells))
    return path


def told(bundle: Path, dataset: PreparedDataset) -> tuple[ReportContext, set[int]]:
    """What a report says of a bundle on a dataset, and which subjects it is evaluated on."""
    target = EvaluationTarget.at(bundle)
    split = split_of(target, dataset)
    tested = split.filter(pc.field("role") == "test")["subject"].to_pylist()
    return report_context(target, dataset, split), {int(name[1:]) % 10 for name in tested}


def check_deployed(report: Report, bundle: Path, dataset: PreparedDataset) -> None:
    """What the report counts as answered is what `predict` answers for the same pixels."""
    classifier = Classifier.load(bundle)
    pixels = dataset.reader().read(np.arange(CELLS))
    answers = classifier.predict([(str(n), encode(one)) for n, one in enumerate(pixels)])
    given = [(n, one.label) for n, one in enumerate(answers) if one.as_dict()["label"] != "abstain"]  # pyright: ignore
    labels = dataset.cells["label"].to_pylist()
    right = sum(label == BINARY.names[labels[n]] for n, label in given)
    assert 0 < len(given) < CELLS, "some are answered and some are not"
    assert report.deployed is not None
    assert report.deployed["answered"]["numerator"] == len(given)
    assert report.deployed["accuracy"]["numerator"] == right
    assert report.deployed["accuracy"]["denominator"] == len(given)
    assert sum(row["answered"] for row in report.subjects) == len(given)
    assert sum(report.deployed["reasons"].values()) >= CELLS - len(given)


def test_a_calibrated_copy_keeps_to_the_test_cells_of_its_run(trained_on, tmp_path) -> None:
    plain = bundle_of(tmp_path / "plain", trained_on)
    values = calibrate(EvaluationTarget.at(plain), trained_on, tmp_path / "calibrated")
    assert values["cells"] == 24, "those that chose the epoch; none that trained or is tested"
    context, subjects = told(tmp_path / "calibrated", trained_on)
    assert subjects == {7, 8, 9}
    assert context.leaky is False
    assert context.label == ""
    assert context.unit.startswith("groups")
    assert (
        "of 120 labelled cells 60 trained it, 24 chose its epoch (24 of these also calibrated it), "
        "0 are of the same groups, 0 were not kept for testing, and 36 are left" in context.notes[0]
    )
    assert [context.roles[role]["cells"] for role in ("train", "validation", "test")] == [
        60, 24, 36,
    ]  # fmt: skip


def test_cells_that_calibrated_a_bundle_are_refused_or_marked(trained_on, other, tmp_path) -> None:
    plain = bundle_of(tmp_path / "plain", trained_on)
    before, subjects = told(plain, other)
    assert before.leaky is None, "its patients may have trained the bundle"
    assert len(subjects) == 10
    groups = [{"ALL": {"cells": 9, "found": 7}, "healthy": {"cells": 9, "found": 9}}] * 10
    measured = {"found_by_label": groups, "counted_by": "fields"}
    (tmp_path / "detect.json").write_text(json.dumps({"measured": measured}))
    values = calibrate(
        EvaluationTarget.at(plain), other, tmp_path / "calibrated",
        max_cells=80, misses=tmp_path / "detect.json",
    )  # fmt: skip
    assert (
        "misses of the detector on the blasts of 10 and other cells of 10 fields"
        in (values["blast_percentage"])
    )
    rates = EvaluationTarget.at(tmp_path / "calibrated").manifest.error_rates
    assert rates is not None
    assert rates.detector is not None
    assert rates.detector.positive[0].found == 7
    target = EvaluationTarget.at(tmp_path / "calibrated")
    with pytest.raises(UserError, match="80 calibrated it, 40 are of the same groups") as refused:
        evaluate(target, other, tmp_path / "report")
    assert "\n" not in str(refused.value)
    assert "--seen" in str(refused.value)
    assert not (tmp_path / "report").exists()
    report = evaluate(target, other, tmp_path / "marked", seen=True)
    assert report.scored["test"]["cells"] == CELLS
    check_deployed(report, tmp_path / "calibrated", other)
    assert report.run.leaky is True
    assert report.run.label == "CALIBRATED-ON-THESE"
    assert report.sentence.startswith("CALIBRATED-ON-THESE: ")
    assert "80 calibrated it" in report.run.leakage
    page = (tmp_path / "marked" / "report.html").read_text()
    assert page.count("CALIBRATED-ON-THESE") > 5, "in the title, above and beside every result"
    assert "LEAKY" not in page
    own = report_context(target, trained_on, split_of(target, trained_on, seen=True))
    assert own.label == "TRAINED-ON-THESE"


def test_a_bundle_with_prediction_sets_states_its_guarantee_and_is_evaluated_by_it(
    trained_on, other, tmp_path
) -> None:
    plain, out = bundle_of(tmp_path / "plain", trained_on), tmp_path / "calibrated"
    refusals: list[tuple[dict[str, Any], str]] = [
        ({"coverage": 0.9}, "needs 9 patients of every class to calibrate on, and there are 4 of"),
        ({"coverage": 0.7, "abstain_share": 0.1}, "exclude each other"),
    ]
    for options, words in refusals:
        with pytest.raises(UserError, match=words) as refused:
            calibrate(EvaluationTarget.at(plain), trained_on, out, **options)
        assert "\n" not in str(refused.value)
        assert not out.exists()
    done = lr.calibrate(plain, trained_on, tmp_path / "few", coverage=0.7)
    assert "chose the epoch" in done.summary["prediction_sets"]["caution"]
    assert ".." not in calibrate_text(done.summary)
    assert done.classifier().manifest.conformal is not None
    assert repr(done).startswith(f"<calibrated on {done.summary['cells']} cells, temperature")
    with pytest.raises(UserError, match="few: exists already"):
        lr.calibrate(plain, trained_on, tmp_path / "few")

    calibrate(EvaluationTarget.at(plain), other, out, coverage=0.9, max_cells=90)
    manifest = EvaluationTarget.at(out).manifest
    assert manifest.conformal is not None
    assert (manifest.abstain_band, manifest.conformal.caution) == (None, "")
    assert {limit.patients for limit in manifest.conformal.limits} == {20}
    assert sum(limit.cells for limit in manifest.conformal.limits) == 90
    assert "at least 0.9" in (out / "MODEL_CARD.md").read_text()
    report = evaluate(EvaluationTarget.at(out), other, tmp_path / "marked", seen=True)
    check_deployed(report, out, other)
    assert report.guarantee is not None
    by_class = report.guarantee["patients"]["classes"]
    assert [(row["name"], row["patients"], row["tested"]) for row in by_class] == [
        ("healthy", 20, 20), ("ALL", 20, 20),
    ]  # fmt: skip
    assert all(row["covered"]["numerator"] >= 0.85 * 60 for row in by_class)
    page = (tmp_path / "marked" / "report.html").read_text()
    assert "exchangeable" in page
    assert "which guarantee nothing" in page


def test_an_ensemble_is_evaluated_on_cells_that_none_of_its_members_has_seen(
    trained_on, other, tmp_path
) -> None:
    one, two = bundle_of(tmp_path / "one", trained_on), bundle_of(tmp_path / "two", trained_on, 1)
    write_ensemble(tmp_path / "voted", [one, two], "soft")
    context, subjects = told(tmp_path / "voted", trained_on)
    assert subjects == {7, 8}
    assert context.leaky is False
    away = bundle_of(tmp_path / "away", other, protocol="official-folds")
    write_ensemble(tmp_path / "both", [one, away], "soft")
    for dataset in (trained_on, other):
        context, subjects = told(tmp_path / "both", dataset)
        assert subjects == {7, 8, 9}
        assert context.protocol == "several"
        assert context.leaky is None, "half of what made it is elsewhere"
        assert "84 of the 168 cells that did are not in this dataset" in context.leakage
    rest = bundle_of(tmp_path / "rest", trained_on, 5)
    write_ensemble(tmp_path / "all", [one, rest], "soft")
    with pytest.raises(UserError, match="and 0 are left"):
        evaluate(EvaluationTarget.at(tmp_path / "all"), trained_on, tmp_path / "none")


def test_bundles_alone_are_compared_on_cells_that_neither_has_seen(
    trained_on, other, tmp_path
) -> None:
    one, two = bundle_of(tmp_path / "one", trained_on), bundle_of(tmp_path / "two", trained_on, 1)
    assert compare((one, two), trained_on)["cells"] == 24, "of subjects 7 and 8"
    assert compare((one, two), other)["cells"] == CELLS
    calibrate(EvaluationTarget.at(two), other, tmp_path / "calibrated")
    with pytest.raises(UserError, match="no cell to compare on"):
        compare((one, tmp_path / "calibrated"), other)


def test_a_bundle_that_does_not_say_what_made_it_is_not_called_free_of_leaks(
    trained_on, other, tmp_path
) -> None:
    old = write_small_bundle(tmp_path / "old", storage=other.storage)
    context, subjects = told(old, other)
    assert context.leaky is None
    assert len(subjects) == 10
    calibrate(EvaluationTarget.at(old), trained_on, tmp_path / "calibrated")
    context, _ = told(tmp_path / "calibrated", other)
    assert context.leaky is None
    assert "which cells trained it was not recorded" in context.leakage
