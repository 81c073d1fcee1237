import time

import numpy as np
import pytest
from scipy.special import expit, logit
from scipy.stats import binomtest, norm
from scipy.stats import t as student
from sklearn.metrics import f1_score, recall_score, roc_auc_score

from leuk_ray.evaluation import intervals
from leuk_ray.evaluation.intervals import GroupResamples, weighted_auc
from leuk_ray.evaluation.metric_intervals import group_intervals, metric_samples
from leuk_ray.evaluation.proportions import clopper_pearson

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


def metrics_of(label: np.ndarray, probability: np.ndarray) -> dict[str, float]:
    called = probability >= 0.4
    return {
        "auc": float(roc_auc_score(label, probability)),
        "accuracy": float((label == called).mean()),
        "sensitivity": float(recall_score(label, called)),
        "specificity": float(recall_score(label, called, pos_label=0)),
        "weighted_f1": float(f1_score(label, called, average="weighted")),
    }


def test_percentile_bounds_are_those_of_the_drawn_cells() -> None:
    """The fast sums equal metrics computed on the cells each resample holds."""
    label, probability, group = subjects(np.random.default_rng(1), 6, 7, cells=9)
    probability = np.asarray(np.round(probability, 2), float)
    resampled = GroupResamples.sample(label, group, seed=3, resamples=60)
    got = metric_samples(resampled, label, probability, 0.4)
    strata = [np.arange(6), np.arange(6, 13)]
    weight = intervals._resample(strata, 60, np.random.default_rng(3)).astype(int)
    assert (weight[:, :6].sum(axis=1) == 6).all()
    assert (weight[:, 6:].sum(axis=1) == 7).all()
    rows = [np.repeat(np.arange(label.size), row[group]) for row in weight]
    samples = [metrics_of(label[row], probability[row]) for row in rows]
    for name, values in got.items():
        expected = [sample[name] for sample in samples]
        assert resampled.of_resamples(values) == pytest.approx(expected), name
        # Expanded for the 6 groups of the smaller class (Hesterberg 2015).
        tail = norm.cdf(np.sqrt(6 / 5) * student.ppf(0.025, df=5))
        interval = resampled.percentile_interval(values)
        bounds = np.quantile(expected, (tail, 1 - tail))
        assert (interval.low, interval.high) == pytest.approx(tuple(bounds)), name


def test_intervals_are_students_t_on_log_odds_with_groups_left_out() -> None:
    """Without a group the cells of its class count for as many groups as there are."""
    label, probability, group = subjects(np.random.default_rng(1), 6, 6, cells=9)
    got = group_intervals(label, probability, group, 0.4, seed=3, resamples=10)
    whole = metrics_of(label, probability)
    kept = {"auc", "sensitivity", "specificity"}  # do not depend on the share of the classes
    without = [metrics_of(label[group != n], probability[group != n]) for n in range(12)]
    for name in kept:
        values = np.asarray([metrics[name] for metrics in without])
        parts = values[:6], values[6:]
        variance = sum(5 / 6 * ((part - part.mean()) ** 2).sum() for part in parts)
        centre, slope = whole[name], whole[name] * (1 - whole[name])
        half = student.ppf(0.975, df=5) * np.sqrt(variance) / slope
        bounds = expit(logit(centre) + np.asarray([-half, half]))
        assert (got[name].low, got[name].high) == pytest.approx(tuple(bounds)), name
        assert got[name].resamples == 12
    for name in whole.keys() - kept:
        low, high = got[name].low, got[name].high
        assert low is not None
        assert high is not None
        assert 0 < low < whole[name] < high < 1


def test_many_groups_are_left_out_in_blocks() -> None:
    """Bounded memory, and nearly the interval of leaving out each."""
    cells = subjects(np.random.default_rng(2), 250, 130, cells=3)
    resampled = GroupResamples.sample(cells[0], cells[2], seed=0, resamples=5)
    assert resampled.blocks == (100, 100)
    assert resampled.weight.shape == (1 + 200 + 5, 380)
    assert resampled.weight[:201, :250].sum(axis=1) == pytest.approx(250)
    found = resampled.interval(resampled.auc(cells[0], cells[1]))
    singly = stratified_se(*cells)
    assert found.low is not None
    assert found.high is not None
    assert found.high - found.low == pytest.approx(2 * student.ppf(0.975, 99) * singly, rel=0.2)


def stratified_se(label: np.ndarray, probability: np.ndarray, group: np.ndarray) -> float:
    without = np.asarray([
        roc_auc_score(label[group != n], probability[group != n]) for n in np.unique(group)
    ])  # fmt: skip
    parts = without[:250], without[250:]
    return float(np.sqrt(sum((len(p) - 1) / len(p) * ((p - p.mean()) ** 2).sum() for p in parts)))


def test_blocks_do_not_change_the_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    cells = subjects(np.random.default_rng(2), 10, 10, cells=5)
    whole = group_intervals(*cells, 0.5, seed=0, resamples=100)
    monkeypatch.setattr(intervals, "_BLOCK_VALUES", 700)
    assert group_intervals(*cells, 0.5, seed=0, resamples=100) == whole


def test_one_seed_gives_one_interval() -> None:
    cells = subjects(np.random.default_rng(4), 12, 12, cells=10)
    first = group_intervals(*cells, 0.5, seed=7)
    assert first == group_intervals(*cells, 0.5, seed=7)
    resampled = [GroupResamples.sample(cells[0], cells[2], seed=seed) for seed in (7, 7, 8)]
    areas = [one.percentile_interval(one.auc(*cells[:2])) for one in resampled]
    assert areas[0] == areas[1] != areas[2]
    area = first["auc"]
    assert area.low is not None
    assert area.high is not None
    assert area.low < roc_auc_score(cells[0], cells[1]) < area.high
    assert (area.groups_positive, area.groups_negative, area.resamples) == (12, 12, 24)


def test_too_few_groups_have_no_interval() -> None:
    for name, interval in group_intervals(
        *subjects(np.random.default_rng(5), 2, 3, cells=20), 0.5, seed=0
    ).items():
        assert (interval.low, interval.high, interval.resamples) == (None, None, 0), name
        assert interval.note == "too few subjects for an interval (2 ALL + 3 healthy groups)"
    lopsided = subjects(np.random.default_rng(5), 40, 4, cells=5)
    assert "(40 ALL + 4 healthy groups)" in group_intervals(*lopsided, 0.5, seed=0)["auc"].note


@pytest.mark.parametrize(
    ("num_all", "num_healthy", "noted"), [(5, 5, True), (30, 9, True), (10, 10, False)]
)
def test_few_groups_have_an_interval_with_a_note(
    num_all: int, num_healthy: int, noted: bool
) -> None:
    cells = subjects(np.random.default_rng(6), num_all, num_healthy, cells=20)
    area = group_intervals(*cells, 0.5, seed=0)["auc"]
    assert area.low is not None
    assert bool(area.note) == noted
    if noted:
        assert "are few" in area.note
        assert "of trials with 5 + 5 groups" in area.note


def test_a_group_belongs_to_the_class_of_most_of_its_cells() -> None:
    label, probability, group = subjects(np.random.default_rng(7), 10, 11, cells=9)
    label[group == 0] = [1, 1, 1, 1, 1, 0, 0, 0, 0]
    area = group_intervals(label, probability, group, 0.5, seed=0)["auc"]
    assert (area.groups_positive, area.groups_negative) == (10, 11)


def test_groups_that_hold_both_classes_are_counted_for_each() -> None:
    """By majority there would be no group of the rarer class, and no interval."""
    generator = np.random.default_rng(8)
    label = (generator.random((20, 30)) < 0.2).astype(np.int64)
    label[12:] = 0
    probability = np.clip(0.3 + 0.3 * label + 0.15 * generator.standard_normal((20, 30)), 0, 1)
    group = np.repeat(np.arange(20), 30)
    area = group_intervals(label.ravel(), probability.ravel(), group, 0.5, seed=0)["auc"]
    assert area.low is not None
    assert (area.groups_positive, area.groups_negative) == (None, None)
    assert area.note == ""
    label[7:] = 0
    area = group_intervals(label.ravel(), probability.ravel(), group, 0.5, seed=0)["auc"]
    words = "20 groups, 7 with ALL and 20 with healthy cells"
    assert area.note == f"{words} are few: read this interval with care"
    label[4:] = 0
    area = group_intervals(label.ravel(), probability.ravel(), group, 0.5, seed=0)["auc"]
    assert (area.low, area.note) == (None, "too few subjects for an interval (20 groups, 4 with "
                                     "ALL and 20 with healthy cells)")  # fmt: skip


def test_a_metric_without_any_error_has_no_interval() -> None:
    """Without any group a perfect result is perfect: [1, 1] would claim certainty."""
    label = np.repeat([1, 0], 60)
    group = np.repeat(np.arange(24), 5)
    probability = np.where(label == 1, 0.9, 0.1)
    probability[0] = 0.4
    got = group_intervals(label, probability, group, 0.5, seed=0)
    assert got["specificity"].low is None
    assert "the same whichever group" in got["specificity"].note
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
    group_intervals(*cells, 0.5, seed=0)
    assert time.perf_counter() - start < 3


def coverage(
    num_all: int, num_healthy: int, trials: int, by_cell: bool = False, area: float = 0.9
) -> float:
    """The share of trials whose interval holds the true area, known from the two normals."""
    spread = np.sqrt(2 * (1 + SUBJECT_EFFECT**2))
    generator = np.random.default_rng(9)
    held = 0
    for _ in range(trials):
        label, probability, group = subjects(generator, num_all, num_healthy, cells=20)
        score = logit(probability) + (spread * norm.ppf(area) - SEPARATION) * label
        units = np.arange(label.size) if by_cell else group
        found = group_intervals(label, expit(score), units, 0.5, seed=0, resamples=0)["auc"]
        if found.low is None or found.high is None:
            continue  # without any error; counted as not held
        held += found.low <= area <= found.high
    return held / trials


@pytest.mark.parametrize("area", [0.8, 0.98])
@pytest.mark.parametrize("groups", [(5, 5), (22, 44)])
def test_intervals_cover_about_as_often_as_they_say(groups: tuple[int, int], area: float) -> None:
    """The bootstrap of before held 0.98 in 86% of trials with 5 + 5 groups.

    A share of 200 trials has a standard deviation of 1.5 points at 95%: the bound lies 3 away.
    """
    assert coverage(*groups, trials=200, area=area) >= 0.905


def test_single_cells_cover_less() -> None:
    """Of 40 trials the SD is 8 points."""
    assert coverage(22, 44, trials=40, by_cell=True) <= 0.82
