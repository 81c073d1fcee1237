import numpy as np
import pyarrow as pa
import pytest
from scipy.special import expit
from scipy.stats import binomtest

from leuk_ray.evaluation.decided import (
    FixedFor,
    apply_bands,
    apply_points,
    classify_subjects,
    parts_of,
)
from leuk_ray.evaluation.decisions import (
    Decisions,
    fix_decisions,
    operating_threshold,
    subject_threshold,
    worst_subjects,
)
from leuk_ray.evaluation.intervals import GroupResamples
from leuk_ray.evaluation.proportions import clopper_pearson
from leuk_ray.evaluation.subjects import SubjectRow


def subject(name: str, label: str, cells: int, called_all: int) -> SubjectRow:
    low, high = clopper_pearson(called_all, cells) or (None, None)
    right = {"ALL": called_all, "healthy": cells - called_all, "mixed": cells // 2}[label]
    return SubjectRow(
        subject=name,
        group=name,
        label=label,
        cells=cells,
        answered=cells,
        called_all=called_all,
        correct=right,
        blast_fraction=called_all / cells,
        blast_low=low,
        blast_high=high,
        mean_probability=0.5,
    )


def scores(seed: int, num_cells: int = 400) -> tuple[np.ndarray, np.ndarray]:
    """Labels and log-odds; rounded, so that many are tied."""
    generator = np.random.default_rng(seed)
    label = generator.integers(0, 2, num_cells)
    return label, np.round(2.0 * label - 1 + 1.5 * generator.standard_normal(num_cells), 1)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("target", [0.9, 0.95, 1.0])
def test_an_operating_point_reaches_its_target_and_gives_away_least(
    seed: int, target: float
) -> None:
    label, logit = scores(seed)
    candidates = [*np.unique(logit), logit.max() + 1]
    rates = [
        (np.mean(logit[label == 1] >= value), np.mean(logit[label == 0] < value))
        for value in candidates
    ]
    cut = operating_threshold(label, logit, "specificity", target)
    found = np.mean(logit[label == 1] >= cut), np.mean(logit[label == 0] < cut)
    assert found[1] >= target
    assert found[0] == max(sens for sens, spec in rates if spec >= target)
    cut = operating_threshold(label, logit, "sensitivity", target)
    found = np.mean(logit[label == 1] >= cut), np.mean(logit[label == 0] < cut)
    assert found[0] >= target
    assert found[1] == max(spec for sens, spec in rates if sens >= target)


def test_thresholds_of_other_cells_are_applied_and_counted() -> None:
    label, logit = scores(0)
    fixed = fix_decisions(label, logit, [], temperature=2.0, threshold=0.5, source="others")
    assert [(p.held, p.target) for p in fixed.points] == [
        ("specificity", 0.9),
        ("specificity", 0.95),
        ("sensitivity", 0.9),
        ("sensitivity", 0.95),
    ]
    other_label, other = scores(1)
    group = np.arange(400) // 20 + 100 * other_label
    resampled = GroupResamples.sample(other_label, group, seed=0, resamples=200)
    for row, point in zip(
        apply_points(
            [FixedFor(fixed, np.ones(len(other), bool))], other_label, other, 2.0, resampled
        ),
        fixed.points,
        strict=True,
    ):
        called = other >= point.log_odds
        assert row["sensitivity"]["numerator"] == called[other_label == 1].sum()
        assert row["sensitivity"]["denominator"] == other_label.sum()
        assert row["specificity"]["numerator"] == (~called)[other_label == 0].sum()
        assert row["probability"] == pytest.approx(expit(point.log_odds / 2.0))
        for side in ("sensitivity", "specificity"):
            assert row["intervals"][side].low < row[side]["value"] < row["intervals"][side].high


def test_one_class_fixes_no_operating_point_and_no_cells_fix_nothing() -> None:
    fixed = fix_decisions(
        np.ones(5, np.int64), np.arange(5.0), [], temperature=1, threshold=0.5, source="x"
    )
    assert (fixed.points, fixed.blast_fraction) == ((), None)
    none = np.empty(0, np.int64)
    fixed = fix_decisions(none, np.empty(0), [], temperature=1, threshold=0.5, source="x")
    assert (fixed.cells, fixed.points, fixed.bands) == (0, (), ())


def test_decisions_survive_json() -> None:
    label, logit = scores(2)
    subjects = [subject("1", "ALL", 10, 8), subject("H1", "healthy", 10, 1)]
    fixed = fix_decisions(label, logit, subjects, temperature=1, threshold=0.5, source="x")
    assert Decisions.model_validate_json(fixed.model_dump_json()) == fixed


def test_subjects_are_not_called_where_most_have_cells_of_both_classes() -> None:
    label, logit = np.array([0, 1] * 20), np.array([-1.0, 1] * 20)
    pure = [subject("1", "ALL", 10, 9), subject("2", "healthy", 10, 1)]
    few = [*pure * 5, subject("m", "mixed", 10, 5)]
    options = {"temperature": 1, "threshold": 0.5, "source": "x"}
    assert fix_decisions(label, logit, few, **options).blast_fraction == pytest.approx(0.5)
    many = [*pure, *[subject("m", "mixed", 10, 5)] * 3]
    assert fix_decisions(label, logit, many, **options).blast_fraction is None


def test_the_subject_threshold_parts_subjects_best_and_stays_near_the_middle() -> None:
    parted = [
        subject("1", "ALL", 10, 8),
        subject("2", "ALL", 10, 6),
        subject("H1", "healthy", 10, 2),
    ]
    assert subject_threshold(parted) == pytest.approx(0.4)
    overlapping = [*parted, subject("H2", "healthy", 10, 7)]
    # 0.4 finds both ALL and one healthy of two, 0.75 one ALL and both healthy: 0.4 is nearer 0.5.
    assert subject_threshold(overlapping) == pytest.approx(0.4)
    assert subject_threshold([subject("1", "ALL", 10, 8)]) is None
    assert subject_threshold([]) is None


def test_subjects_are_counted_with_exact_intervals() -> None:
    subjects = [subject(str(n), "ALL", 10, 9) for n in range(7)]
    subjects += [subject("7", "ALL", 10, 1), subject("H0", "healthy", 10, 0)]
    # With so few cells the interval holds the cut, whatever they are called.
    subjects += [subject("few", "ALL", 2, 2), subject("m", "mixed", 10, 5)]
    judged = classify_subjects(subjects, [0.5] * 11)
    exact = binomtest(7, 8).proportion_ci(0.95, method="exact")
    found = judged["sensitivity"]
    assert (found["numerator"], found["denominator"]) == (7, 8)
    assert (found["low"], found["high"]) == pytest.approx((exact.low, exact.high))
    assert judged["specificity"]["value"] == 1
    assert (judged["wrong"], judged["mixed"], judged["not_called"]) == (["7"], 1, 1)


def test_a_band_says_what_it_answers_and_how_well() -> None:
    label, logit = scores(3, 4000)
    fixed = fix_decisions(label, logit, [], temperature=1, threshold=0.5, source="x", shares=[0.2])
    resampled = GroupResamples.sample(label, np.arange(4000) // 50 + 1000 * label, seed=0)
    (row,) = apply_bands(
        [FixedFor(fixed, np.ones(4000, bool))], label, expit(logit), 0.5, resampled
    )
    answered = (expit(logit) <= row["low"]) | (expit(logit) >= row["high"])
    right = (logit >= 0) == (label == 1)
    assert row["answered"]["numerator"] == answered.sum()
    assert row["answered"]["value"] == pytest.approx(0.8, abs=0.05)  # scores are tied
    assert row["accuracy"]["numerator"] == (right & answered).sum()
    assert row["accuracy"]["value"] > right.mean()
    assert row["interval"].low < row["accuracy"]["value"] < row["interval"].high


def test_worst_subjects_come_first_and_faultless_ones_not_at_all() -> None:
    subjects = [subject("1", "ALL", 10, 9), subject("2", "ALL", 10, 2), subject("3", "ALL", 4, 4)]
    assert [row["subject"] for row in worst_subjects(subjects, 5)] == ["2", "1"]
    assert [row["subject"] for row in worst_subjects(subjects, 1)] == ["2"]


def test_a_fold_is_decided_on_by_its_own_validation_cells_alone() -> None:
    """The same cells, scored 5 higher in the second fold: its thresholds are 5 higher."""
    label, logit = scores(4)
    group = np.arange(400) // 20 + 100 * label
    resampled = GroupResamples.sample(label, group, seed=0, resamples=50)
    alone = fix_decisions(label, logit, [], temperature=1, threshold=0.5, source="x")
    (want, *_) = apply_points([FixedFor(alone, np.ones(400, bool))], label, logit, 1.0, resampled)
    both = GroupResamples.sample(np.tile(label, 2), np.tile(group, 2), seed=0, resamples=50)
    second = np.repeat([False, True], 400)
    shifted = np.concatenate([logit, logit + 5])
    table = pa.table({"fold": second.astype(int)})
    fixed = [
        FixedFor(
            fix_decisions(
                np.tile(label, 2)[fixing], shifted[fixing], [], temperature=1, threshold=0.5,
                source="x",
            ),
            own,
        )
        for fixing, own in parts_of(table, table)
    ]  # fmt: skip
    assert len(fixed) == 2
    (found, *_) = apply_points(fixed, np.tile(label, 2), shifted, 1.0, both)
    for side in ("sensitivity", "specificity"):
        assert found[side]["numerator"] == 2 * want[side]["numerator"]
    assert found["probability"] is None
    whole = parts_of(table.drop_columns("fold"), table.drop_columns("fold"))
    assert [(fixing.all(), own.all()) for fixing, own in whole] == [(True, True)]
