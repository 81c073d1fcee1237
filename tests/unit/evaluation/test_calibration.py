import numpy as np
import pytest
from scipy.special import expit

from leuk_ray.evaluation.calibration import abstain_band, fit_temperature, probability


def test_the_temperature_that_made_the_labels_is_found():
    generator = np.random.default_rng(0)
    truth = generator.normal(0, 2, 20_000)  # log-odds
    labels = (generator.random(20_000) < expit(truth)).astype(int)
    for temperature in (0.4, 1.0, 3.0):
        # The standard error of the estimate is about 1.5% with so many cells.
        assert fit_temperature(truth * temperature, labels) == pytest.approx(temperature, rel=0.05)


def test_a_separable_set_gives_a_finite_temperature():
    assert 0.04 < fit_temperature(np.array([-1.0, 1.0]), np.array([0, 1])) < 0.06


@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.8])
@pytest.mark.parametrize("share", [0.05, 0.3])
def test_the_band_holds_the_wanted_share_and_the_threshold(threshold: float, share: float):
    logits = np.random.default_rng(1).normal(0, 2, 4000)
    probabilities = probability(logits, 1.5)
    band = abstain_band(logits, 1.5, threshold, share)
    assert band is not None
    low, high = band
    assert low < threshold < high
    inside = ((probabilities > low) & (probabilities < high)).mean()
    assert inside == pytest.approx(share, abs=0.001)


def test_no_share_is_no_band():
    assert abstain_band(np.array([-1.0, 1.0]), 1.0, 0.5, 0) is None
    for always in (0.0, 1.0):
        assert abstain_band(np.array([-1.0, 1.0]), 1.0, always, 0.05) is None


def test_cells_whose_probability_rounds_to_one_still_have_an_order():
    logits = np.array([-900.0, -800.0, 1.0, 2.0, 800.0, 900.0])  # sigmoid: 0 or 1 but for two
    assert abstain_band(logits, 1.0, 0.5, 0.2) == pytest.approx(tuple(expit([-2.0, 2.0])))
    for share in (0.5, 1.0):
        assert abstain_band(logits, 1.0, 0.5, share) == (0.0, 1.0)
