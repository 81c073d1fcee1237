import numpy as np
import pyarrow as pa
import pytest
from sklearn import metrics as reference
from sklearn.calibration import calibration_curve

from leuk_ray.evaluation.decided import classify_subjects
from leuk_ray.evaluation.decisions import worst_subjects
from leuk_ray.evaluation.metrics import (
    Confusion,
    accuracy,
    calibration_bins,
    confusion,
    evaluate,
    f1,
    precision,
    sensitivity,
    specificity,
)
from leuk_ray.evaluation.subjects import per_subject


def random_cells(seed: int, num_cells: int = 300) -> tuple[np.ndarray, np.ndarray]:
    """Labels and probabilities that go together; rounded, so that many are tied."""
    generator = np.random.default_rng(seed)
    label = (generator.random(num_cells) < 0.6).astype(np.int8)
    logit = 1.2 * (2 * label - 1) + 2 * generator.standard_normal(num_cells)
    return label, np.round(1 / (1 + np.exp(-logit)), 2)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.77])
def test_metrics_equal_scikit_learn(seed: int, threshold: float) -> None:
    label, probability = random_cells(seed)
    called = (probability >= threshold).astype(int)
    judged = evaluate(label, probability, threshold)

    tn, fp, fn, tp = reference.confusion_matrix(label, called).ravel().tolist()
    assert judged["confusion"] == {"tp": tp, "fp": fp, "tn": tn, "fn": fn}
    expected = {
        "accuracy": reference.accuracy_score(label, called),
        "precision": reference.precision_score(label, called),
        "sensitivity": reference.recall_score(label, called),
        "specificity": reference.recall_score(label, called, pos_label=0),
        "f1": reference.f1_score(label, called),
        "weighted_f1": reference.f1_score(label, called, average="weighted"),
        "macro_f1": reference.f1_score(label, called, average="macro"),
        "balanced_accuracy": reference.balanced_accuracy_score(label, called),
        "mcc": reference.matthews_corrcoef(label, called),
        "auc": reference.roc_auc_score(label, probability),
        "average_precision": reference.average_precision_score(label, probability),
        "brier": reference.brier_score_loss(label, probability),
        "nll": reference.log_loss(label, probability),
    }
    assert {name: judged[name]["value"] for name in expected} == pytest.approx(expected)
    by_class = reference.precision_recall_fscore_support(label, called, labels=[1, 0])
    for position, name in enumerate(("ALL", "healthy")):
        own = judged["per_class"][name]
        values = [own["precision"]["value"], own["recall"]["value"], own["f1"]["value"]]
        theirs = [np.asarray(row)[position] for row in by_class]
        assert [*values, own["support"]] == pytest.approx(theirs)


@pytest.mark.parametrize("num_cells", [300, 40, 7])
def test_calibration_bins_equal_scikit_learn(num_cells: int) -> None:
    """Equal counts, ties in one bin; with fewer cells than bins some stay empty."""
    label, probability = random_cells(0, num_cells)
    cells, mean_probability, observed = calibration_bins(label.astype(np.int64), probability)
    truth, stated = calibration_curve(label, probability, n_bins=15, strategy="quantile")
    filled = cells > 0
    assert cells.sum() == num_cells
    assert observed[filled] == pytest.approx(truth)
    assert mean_probability[filled] == pytest.approx(stated)
    gap = (cells[filled] * np.abs(truth - stated)).sum() / num_cells
    assert evaluate(label, probability, 0.5)["ece"]["value"] == pytest.approx(gap)


@pytest.mark.parametrize(
    ("false_negatives", "false_positives", "reported"),
    [
        (8, 3, (99.73, 99.85, 99.60, 99.85, 99.72)),  # EfficientNetV2-S
        (10, 20, (99.25, 99.00, 99.50, 99.00, 99.25)),  # EfficientNet-B3
    ],
)
def test_counts_of_saeed2022_give_its_table_1(
    false_negatives: int, false_positives: int, reported: tuple[float, ...]
) -> None:
    """Columns: accuracy, precision, sensitivity, specificity, F1, of 2,000 + 2,000 cells.

    ALL is the paper's positive class as it is ours: both rows agree to the last digit, and
    neither does with healthy as the positive class.
    """

    def row(counts: Confusion) -> list[float]:
        ratios = (accuracy, precision, sensitivity, specificity, f1)
        return [100 * (ratio(counts)["value"] or 0) for ratio in ratios]

    counts = Confusion(
        tp=2000 - false_negatives,
        fp=false_positives,
        tn=2000 - false_positives,
        fn=false_negatives,
    )
    assert row(counts) == pytest.approx(reported, abs=0.005 + 1e-9)
    assert row(counts.flipped()) != pytest.approx(reported, abs=0.005 + 1e-9)


def test_threshold_itself_is_called_all() -> None:
    assert confusion([1, 0], [0.5, 0.5], 0.5) == Confusion(tp=1, fp=1, tn=0, fn=0)


def test_every_ratio_carries_its_counts() -> None:
    judged = evaluate([1, 1, 1, 0, 0], [0.9, 0.6, 0.2, 0.6, 0.1], 0.5)
    assert judged["accuracy"] == {"value": 0.6, "numerator": 3, "denominator": 5}
    assert judged["sensitivity"] == {"value": 2 / 3, "numerator": 2, "denominator": 3}
    assert judged["f1"] == {"value": 4 / 6, "numerator": 4, "denominator": 6}
    # 0.9 beats both healthy cells, 0.6 one and ties with the other, 0.2 beats one.
    assert judged["auc"] == {"value": 4.5 / 6, "numerator": 4.5, "denominator": 6}
    assert judged["weighted_f1"]["cells"] == 5


def test_what_is_undefined_is_none() -> None:
    only_healthy = evaluate([0, 0, 0], [0.1, 0.2, 0.3], 0.5)
    names = ("precision", "sensitivity", "f1", "auc", "macro_f1", "balanced_accuracy", "mcc")
    assert [only_healthy[name]["value"] for name in (*names, "average_precision")] == [None] * 8
    assert only_healthy["specificity"]["value"] == 1
    assert only_healthy["weighted_f1"]["value"] == 1
    only_all = evaluate([1, 1], [0.9, 0.2], 0.5)
    assert only_all["specificity"] == {"value": None, "numerator": 0, "denominator": 0}
    assert only_all["auc"] == {"value": None, "numerator": 0, "denominator": 0}


def test_no_cells_give_no_numbers() -> None:
    judged = evaluate([], [], 0.5)
    values = [
        entry["value"] for entry in judged.values() if isinstance(entry, dict) and "value" in entry
    ]
    assert values == [None] * 14


def test_certain_and_wrong_costs_a_finite_likelihood() -> None:
    assert 30 < (evaluate([1], [0.0], 0.5)["nll"]["value"] or 0) < 40


@pytest.mark.parametrize(
    ("label", "probability", "threshold", "message"),
    [
        ([1, 0], [0.5], 0.5, "must both be"),
        ([1, 2], [0.5, 0.5], 0.5, "label must be 1"),
        ([1, 0], [0.5, 1.1], 0.5, "probability must lie"),
        ([1, 0], [0.5, float("nan")], 0.5, "probability must lie"),
        ([1, 0], [0.5, 0.5], 1.5, "threshold 1.5"),
    ],
)
def test_malformed_cells_are_refused(
    label: list[int], probability: list[float], threshold: float, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        evaluate(label, probability, threshold)


def predictions(rows: list[tuple[str | None, int, float]]) -> pa.Table:
    subject, label, probability = zip(*rows, strict=True)
    return pa.table(
        {
            "uid": [f"cell-{index}" for index in range(len(rows))],
            "subject": pa.array(subject, pa.string()),
            "group": [f"group of {name}" for name in subject],
            "role": ["test"] * len(rows),
            "label": pa.array(label, pa.int8()),
            "logit": pa.array(probability, pa.float64()),
            "probability": pa.array(probability, pa.float64()),
        }
    )


def test_subjects_are_counted_in_natural_order() -> None:
    known = [("10", 1, 0.9), ("10", 1, 0.3), ("2", 1, 0.8), ("H1", 0, 0.5), ("H1", 1, 0.1)]
    rows = per_subject(predictions([*known, (None, 0, 0.2)]), threshold=0.5)
    assert [row["subject"] for row in rows] == ["2", "10", "H1"]
    assert [row["label"] for row in rows] == ["ALL", "ALL", "mixed"]
    assert [(row["called_all"], row["correct"], row["cells"]) for row in rows] == [
        (1, 1, 1),
        (1, 1, 2),
        (1, 0, 2),
    ]
    assert [row["answered"] for row in rows] == [1, 2, 2]
    assert rows[1]["group"] == "group of 10"
    assert rows[1]["mean_probability"] == pytest.approx(0.6)
    low, fraction = rows[1]["blast_low"], rows[1]["blast_fraction"]
    high = rows[1]["blast_high"]
    assert low is not None
    assert fraction is not None
    assert high is not None
    assert low < fraction == 0.5 < high


def test_a_subject_without_an_answered_cell_has_no_share_and_is_not_called() -> None:
    cells: list[tuple[str | None, int, float]] = [("1", 1, 0.55), *12 * [("2", 1, 0.9)]]
    rows = per_subject(predictions(cells), 0.5, band=(0.4, 0.6))
    assert [(row["cells"], row["answered"]) for row in rows] == [(1, 0), (12, 12)]
    assert (rows[0]["blast_fraction"], rows[0]["blast_low"]) == (None, None)
    called = classify_subjects(rows, [0.5, 0.5])
    assert (called["unanswered"], called["accuracy"]["denominator"]) == (1, 1)
    assert worst_subjects(rows, 5) == []


def test_predictions_with_gaps_are_refused() -> None:
    table = predictions([("1", 1, 0.9), ("2", 0, 0.1)])
    with pytest.raises(ValueError, match="lack the columns logit"):
        per_subject(table.drop_columns(["logit"]), 0.5)
    unknown = table.set_column(4, "label", pa.array([1, None], pa.int8()))
    with pytest.raises(ValueError, match="1 of 2 rows have no label"):
        per_subject(unknown, 0.5)
