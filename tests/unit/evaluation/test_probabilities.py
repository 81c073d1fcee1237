import numpy as np
import pytest
from scipy.special import expit
from sklearn.metrics import brier_score_loss, log_loss

from leuk_ray.evaluation.intervals import GroupResamples
from leuk_ray.evaluation.metrics import calibration_index
from leuk_ray.evaluation.probabilities import probability_intervals, refit

WHOLE = [(np.ones(6000, bool), np.ones(6000, bool))]


def groups_of_cells(seed: int, num_groups: int = 120) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labels, true log-odds and groups; half of the groups are ALL, each with an effect."""
    generator = np.random.default_rng(seed)
    label = np.repeat(np.arange(num_groups) % 2, 50)
    group = np.repeat(np.arange(num_groups), 50)
    spread = 1 + 0.3**2  # of a score within its class: cells and groups
    effect = 0.3 * generator.standard_normal(num_groups)
    score = 2.0 * label - 1 + effect[group] + generator.standard_normal(len(label))
    return label, 2.0 * score / spread, group


def test_log_odds_scaled_by_three_are_recovered_and_cost_less_afterwards() -> None:
    """On groups other than those it was fitted on; the fit's own error is below 2%."""
    validation, test = groups_of_cells(0), groups_of_cells(1)
    scaled = refit(
        (validation[0], 3 * validation[1]), (test[0], 3 * test[1]), temperature=1.0, parts=WHOLE
    )
    assert scaled is not None
    # What the unscaled scores ask for is 1 up to the chance of this sample.
    plain = refit(validation[:2], test[:2], temperature=1.0, parts=WHOLE)
    assert plain is not None
    assert scaled["temperature"] == pytest.approx(3, rel=0.05)
    # The prior holds 3 back by a little, 1 by nothing.
    assert scaled["temperature"] == pytest.approx(3 * plain["temperature"], rel=1e-2)
    assert scaled["refitted"]["nll"] < scaled["stated"]["nll"]
    assert scaled["refitted"]["ece"] < scaled["stated"]["ece"]
    assert scaled["refitted"]["nll"] == pytest.approx(log_loss(test[0], expit(test[1])), rel=0.01)


def test_calibrated_log_odds_lose_less_than_one_percent() -> None:
    for seed in range(3):
        found = refit(
            groups_of_cells(seed)[:2], groups_of_cells(seed + 10)[:2], temperature=1.0, parts=WHOLE
        )
        assert found is not None
        assert found["refitted"]["nll"] < 1.01 * found["stated"]["nll"]


def test_there_is_no_temperature_of_one_class() -> None:
    ones = np.ones(9, np.int64), np.linspace(-1, 1, 9)
    assert refit(ones, groups_of_cells(0)[:2], 1.0, [(np.ones(9, bool), WHOLE[0][1])]) is None


def test_intervals_are_those_of_the_drawn_cells() -> None:
    label, logit, group = groups_of_cells(2, num_groups=14)
    stated = expit(1.7 * logit)
    resampled = GroupResamples.sample(label, group, seed=3, resamples=80)
    found = probability_intervals(resampled, label, stated)
    index = calibration_index(stated)

    def error(cells: np.ndarray) -> float:
        """The calibration error over the bins of all cells."""
        gaps = [(label - stated)[cells][index[cells] == n].sum() for n in range(15)]
        return float(np.abs(gaps).sum() / len(cells))

    samples: dict[str, list[float]] = {"brier": [], "nll": [], "ece": []}
    for row in resampled.weight[-80:].astype(int):
        cells = np.repeat(np.arange(len(label)), row[group])
        samples["brier"].append(brier_score_loss(label[cells], stated[cells]))
        samples["nll"].append(log_loss(label[cells], stated[cells]))
        samples["ece"].append(max(0, 2 * error(np.arange(len(label))) - error(cells)))
    for name, values in samples.items():
        rows = np.concatenate([np.zeros(len(resampled.weight) - 80), values])
        expected = resampled.percentile_interval(rows)
        assert (found[name].low, found[name].high) == pytest.approx((expected.low, expected.high))


def test_too_few_groups_have_no_interval() -> None:
    label, logit, group = groups_of_cells(4, num_groups=6)
    resampled = GroupResamples.sample(label, group, seed=0)
    found = probability_intervals(resampled, label, expit(logit))
    assert {interval.low for interval in found.values()} == {None}
    assert "too few subjects" in found["ece"].note
