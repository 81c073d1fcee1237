import numpy as np
import pytest
from scipy.special import expit, softmax
from scipy.stats import norm

from leuk_ray.datasets.classes import ClassSet
from leuk_ray.evaluation.calibration import (
    abstain_band,
    binary_log_odds,
    binary_probability,
    class_log_odds,
    class_probabilities,
    fit_temperature,
    min_confidence,
    probability,
    temperature_caution,
)
from leuk_ray.evaluation.metrics import nll


def test_the_temperature_that_made_the_labels_is_found():
    generator = np.random.default_rng(0)
    truth = generator.normal(0, 2, 20_000)  # log-odds
    labels = (generator.random(20_000) < expit(truth)).astype(int)
    for temperature in (0.4, 1.0, 3.0):
        # The standard error of the estimate is about 1.5% with so many cells.
        fitted = fit_temperature(truth[:, None] * temperature, labels)
        assert fitted == pytest.approx(temperature, rel=0.05)


@pytest.mark.parametrize("num", [24, 80])
@pytest.mark.parametrize("area", [0.9, 0.999])
def test_few_cells_make_the_likelihood_of_others_no_worse(num: int, area: float):
    """Over true temperatures 1/2, 1, 2 and 4, against leaving it at 1; 0.999 is often separable."""
    generator = np.random.default_rng(0)
    apart = np.sqrt(2) * norm.ppf(area)  # of two unit normals, whose log-odds is apart * x

    def drawn(cells: int, scale: float) -> tuple[np.ndarray, np.ndarray]:
        labels = np.arange(cells) % 2
        score = apart * (labels - 0.5) + generator.standard_normal(cells)
        return scale * apart * score, labels

    gains = []
    for scale in np.repeat([0.5, 1, 2, 4], 30):
        logits, labels = drawn(num, scale)
        temperature = fit_temperature(logits[:, None], labels)
        assert 0.2 < temperature < 8  # it ran to 0.05
        logits, labels = drawn(4000, scale)
        before, after = nll(labels, expit(logits)), nll(labels, probability(logits, temperature))
        assert before is not None
        assert after is not None
        gains.append(before - after)
    assert np.mean(gains) > 0


def test_a_set_without_an_error_is_warned_of():
    logits, labels = np.array([[-3.0], [-1.0], [2.0]]), np.array([0, 0, 1])
    assert temperature_caution(logits, labels).startswith("Every one of these cells is classified")
    assert not temperature_caution(np.append(logits, [[0.5]], axis=0), np.append(labels, 0))


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


@pytest.mark.parametrize("num_classes", [2, 3, 8, 20])
def test_class_probabilities_are_the_softmax_and_sum_over_the_binary_view(num_classes: int):
    scores = np.random.default_rng(0).normal(0, 20, (200, num_classes - 1))
    names = tuple(f"c{number}" for number in range(num_classes))
    classes = ClassSet(names, names[num_classes // 2 :])
    expected = softmax(np.pad(scores / 1.7, ((0, 0), (1, 0))), axis=1)
    found = class_probabilities(scores, 1.7)
    np.testing.assert_allclose(found, expected, rtol=1e-10)
    np.testing.assert_allclose(
        binary_probability(scores, 1.7, classes),
        expected[:, classes.is_positive].sum(axis=1),
        rtol=1e-10,
    )
    if num_classes == 2:  # to the last bit what the sigmoid gives
        np.testing.assert_array_equal(found[:, 1], expit(scores[:, 0] / 1.7))
        np.testing.assert_array_equal(binary_log_odds(scores, classes), scores[:, 0])


def test_probabilities_of_sure_cells_keep_their_digits():
    """What a softmax in float64 rounds to 1 is told apart in log-odds."""
    assert class_log_odds(np.array([[50.0, 0.0], [60.0, 0.0]]))[:, 1] == pytest.approx(
        [50 - np.log(2), 60 - np.log(2)]
    )


def test_a_temperature_of_many_classes_is_recovered_and_the_confidence_leaves_a_share():
    generator = np.random.default_rng(0)
    truth = np.pad(generator.normal(0, 2, (8000, 4)), ((0, 0), (1, 0)))
    labels = (softmax(truth, axis=1).cumsum(axis=1) < generator.random((8000, 1))).sum(axis=1)
    for temperature in (0.5, 1.0, 3.0):
        scores = temperature * truth[:, 1:]
        assert fit_temperature(scores, labels) == pytest.approx(temperature, rel=0.05)
        smallest = min_confidence(scores, temperature, 0.1)
        below = class_probabilities(scores, temperature).max(axis=1) < smallest
        assert below.mean() == pytest.approx(0.1, abs=1e-3)
    assert min_confidence(scores, 1.0, 0) is None
    assert not temperature_caution(scores, labels)
    assert temperature_caution(scores, np.pad(scores, ((0, 0), (1, 0))).argmax(axis=1))
