"""Parts of a benchmark: each survives another's failure, and what was found is kept."""

import importlib
import json
import sys
import time
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[3] / "benchmarks"
FINDS = f"""
import os, sys, time
from pathlib import Path
sys.path.insert(0, {str(BENCHMARKS)!r})
from parts import Findings, findings_file
from results import Result
findings = Findings(findings_file(Path(sys.argv[1]), sys.argv[2]))
findings.add(Result("first", [1.0], 0.5))
"""


@pytest.fixture
def parts(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    for name in ("results", "processes", "parts"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    yield importlib.import_module("parts")
    for name in ("results", "processes", "parts"):
        sys.modules.pop(name, None)


def test_parts_survive_failures_and_limits_and_keep_what_was_found(parts, tmp_path):
    def part(name: str, then: str, limit: float) -> object:
        command = [sys.executable, "-c", FINDS + then, str(tmp_path), name]
        return parts.Part(name, command, limit)

    # What is found is read while the part still runs, by the part after the next line of itself.
    looks = 'findings.note(str(findings.path.read_text().count("first")))'
    (tmp_path / "late.json").write_text('{"results": [1], "notes": []}')  # of an earlier run
    started = time.monotonic()
    outcomes = parts.run_parts(
        [
            part("good", looks, 20),
            part("broken", "print('why | it broke'); os.abort()", 20),
            part("hangs", "import subprocess; subprocess.run(['sleep', '600'])", 1),
            part("after", "", 20),
            part("late", "", 1000),
        ],
        tmp_path,
        60,
        {"device": "none"},
    )
    assert time.monotonic() - started < 30
    assert [(outcome.part, outcome.state) for outcome in outcomes] == [
        ("good", "done"), ("broken", "failed"), ("hangs", "stopped"), ("after", "done"),
        ("late", "not run"),
    ]  # fmt: skip
    assert [len(outcome.results) for outcome in outcomes] == [1, 1, 1, 1, 0]
    assert outcomes[0].notes == ["1"]
    assert outcomes[1].detail == "exit code -6: why | it broke"
    assert outcomes[2].seconds < 10
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert [part["state"] for part in summary["parts"]] == [o.state for o in outcomes]
    assert summary["parts"][2]["results"][0]["held"] is True
    table = (tmp_path / "table.md").read_text()
    assert "| broken | failed: exit code -6: why / it broke |" in table
    assert table.count("| first | 1 |") == 4


def test_the_summary_is_there_after_the_first_part(parts, tmp_path):
    """An interrupted command keeps its parts: the second one finds the summary of the first."""
    look = f"print(open({str(tmp_path / 'summary.json')!r}).read()); sys.exit(3)"
    first = parts.Part("first", [sys.executable, "-c", FINDS, str(tmp_path), "first"], 20)
    second = parts.Part("second", [sys.executable, "-c", "import sys; " + look], 20)
    outcomes = parts.run_parts([first, second], tmp_path, 60, {"device": "none"})
    assert outcomes[1].state == "failed"
    seen = json.loads((tmp_path / "second.log").read_text())
    assert [(part["part"], part["state"]) for part in seen["parts"]] == [
        ("first", "done"), ("second", "not run"),
    ]  # fmt: skip
