import numpy as np
import pytest
from scipy.special import expit
from sklearn.metrics import roc_auc_score

from leuk_ray.evaluation.intervals import GroupResamples
from leuk_ray.evaluation.paired import paired_bootstrap


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
