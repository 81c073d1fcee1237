"""An alarm for what changes, none for what does not."""

import numpy as np
import pytest

from leuk_ray.datasets.images import StorageSettings, to_storage
from leuk_ray.datasets.synthetic import SyntheticSpec, draw_cells, render
from leuk_ray.inference.scope import fit_scope, measure
from leuk_ray.serving.drift import WINDOW, Drift, Shift
from tests.support.serving_bundles import turned


@pytest.fixture(scope="module")
def cells() -> list[np.ndarray]:
    drawn = draw_cells(SyntheticSpec(cells=260, subjects=65, seed=2))
    return [to_storage(render(cell), StorageSettings(size=64)) for cell in drawn]


@pytest.fixture(scope="module")
def typical(cells) -> dict[str, tuple[float, float]]:
    features = [measure(pixels) for pixels in cells[:130]]
    embedding = np.random.default_rng(0).normal(size=(130, 8))
    return fit_scope(features, embedding, [str(i // 4) for i in range(130)])[0].typical


def test_5000_ordinary_pictures_raise_no_alarm(cells, typical):
    features = [measure(pixels) for pixels in cells[130:]]
    drift = Drift(typical)
    order = np.random.default_rng(1).integers(0, len(features), 5000)
    alarms = 0
    for index in order.tolist():
        drift.add(features[index])
        shift = drift.shift()
        alarms += shift is not None and shift.alarm
    assert alarms == 0


def shift_of(drift: Drift) -> Shift:
    shift = drift.shift()
    assert shift is not None
    return shift


def test_a_turned_hue_raises_the_alarm_within_500_pictures(cells, typical):
    drift = Drift(typical)
    ordinary = [measure(pixels) for pixels in cells[130:]]
    for number in range(WINDOW):
        drift.add(ordinary[number % len(ordinary)])
    assert not shift_of(drift).alarm
    changed = [measure(turned(pixels, 20)) for pixels in cells[130:]]
    seen = 0
    while not shift_of(drift).alarm:
        drift.add(changed[seen % len(changed)])
        seen += 1
        assert seen <= 500
    assert shift_of(drift).name in ("red", "green")


def test_the_means_are_those_of_the_latest_pictures():
    drift = Drift({"x": (0.0, 2.0), "constant": (1.0, 0.0)})
    values = np.random.default_rng(0).normal(size=1000)
    for number, value in enumerate(values.tolist()):
        assert (drift.shift() is None) == (number < WINDOW)
        drift.add({"x": value})
    assert shift_of(drift).effect == pytest.approx(values[-WINDOW:].mean() / 2)


def test_without_statistics_there_is_nothing_to_watch():
    drift = Drift({})
    for _ in range(WINDOW):
        drift.add({"x": 1.0})
    assert drift.shift() is None
