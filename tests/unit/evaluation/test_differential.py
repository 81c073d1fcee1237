"""A subject's differential: counts, and intervals that hold together."""

import numpy as np
import pytest
from scipy.stats import beta

from leuk_ray.evaluation.differential import differential

NAMES = ["blast", "lymphocyte", "monocyte"]


def test_shares_are_of_answered_cells_alone():
    labels = ["blast", "blast", "monocyte", "abstain", None, "lymphocyte"]
    rows = differential(labels, NAMES)
    assert [(row.name, row.cells, row.share) for row in rows] == [
        ("blast", 2, 0.5),
        ("lymphocyte", 1, 0.25),
        ("monocyte", 1, 0.25),
    ]
    tail = 0.05 / 3 / 2
    assert rows[0].low == pytest.approx(beta.ppf(tail, 2, 3))
    assert rows[0].high == pytest.approx(beta.ppf(1 - tail, 3, 2))


def test_without_an_answer_there_is_no_share():
    assert {(row.cells, row.share, row.low) for row in differential(["abstain", None], NAMES)} == {
        (0, None, None)
    }


@pytest.mark.parametrize("cells", [20, 200])
def test_all_intervals_together_hold_in_95_percent(cells: int):
    shares = np.asarray([0.55, 0.2, 0.1, 0.08, 0.04, 0.02, 0.008, 0.002])
    names = [f"c{k}" for k in range(len(shares))]
    rng = np.random.default_rng(1)
    held = []
    for _ in range(300):
        labels = rng.choice(names, cells, p=shares).tolist()
        rows = differential(labels, names)
        held.append(
            all(row.low <= share <= row.high for row, share in zip(rows, shares, strict=True))
        )
    assert np.mean(held) >= 0.95 - 2 * np.sqrt(0.05 * 0.95 / 300)
