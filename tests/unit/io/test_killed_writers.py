"""Writers killed at a few of their writes; `make test-attacks` tries every one of them."""

from pathlib import Path

import pytest

from tests.support.killing import WRITERS, count_writes, kill_at

# Both draw figures for seconds: `make test-attacks` alone tries them.
_SLOW = {"a judged run", "crossval"}


@pytest.mark.parametrize("name", [name for name in WRITERS if name not in _SLOW])
def test_a_kill_leaves_the_old_or_the_new(name: str, tmp_path: Path):
    before = tmp_path / "before"
    before.mkdir()
    WRITERS[name].before(before)
    writes = count_writes(name, before, tmp_path)
    # One in the middle, and the last, where the new takes the place of the old.
    places = (len(writes) // 2, len(writes))
    found = {kill_at(name, before, tmp_path, at, torn=at % 2 == 0) for at in places}
    assert "old" in found
