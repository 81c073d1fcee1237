"""500 image files with odd headers; `make test-attacks` reads 5,000."""

import pytest

from tests.support.odd_images import CPU_SECONDS, KINDS, MEMORY, odd_image, read_all


@pytest.mark.filterwarnings("ignore")  # of Pillow, about what is odd
def test_odd_headers_are_read_or_refused_within_time_and_memory():
    cost = read_all(range(500))
    assert cost.read + sum(cost.refused.values()) == 500
    assert cost.read > 20, "not all are refused at once"
    assert len(cost.refused) > 3
    assert cost.seconds < CPU_SECONDS, f"seed {cost.dearest}"
    assert cost.memory < MEMORY
    starts = {odd_image(seed)[:4] for seed in range(0, 500)}
    assert len(starts) >= len(KINDS)
