"""Cross-validation on Ray: each cell scored once by a run that did not see its group."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from leuk_ray.bundles.manifest import EnsembleManifest
from leuk_ray.datasets.splits import eligible
from leuk_ray.evaluation.baselines import measure, score_baseline
from leuk_ray.evaluation.calibration import fit_temperature
from leuk_ray.evaluation.decisions import operating_threshold
from leuk_ray.evaluation.metrics import evaluate
from leuk_ray.evaluation.report_model import Report
from leuk_ray.recipes.recipe import load_recipe
from leuk_ray.runs.target import EvaluationTarget
from leuk_ray.utils.errors import UserError
from leuk_ray.workflows.compare import compare
from leuk_ray.workflows.crossval import crossval
from leuk_ray.workflows.evaluate import evaluate as evaluate_target

SETTINGS = [
    "protocol=subject-disjoint", "model.filters=[4,8,8]", "model.input_size=32",
    "training.balance=none", "training.batch_size=16", "training.epochs=1", "augment.policy=none",
]  # fmt: skip
RECIPE = load_recipe("bukhari2022-se", SETTINGS)


def nothing() -> None:
    """Ray runs already."""


@pytest.fixture(scope="module")
def out(dataset, tmp_path_factory) -> Path:
    place = tmp_path_factory.mktemp("crossval") / "two"
    crossval(RECIPE, dataset, place, folds=2, seeds=2, connect=nothing, show_images=False)
    return place


def pooled_test_cells(out: Path) -> pa.Table:
    table = pq.read_table(out / "report" / "predictions.parquet")
    return table.filter(pc.field("role") == "test")


def test_each_cell_is_scored_once_for_a_seed_and_log_odds_are_averaged(dataset, out: Path):
    pooled = pooled_test_cells(out)
    assert sorted(pooled["uid"].to_pylist()) == sorted(eligible(dataset.cells)["uid"].to_pylist())
    scores: dict[str, list[float]] = {}
    for seed in (0, 1):
        seen: set[str] = set()
        for fold in range(2):
            run = out / "runs" / f"seed{seed}.fold{fold}"
            split = pq.read_table(run / "split.parquet")
            groups = {
                role: set(split.filter(pc.field("role") == role)["group"].to_pylist())
                for role in ("train", "validation", "test")
            }
            assert not groups["test"] & (groups["train"] | groups["validation"])
            own = pq.read_table(run / "report" / "predictions.parquet")
            own = own.filter(pc.field("role") == "test")
            assert not seen & set(own["uid"].to_pylist())
            seen |= set(own["uid"].to_pylist())
            for uid, logit in zip(own["uid"].to_pylist(), own["logit"].to_pylist(), strict=True):
                scores.setdefault(uid, []).append(logit)
    expected = [np.mean(scores[uid]) for uid in pooled["uid"].to_pylist()]
    assert {len(own) for own in scores.values()} == {2}
    np.testing.assert_allclose(pooled["logit"].to_numpy(), expected, rtol=1e-12)


def test_the_report_pools_over_patients_and_says_what_single_seeds_reach(out: Path):
    report = Report.read(out / "report")
    pooled = pooled_test_cells(out)
    assert report.tested == evaluate(pooled["label"], pooled["probability"], 0.5)
    assert report.run.leaky is False
    assert "2-fold cross-validation" in report.run.title
    assert "area under ROC of each seed alone is 0." in " ".join(report.run.notes)
    assert report.tested is not None
    low, area = report.intervals["auc"].low, report.tested["auc"]["value"]
    assert low is not None
    assert area is not None
    assert low < area


def test_the_report_sets_baselines_over_the_same_folds_beside_it(dataset, out: Path):
    report = Report.read(out / "report")
    area, texture = report.run.baselines
    assert (area["name"], texture["name"]) == (
        "cell area alone, logistic regression", "colour and texture, SVM"
    )  # fmt: skip
    (features,) = measure(["area"], dataset.reader(), np.arange(len(dataset.cells)))
    expected: dict[str, float] = {}
    for fold in range(2):
        split = pq.read_table(out / "runs" / f"seed0.fold{fold}" / "split.parquet")
        scored = score_baseline("area", dataset.cells, split, 0, features)
        uids = dataset.cells["uid"].take(pa.array(scored.rows)).to_pylist()
        tested = set(split.filter(pc.field("role") == "test")["uid"].to_pylist())
        pairs = zip(uids, scored.logits.tolist(), strict=True)
        expected |= {uid: logit for uid, logit in pairs if uid in tested}
    pooled = pooled_test_cells(out)
    label = pooled["label"].to_numpy()
    logit = np.asarray([expected[uid] for uid in pooled["uid"].to_pylist()])
    alone = evaluate(label, 1 / (1 + np.exp(-logit)), 0.5)
    assert area["accuracy"] == alone["accuracy"]
    found = area["differences"]["auc"]
    assert report.tested is not None
    assert (found["first"], found["second"]) == (
        pytest.approx(alone["auc"]["value"]), report.tested["auc"]["value"]
    )  # fmt: skip
    assert found["low"] < found["difference"] < found["high"]
    page = (out / "report" / "report.html").read_text(encoding="utf-8")
    assert "Beside classical baselines" in page
    assert f"{found['difference']:+.3f}" in page


def test_decisions_on_a_fold_are_fixed_on_its_own_validation_cells(out: Path):
    table = pq.read_table(out / "report" / "predictions.parquet")
    report = Report.read(out / "report")
    assert report.decided is not None
    fixing = table.filter(pc.field("role") == "validation")
    assert report.decided["fixed_on"]["cells"] == len(fixing)
    (point, *_) = report.decided["points"]
    assert (point["held"], point["target"], point["probability"]) == ("specificity", 0.9, None)
    right = 0
    for fold in (0, 1):
        own = table.filter(pc.field("fold") == fold)
        val = own.filter(pc.field("role") == "validation")
        test = own.filter(pc.field("role") == "test")
        assert not set(val["group"].to_pylist()) & set(test["group"].to_pylist())
        cut = operating_threshold(
            val["label"].to_numpy(), val["logit"].to_numpy(), "specificity", 0.9
        )
        right += int(((test["logit"].to_numpy() >= cut) & (test["label"].to_numpy() == 1)).sum())
    assert point["sensitivity"]["numerator"] == right


def test_resuming_repeats_no_run_and_others_are_refused(dataset, out: Path):
    table = (out / "runs.jsonl").read_bytes()
    with pytest.raises(UserError, match="--resume"):
        crossval(RECIPE, dataset, out, folds=2, seeds=2, connect=nothing)
    with pytest.raises(UserError, match="other settings"):
        crossval(RECIPE, dataset, out, folds=3, seeds=2, connect=nothing, resume=True)
    crossval(
        RECIPE, dataset, out, folds=2, seeds=2, connect=nothing, resume=True, show_images=False
    )
    assert (out / "runs.jsonl").read_bytes() == table


def test_two_over_the_same_folds_are_compared(dataset, out: Path, tmp_path: Path):
    recipe = RECIPE.model_copy(update={"seed": 7})
    crossval(recipe, dataset, tmp_path / "other", folds=2, connect=nothing, show_images=False)
    # Two seeds over these folds are one side too: their pooled scores.
    found = compare((out, tmp_path / "other"), dataset)
    assert (found["folds"], found["cells"]) == (2, len(eligible(dataset.cells)))
    report = Report.read(out / "report")
    assert report.tested is not None
    assert found["metrics"]["auc"]["first"] == report.tested["auc"]["value"]
    recipe = load_recipe("bukhari2022-se", [*SETTINGS, "split.seed=5"])
    crossval(recipe, dataset, tmp_path / "third", folds=2, connect=nothing, show_images=False)
    with pytest.raises(UserError, match=r"\d+ of \d+ cells are in other folds") as refused:
        compare((out, tmp_path / "third"), dataset)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("protocol", ["official-folds", "paper-literal"])
def test_protocols_that_do_not_test_every_cell_once_are_refused(dataset, tmp_path, protocol):
    recipe = load_recipe("bukhari2022-se", [*SETTINGS, f"protocol={protocol}"])
    with pytest.raises(UserError, match="does not test every cell once"):
        crossval(recipe, dataset, tmp_path / "out", folds=2, connect=nothing)
    assert not (tmp_path / "out").exists()


def test_the_ensemble_of_all_folds_is_calibrated_on_out_of_fold_scores(dataset, out, tmp_path):
    again = {"folds": 2, "seeds": 2, "connect": nothing, "resume": True, "show_images": False}
    with pytest.raises(UserError, match="needs 199 patients of every class"):
        crossval(RECIPE, dataset, out, bundle=tmp_path / "voted", coverage=0.995, **again)
    crossval(RECIPE, dataset, out, bundle=tmp_path / "voted", coverage=0.6, **again)
    target = EvaluationTarget.at(tmp_path / "voted")
    manifest = target.manifest
    assert isinstance(manifest, EnsembleManifest)
    assert len(manifest.members) == 4
    pooled = pooled_test_cells(out)
    label = pooled["label"].to_numpy()
    assert manifest.temperature == pytest.approx(
        fit_temperature(pooled["logit"].to_numpy()[:, None], label)
    )
    assert manifest.decisions is not None
    assert manifest.decisions.cells == len(pooled)
    assert manifest.conformal is not None
    assert manifest.conformal.basis == "folds"
    with pytest.raises(UserError, match="and 0 are left"):
        evaluate_target(target, dataset, tmp_path / "none")
