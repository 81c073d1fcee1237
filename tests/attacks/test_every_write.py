"""Every writer killed at every one of its writes, before it and in the middle of it."""

from pathlib import Path

import pytest

from tests.support.killing import WRITERS, count_writes, kill_at


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", WRITERS)
def test_a_kill_at_any_write_leaves_the_old_or_the_new(name: str, tmp_path: Path):
    before = tmp_path / "before"
    before.mkdir()
    WRITERS[name].before(before)
    writes = count_writes(name, before, tmp_path)
    assert len(writes) > 3
    found = [
        kill_at(name, before, tmp_path, at, torn)
        for at, write in enumerate(writes, 1)
        for torn in ((False, True) if write.startswith(("open", "library")) else (False,))
    ]
    print(f"{name}: {len(found)} kills at {len(writes)} writes, {found.count('new')} found the new")
    assert {"old"} <= {*found}
    assert found[0] == "old"
