import time

import numpy as np
import pytest
from scipy.stats import binomtest, norm
from scipy.stats import t as student
from sklearn.metrics import f1_score, recall_score, roc_auc_score

from leuk_ray.evaluation import intervals
from leuk_ray.evaluation.intervals import (
    GroupResamples,
    clopper_pearson,
    group_bootstrap,
    weighted_auc,
)

SEPARATION, SUBJECT_EFFECT = 1.6, 0.7  # in standard deviations of a cell's score


def subjects(
    generator: np.random.Generator, num_all: int, num_healthy: int, cells: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Label, probability and group of cells whose subjects differ."""
    label = np.repeat([1] * num_all + [0] * num_healthy, cells)
    group = np.repeat(np.arange(num_all + num_healthy), cells)
    effect = SUBJECT_EFFECT * generator.standard_normal(num_all + num_healthy)
    score = SEPARATION * label + effect[group] + generator.standard_normal(label.size)
    return label, 1 / (1 + np.exp(SEPARATION / 2 - score)), group


def test_weighted_auc_equals_scikit_learn_with_ties() -> None:
    generator = np.random.default_rng(0)
    label = generator.integers(0, 2, 200)
    score = np.round(label + generator.standard_normal(200), 1)
    assert np.unique(score).size < 100
    weight = generator.integers(0, 4, (20, 200)).astype(float)
    expected = [roc_auc_score(label, score, sample_weight=row) for row in weight]
    assert weighted_auc(label, score, weight) == pytest.approx(expected)


def test_bounds_are_those_of_the_drawn_cells() -> None:
    """The fast sums equal metrics computed on the cells each resample holds."""
    label, probability, group = subjects(np.random.default_rng(1), 6, 7, cells=9)
    probability = np.round(probability, 2)
    got = group_bootstrap(label, probability, group, 0.4, seed=3, resamples=60)
    positive = np.arange(13) < 6
    weight = intervals._resample(positive, 60, np.random.default_rng(3)).astype(int)
    assert (weight[:, :6].sum(axis=1) == 6).all()
    assert (weight[:, 6:].sum(axis=1) == 7).all()
    samples: dict[str, list[float]] = {name: [] for name in got}
    for row in weight:
        resampled = np.repeat(np.arange(label.size), row[group])
        truth, called = label[resampled], probability[resampled] >= 0.4
        samples["auc"].append(roc_auc_score(truth, probability[resampled]))
        samples["accuracy"].append(float((truth == called).mean()))
        samples["sensitivity"].append(recall_score(truth, called))
        samples["specificity"].append(recall_score(truth, called, pos_label=0))
        samples["weighted_f1"].append(f1_score(truth, called, average="weighted"))
    for name, interval in got.items():
        # Expanded for the 6 groups of the smaller class (Hesterberg 2015).
        tail = norm.cdf(np.sqrt(6 / 5) * student.ppf(0.025, df=5))
        expected = np.quantile(samples[name], (tail, 1 - tail))
        assert (interval.low, interval.high) == pytest.approx(tuple(expected)), name


def test_blocks_do_not_change_the_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    cells = subjects(np.random.default_rng(2), 10, 10, cells=5)
    whole = group_bootstrap(*cells, 0.5, seed=0, resamples=100)
    monkeypatch.setattr(intervals, "_BLOCK_VALUES", 700)
    assert group_bootstrap(*cells, 0.5, seed=0, resamples=100) == whole


def test_one_seed_gives_one_interval() -> None:
    cells = subjects(np.random.default_rng(4), 12, 12, cells=10)
    first = group_bootstrap(*cells, 0.5, seed=7)
    assert first == group_bootstrap(*cells, 0.5, seed=7)
    assert first != group_bootstrap(*cells, 0.5, seed=8)
    area = first["auc"]
    assert area.low is not None
    assert area.high is not None
    assert area.low < roc_auc_score(cells[0], cells[1]) < area.high
    assert (area.groups_positive, area.groups_negative, area.resamples) == (12, 12, 2000)


def test_too_few_groups_have_no_interval() -> None:
    for name, interval in group_bootstrap(
        *subjects(np.random.default_rng(5), 2, 3, cells=20), 0.5, seed=0
    ).items():
        assert (interval.low, interval.high, interval.resamples) == (None, None, 0), name
        assert interval.note == "too few subjects for an interval (2 ALL + 3 healthy groups)"
    lopsided = subjects(np.random.default_rng(5), 40, 4, cells=5)
    assert "(40 ALL + 4 healthy groups)" in group_bootstrap(*lopsided, 0.5, seed=0)["auc"].note


@pytest.mark.parametrize(
    ("num_all", "num_healthy", "noted"), [(5, 5, True), (30, 9, True), (10, 10, False)]
)
def test_few_groups_have_an_interval_with_a_note(
    num_all: int, num_healthy: int, noted: bool
) -> None:
    cells = subjects(np.random.default_rng(6), num_all, num_healthy, cells=20)
    area = group_bootstrap(*cells, 0.5, seed=0)["auc"]
    assert area.low is not None
    assert bool(area.note) == noted
    if noted:
        assert "are few" in area.note
        assert "94% of trials with 5 + 5 groups" in area.note


def test_a_group_belongs_to_the_class_of_most_of_its_cells() -> None:
    label, probability, group = subjects(np.random.default_rng(7), 10, 11, cells=9)
    label[group == 0] = [1, 1, 1, 1, 1, 0, 0, 0, 0]
    area = group_bootstrap(label, probability, group, 0.5, seed=0)["auc"]
    assert (area.groups_positive, area.groups_negative) == (10, 11)


def test_a_metric_without_any_error_has_no_interval() -> None:
    """Every resample of a perfect result is perfect: [1, 1] would claim certainty."""
    label = np.repeat([1, 0], 60)
    group = np.repeat(np.arange(24), 5)
    probability = np.where(label == 1, 0.9, 0.1)
    probability[0] = 0.4
    got = group_bootstrap(label, probability, group, 0.5, seed=0)
    assert got["specificity"].low is None
    assert "same value" in got["specificity"].note
    assert got["sensitivity"].low is not None


def test_groups_must_match_the_cells() -> None:
    with pytest.raises(ValueError, match="must be"):
        GroupResamples.sample(np.array([1, 0]), ["a"], seed=0)


@pytest.mark.parametrize(("successes", "trials"), [(0, 10), (3, 10), (10, 10), (1, 1), (57, 900)])
def test_clopper_pearson_equals_scipy(successes: int, trials: int) -> None:
    exact = binomtest(successes, trials).proportion_ci(0.95, method="exact")
    assert clopper_pearson(successes, trials) == pytest.approx((exact.low, exact.high))


def test_clopper_pearson_needs_trials() -> None:
    assert clopper_pearson(0, 0) is None
    with pytest.raises(ValueError, match="3 successes of 2"):
        clopper_pearson(3, 2)


def test_two_thousand_cells_take_less_than_three_seconds() -> None:
    cells = subjects(np.random.default_rng(8), 20, 20, cells=50)
    start = time.perf_counter()
    group_bootstrap(*cells, 0.5, seed=0)
    assert time.perf_counter() - start < 3


def coverage(num_all: int, num_healthy: int, trials: int, by_cell: bool = False) -> float:
    """The share of trials whose interval holds the true area, known from the two normals."""
    true_area = norm.cdf(SEPARATION / np.sqrt(2 * (1 + SUBJECT_EFFECT**2)))
    generator = np.random.default_rng(9)
    held = 0
    for trial in range(trials):
        label, probability, group = subjects(generator, num_all, num_healthy, cells=20)
        units = np.arange(label.size) if by_cell else group
        area = group_bootstrap(label, probability, units, 0.5, seed=trial, resamples=300)["auc"]
        assert area.low is not None
        assert area.high is not None
        held += area.low <= true_area <= area.high
    return held / trials


def test_intervals_cover_about_as_often_as_they_say() -> None:
    """Larger simulations give 96% for 22 + 44 groups and 94% for 5 + 5.

    A share of 200 trials has a standard deviation of 1.5 points at 95%: bounds lie 3 away.
    """
    assert 0.905 <= coverage(22, 44, trials=200) <= 0.995
    assert 0.885 <= coverage(5, 5, trials=200) <= 0.99


def test_single_cells_cover_less() -> None:
    """Larger simulations give 58% for cells taken one by one; of 40 trials the SD is 8 points."""
    assert coverage(22, 44, trials=40, by_cell=True) <= 0.82
