"""The form in which benchmarks hand on their figures."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest

FILE = Path(__file__).parents[3] / "benchmarks" / "results.py"


@pytest.fixture
def results(monkeypatch):
    spec = importlib.util.spec_from_file_location("benchmark_results", FILE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)
    spec.loader.exec_module(module)
    return module


def test_a_ratio_compares_contestants_of_one_round(results):
    found = results.ratios("ours", [9.0, 30.0, 8.0], [10.0, 20.0, 16.0], 0.9)
    assert found.values == pytest.approx([0.9, 1.5, 0.5])
    assert (found.median, min(found.values), max(found.values)) == (0.9, 0.5, 1.5)
    with pytest.raises(ValueError, match="argument 2 is shorter"):
        results.ratios("ours", [9.0, 30.0], [10.0], 0.9)


@pytest.mark.parametrize(
    ("value", "goal", "better", "held"),
    [
        (0.91, 0.9, "more", True),
        (0.89, 0.9, "more", False),
        (1.2, 1.3, "less", True),
        (1.4, 1.3, "less", False),
        (1.4, None, "more", None),
    ],
)
def test_a_goal_is_a_least_or_a_most(results, value, goal, better, held):
    assert results.Result("it", [value], goal, better=better).held is held


def test_results_are_printed_and_written(results, tmp_path, capsys):
    start = results.Result("start", [1.0, 1.5, 1.25], 1.2, "s", "less")
    results.finish([start, results.Result("rate", [2.0])], tmp_path / "found.json")
    lines = capsys.readouterr().out.splitlines()
    assert lines[2] == "| start | 1.25 s | 1 s | 1.5 s | <= 1.2 s | NO |"
    assert lines[3] == "| rate | 2 | 2 | 2 |  |  |"
    written = json.loads((tmp_path / "found.json").read_text())
    assert written[0] == {
        "name": "start", "unit": "s", "median": 1.25, "least": 1.0, "most": 1.5, "goal": 1.2,
        "better": "less", "held": False,
    }  # fmt: skip
