import numpy as np
import pyarrow as pa
import pytest
from scipy.special import expit, softmax
from sklearn.metrics import balanced_accuracy_score, cohen_kappa_score, f1_score, roc_auc_score

from leuk_ray.datasets.classes import ClassSet
from leuk_ray.evaluation.class_report import ClassCells
from leuk_ray.evaluation.intervals import GroupResamples
from leuk_ray.evaluation.paired import COMPARED_CLASSES, paired_bootstrap, paired_classes


def cells(seed: int, gain: float) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Labels, two classifiers that share a subject's difficulty, and groups of 30 cells."""
    generator = np.random.default_rng(seed)
    label = np.repeat(np.arange(40) % 2, 30)
    group = np.repeat(np.arange(40), 30)
    shared = 0.7 * generator.standard_normal(40)[group] + generator.standard_normal(len(label))
    first = 1.2 * label + shared + 0.4 * generator.standard_normal(len(label))
    second = (1.2 + gain) * label + shared + 0.4 * generator.standard_normal(len(label))
    return label, expit(first - 0.6), expit(second - 0.6 - gain / 2), group


def test_a_real_gain_is_seen_and_no_gain_is_not() -> None:
    found = paired_bootstrap(*cells(0, gain=0.5), seed=0)
    area = found["metrics"]["auc"]
    assert 0 < area["low"] < area["difference"] < area["high"]
    assert area["p"] < 0.01
    assert found["metrics"]["nll"]["high"] < 0
    assert found["only_second"] > found["only_first"]
    same = paired_bootstrap(*cells(1, gain=0.0), seed=0)["metrics"]["auc"]
    assert same["low"] < 0 < same["high"]
    assert same["p"] > 0.05


def test_both_see_the_same_groups() -> None:
    """The interval is that of differences within resamples, narrower than of two drawings."""
    label, first, second, group = cells(2, gain=0.2)
    found = paired_bootstrap(label, first, second, group, seed=5, resamples=100)["metrics"]["auc"]
    resampled = GroupResamples.sample(label, group, seed=5, resamples=100)
    change = []
    for row in resampled.weight.astype(int):
        chosen = np.repeat(np.arange(len(label)), row[group])
        areas = [roc_auc_score(label[chosen], p[chosen]) for p in (first, second)]
        change.append(areas[1] - areas[0])
    expected = resampled.percentile_interval(np.asarray(change))
    assert (found["low"], found["high"]) == pytest.approx((expected.low, expected.high))
    alone = resampled.percentile_interval(resampled.auc(label, first))
    assert alone.low is not None
    assert alone.high is not None
    assert found["high"] - found["low"] < (alone.high - alone.low) / 2


def test_p_is_the_level_at_which_the_interval_ends_at_0() -> None:
    label, *_, group = cells(2, gain=0.2)
    resampled = GroupResamples.sample(label, group, seed=5)
    change = np.random.default_rng(0).standard_normal(200_001)
    found = resampled.percentile_interval(change)
    for end in (found.low, found.high):
        assert end is not None
        assert resampled.p_value(change - end) == pytest.approx(0.05, abs=0.002)
    assert resampled.p_value(np.zeros(len(resampled.weight))) == 1
    assert 0 < resampled.p_value(np.ones(len(resampled.weight))) < 0.05


def test_the_same_scores_have_no_interval_and_no_p() -> None:
    label, first, _, group = cells(3, gain=0.0)
    area = paired_bootstrap(label, first, first, group, seed=0)["metrics"]["auc"]
    assert (area["difference"], area["low"], area["p"]) == (0, None, None)
    assert "same value" in area["note"]


def test_few_groups_and_one_class_are_told() -> None:
    label, first, second, group = cells(4, gain=0.5)
    few = group < 8
    area = paired_bootstrap(label[few], first[few], second[few], group[few], seed=0)["metrics"][
        "auc"
    ]
    assert area["difference"] is not None
    assert area["low"] is None
    assert "too few subjects" in area["note"]
    ones = label == 1
    found = paired_bootstrap(label[ones], first[ones], second[ones], group[ones], seed=0)
    assert found["metrics"]["auc"]["difference"] is None


def four_classes(seed: int, gain: float, groups: int = 24) -> tuple[ClassCells, ClassCells]:
    """Two classifiers of four classes on cells of 10 a group; the second is better by `gain`."""
    generator = np.random.default_rng(seed)
    label = generator.integers(0, 4, 10 * groups)
    table = pa.table({"group": np.repeat(np.arange(groups), 10)})
    shared = generator.standard_normal((len(label), 4))
    sides = []
    for strength in (1.0, 1.0 + gain):
        scores = strength * np.eye(4)[label] + shared
        scores += 0.5 * generator.standard_normal(scores.shape)
        stated = softmax(scores, axis=1)
        sides.append(ClassCells(table, label, stated.argmax(axis=1), stated))
    return sides[0], sides[1]


FOUR = ClassSet(("a", "b", "c", "d"), ("c", "d"))


def test_more_than_two_classes_are_compared_on_the_same_resamples() -> None:
    first, second = four_classes(0, gain=1.0)
    found = paired_classes(first, second, FOUR, seed=3, resamples=50)
    label, group = first.label, first.table["group"].to_numpy()
    assert found["groups"] == "24 groups"
    right = [side.called == label for side in (first, second)]
    assert found["both_correct"] == (right[0] & right[1]).sum()
    assert found["neither"] == (~right[0] & ~right[1]).sum()
    assert found["only_second"] > found["only_first"] > 0
    assert (
        sum(found[key] for key in ("both_correct", "only_first", "only_second", "neither")) == 240
    )

    def measured(side: ClassCells, rows: np.ndarray) -> dict[str, float]:
        own, called, stated = label[rows], side.called[rows], side.probabilities[rows]
        return {
            "accuracy": float((own == called).mean()),
            "balanced_accuracy": balanced_accuracy_score(own, called),
            "macro_f1": f1_score(own, called, average="macro"),
            "kappa": cohen_kappa_score(own, called),
            "macro_auc": float(roc_auc_score(own, stated, multi_class="ovr")),
            "brier": float(((stated - np.eye(4)[own]) ** 2).sum(axis=1).mean()),
            "nll": float(-np.log(stated[np.arange(len(own)), own]).mean()),
        }

    resampled = GroupResamples.pooled(group, seed=3, resamples=50)
    change: dict[str, list[float]] = {name: [] for name in COMPARED_CLASSES}
    for row in resampled.weight[1 + 24 :].astype(int):
        rows = np.repeat(np.arange(len(label)), row[group])
        one, other = measured(first, rows), measured(second, rows)
        for name in COMPARED_CLASSES:
            change[name].append(other[name] - one[name])
    everything = np.arange(len(label))
    for name in COMPARED_CLASSES:
        values = found["metrics"][name]
        assert values["first"] == pytest.approx(measured(first, everything)[name])
        assert values["second"] == pytest.approx(measured(second, everything)[name])
        whole = np.concatenate([np.zeros(25), change[name]])
        carriers = min(len(np.unique(group[label == number])) for number in range(4))
        every = name in ("balanced_accuracy", "macro_f1", "macro_auc")
        expected = resampled.percentile_interval(whole, carriers if every else None)
        assert (values["low"], values["high"]) == pytest.approx((expected.low, expected.high))
    assert found["metrics"]["balanced_accuracy"]["low"] > 0


def test_a_rare_class_leaves_no_interval_of_what_rests_on_every_class() -> None:
    first, second = four_classes(1, gain=0.5)
    rows = (first.label != 3) | (first.table["group"].to_numpy() < 3)
    one, other = (
        ClassCells(
            side.table.filter(pa.array(rows)),
            side.label[rows],
            side.called[rows],
            side.probabilities[rows],
        )
        for side in (first, second)
    )
    metrics = paired_classes(one, other, FOUR, seed=0)["metrics"]
    for name in ("balanced_accuracy", "macro_f1", "macro_auc"):
        assert metrics[name]["low"] is None
        assert metrics[name]["note"] == "no interval: the cells of d are in 3 of 24 groups"
    assert metrics["accuracy"]["low"] is not None
    withheld = paired_classes(one, other, FOUR, seed=0, withheld="unknown patients")["metrics"]
    assert {value["note"] for value in withheld.values()} == {"unknown patients"}
