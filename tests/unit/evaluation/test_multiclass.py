from typing import Any

import numpy as np
import pytest
import sklearn.metrics
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit, logit
from scipy.stats import t as student

from leuk_ray.datasets.classes import ClassSet
from leuk_ray.evaluation.metric_intervals import (
    class_intervals,
    class_resamples,
    group_intervals,
)
from leuk_ray.evaluation.metrics import evaluate
from leuk_ray.evaluation.multiclass import ClassEvaluation, evaluate_classes

reference: Any = sklearn.metrics  # its own annotations know no number for zero_division


def class_set(num_classes: int, *, ordered: bool = False) -> ClassSet:
    names = tuple(f"class {number}" for number in range(num_classes))
    return ClassSet(names, names[1:2] if num_classes == 2 else (), ordered)


def scored(
    seed: int, num_classes: int, num_cells: int, missing: int
) -> tuple[np.ndarray, np.ndarray]:
    """Labels that lack some classes, and probabilities that know something of them."""
    generator = np.random.default_rng(seed)
    kept = generator.permutation(num_classes)[missing:]
    label = generator.choice(kept, num_cells)
    scores = generator.standard_normal((num_cells, num_classes)) + 1.5 * np.eye(num_classes)[label]
    stated = np.exp(scores)
    return label, stated / stated.sum(axis=1, keepdims=True)


@settings(deadline=None, max_examples=60)
@given(
    seed=st.integers(0, 2**31),
    num_classes=st.integers(2, 20),
    num_cells=st.integers(1, 120),
    missing=st.integers(0, 18),
    ordered=st.booleans(),
)
def test_metrics_equal_scikit_learn(
    seed: int, num_classes: int, num_cells: int, missing: int, ordered: bool
) -> None:
    classes = class_set(num_classes, ordered=ordered)
    label, stated = scored(seed, num_classes, num_cells, min(missing, num_classes - 1))
    called, numbers = stated.argmax(axis=1), list(range(num_classes))
    found = evaluate_classes(label, stated, called, classes)

    confusion = reference.confusion_matrix(label, called, labels=numbers)
    assert found["confusion"] == confusion.tolist()
    assert found["accuracy"]["value"] == pytest.approx(reference.accuracy_score(label, called))
    assert found["accuracy"]["denominator"] == num_cells
    truth = np.eye(num_classes)[label]
    expected: dict[str, float | None] = {
        "weighted_f1": reference.f1_score(label, called, average="weighted", zero_division=0),
        "nll": reference.log_loss(label, stated, labels=numbers),
        "brier": float(((stated - truth) ** 2).sum(axis=1).mean()),
        "balanced_accuracy": None,
        "macro_f1": None,
        "kappa": None,
    }
    if len(set(label)) > 1:
        expected["balanced_accuracy"] = float(confusion.diagonal()[confusion.sum(1) > 0] @ (
            1 / confusion.sum(1)[confusion.sum(1) > 0]
        )) / len(set(label))  # fmt: skip
    if len({*label, *called}) > 1:
        expected["macro_f1"] = reference.f1_score(label, called, average="macro", zero_division=0)
        weights = "quadratic" if ordered else None
        expected["kappa"] = reference.cohen_kappa_score(
            label, called, labels=numbers, weights=weights
        )
    assert {name: found[name]["value"] for name in expected} == pytest.approx(expected)
    if num_classes > 5:
        assert found["top_k"] is not None
        top = reference.top_k_accuracy_score(label, stated, k=3, labels=numbers)
        assert found["top_k"]["value"] == pytest.approx(top)
    else:
        assert found["top_k"] is None
    _check_classes(found, label, stated, called)


def _check_classes(
    found: ClassEvaluation, label: np.ndarray, stated: np.ndarray, called: np.ndarray
) -> None:
    """Each class against the rest, None where scikit-learn divides by 0."""
    by_class = reference.precision_recall_fscore_support(
        label, called, labels=range(stated.shape[1]), zero_division=np.nan
    )
    areas = []
    for number, own in enumerate(found["per_class"].values()):
        values = [own["precision"]["value"], own["recall"]["value"], own["f1"]["value"]]
        found_by_them = [float(np.asarray(row)[number]) for row in by_class[:3]]
        theirs = [None if np.isnan(value) else value for value in found_by_them]
        assert values == pytest.approx(theirs)
        assert (own["support"], own["called"]) == (sum(label == number), sum(called == number))
        if 0 < own["support"] < len(label):
            area = reference.roc_auc_score(label == number, stated[:, number])
            assert own["auc"]["value"] == pytest.approx(area)
            areas.append(area)
        else:
            assert own["auc"]["value"] is None
    assert found["macro_auc"]["classes"] == len(areas)
    if len(areas) > 1:
        assert found["macro_auc"]["value"] == pytest.approx(np.mean(areas))


def test_two_classes_have_the_metrics_of_the_binary_view() -> None:
    """Also where calls are made at another threshold than one half."""
    label, stated = scored(0, 2, 300, 0)
    binary = evaluate(label, stated[:, 1], 0.3)
    classes = ClassSet(("healthy", "ALL"), ("ALL",))
    found = evaluate_classes(label, stated, stated[:, 1] >= 0.3, classes)
    for name in ("accuracy", "balanced_accuracy", "macro_f1", "weighted_f1", "nll"):
        assert found[name]["value"] == pytest.approx(binary[name]["value"], abs=1e-12), name
    assert found["per_class"]["ALL"]["auc"] == binary["auc"]
    assert found["classwise_ece"]["value"] == pytest.approx(binary["ece"]["value"], abs=0.01)
    assert found["brier"]["value"] == pytest.approx(2 * (binary["brier"]["value"] or 0))
    for name, own in binary["per_class"].items():
        theirs = found["per_class"][name]
        assert {key: theirs[key] for key in own} == own


def test_classes_without_cells_leave_no_number_that_looks_like_one() -> None:
    classes = class_set(8)
    empty = evaluate_classes([], np.empty((0, 8)), [], classes)
    for name, value in empty.items():
        if isinstance(value, dict) and "value" in value:
            assert value["value"] is None, name
    stated = np.full((3, 8), 1 / 8)
    one = evaluate_classes([2, 2, 2], stated, [2, 2, 2], classes)
    assert one["accuracy"]["value"] == 1
    assert (one["balanced_accuracy"]["value"], one["kappa"]["value"]) == (None, None)
    assert one["per_class"]["class 5"]["recall"] == {
        "value": None,
        "numerator": 0,
        "denominator": 0,
    }


@pytest.mark.parametrize(
    ("label", "stated", "called", "message"),
    [
        ([0, 3], np.full((2, 3), 1 / 3), [0, 1], r"must lie in 0\.\.2"),
        ([0, 1], np.full((2, 3), 1 / 3), [0, -1], r"must lie in 0\.\.2"),
        ([0, 1], np.full((2, 4), 1 / 4), [0, 1], r"must be \(2, 3\)"),
        ([0, 1], np.full((2, 3), np.nan), [0, 1], "probability must lie"),
        ([0, 1], np.full((2, 3), 1 / 3), [0], r"must both be \(N,\)"),
    ],
)
def test_malformed_cells_are_refused(
    label: list[int], stated: np.ndarray, called: list[int], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        evaluate_classes(label, stated, called, class_set(3))


def grouped(seed: int, num_groups: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labels and calls of groups that hold several of four classes, and differ in difficulty."""
    generator = np.random.default_rng(seed)
    group = np.repeat(np.arange(num_groups), 30)
    label = generator.integers(0, 4, group.size)
    hard = 0.3 + 0.4 * generator.random(num_groups)
    wrong = generator.random(group.size) < hard[group]
    return label, np.where(wrong, generator.integers(0, 4, group.size), label), group


def test_intervals_leave_out_whole_groups() -> None:
    """Accuracy's by its definition; kappa's bounds are on its own scale."""
    classes = class_set(4)
    label, called, group = grouped(0, 12)
    resampled = class_resamples(label, group, classes, withheld="", seed=0, resamples=50)
    found = class_intervals(resampled, label, called, classes)
    whole = (label == called).mean()
    without = np.asarray([(label == called)[group != n].mean() for n in range(12)])
    error = np.sqrt(11 / 12 * ((without - without.mean()) ** 2).sum()) / (whole * (1 - whole))
    half = student.ppf(0.975, df=11) * error
    expected = expit(logit(whole) + np.asarray([-half, half]))
    assert (found["accuracy"].low, found["accuracy"].high) == pytest.approx(tuple(expected))
    evaluated = evaluate_classes(label, np.eye(4)[called], called, classes)
    for name, interval in found.items():
        assert interval.low is not None
        assert interval.high is not None
        assert interval.low < evaluated[name]["value"] < interval.high, name
        assert (interval.groups_positive, interval.resamples) == (None, 12)


def test_a_class_of_few_groups_has_no_mean_over_classes_with_an_interval() -> None:
    classes = class_set(4)
    label, called, group = grouped(1, 12)
    rare = (label != 2) | (group < 3)
    label, called, group = label[rare], called[rare], group[rare]
    resampled = class_resamples(label, group, classes, withheld="", seed=0, resamples=50)
    found = class_intervals(resampled, label, called, classes)
    assert found["accuracy"].low is not None
    for name in ("balanced_accuracy", "macro_f1"):
        assert found[name].low is None
        assert found[name].note == "no interval: the cells of class 2 are in 3 of 12 groups"
    few = group < 4
    resampled = class_resamples(label[few], group[few], classes, withheld="", seed=0)
    for interval in class_intervals(resampled, label[few], called[few], classes).values():
        assert (interval.low, interval.note) == (
            None,
            "too few subjects for an interval (4 groups)",
        )
    resampled = class_resamples(label, group, classes, withheld="patients unknown", seed=0)
    assert class_intervals(resampled, label, called, classes)["kappa"].note == "patients unknown"


def test_two_classes_have_the_intervals_of_the_binary_view() -> None:
    generator = np.random.default_rng(0)
    group = np.repeat(np.arange(16), 20)
    label = group % 2
    stated = expit(label + generator.standard_normal(16)[group] + generator.normal(size=320))
    classes = ClassSet(("healthy", "ALL"), ("ALL",))
    resampled = class_resamples(label, group, classes, withheld="", seed=0)
    found = class_intervals(resampled, label, (stated >= 0.5).astype(int), classes)
    binary = group_intervals(label, stated, group, 0.5, seed=0)["accuracy"]
    assert (found["accuracy"].low, found["accuracy"].high) == pytest.approx(
        (binary.low, binary.high)
    )
    assert found["accuracy"].groups_positive == 8
