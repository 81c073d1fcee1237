"""5,000 image files with odd headers."""

import pytest

from tests.support.odd_images import CPU_SECONDS, MEMORY, read_all


@pytest.mark.filterwarnings("ignore")  # of Pillow, about what is odd
def test_odd_headers_are_read_or_refused_within_time_and_memory():
    cost = read_all(range(1000, 6000))
    print(cost)
    assert cost.read + sum(cost.refused.values()) == 5000
    assert cost.seconds < CPU_SECONDS, f"seed {cost.dearest}"
    assert cost.memory < MEMORY
