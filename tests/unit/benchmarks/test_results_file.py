"""The measurements in benchmarks/results, and the page that shows them."""

import importlib
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
MODULES = ("results", "results_file", "results_page")
RATE = {"name": "rate", "unit": "ms", "decimals": 2}


@pytest.fixture
def load(monkeypatch):
    for folder in ("benchmarks", "docs"):
        monkeypatch.syspath_prepend(ROOT / folder)
    for name in MODULES:
        monkeypatch.delitem(sys.modules, name, raising=False)
    yield importlib.import_module
    for name in MODULES:
        sys.modules.pop(name, None)


def measurement(**changes) -> dict:
    full = {"title": "It", "command": "make it", "commit": "0123456", "date": "2026-11-28"}
    full |= {"machine": "2 cores", "table": {"columns": [RATE], "rows": [[1.25]]}}
    return full | changes


def test_every_file_has_the_form_and_is_on_the_page(load):
    form = load("results_file")
    files = form.read_all()
    assert len(files) == len(list((ROOT / "benchmarks/results").iterdir())) > 30
    page = load("results_page").results_page()
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for name, file in files.items():
        assert f"### {file.title}\n" in page
        for one in file.measurements:
            assert one.command in page, name
            assert re.search(rf"{one.date}, (noted in )?commit {one.commit}\.", page), name
            for script in re.findall(r"benchmarks/\w+\.py", one.command):
                assert (ROOT / script).is_file(), f"{name}: {script}"
            for target in re.findall(r"(?:^|\s)make ([\w-]+)", one.command):
                assert target in targets, f"{name}: make {target}"
    linked = re.findall(r"\((results/\w+\.json)\)", (ROOT / "benchmarks/NOTES.md").read_text())
    assert linked
    assert not [link for link in linked if not (ROOT / "benchmarks" / link).is_file()]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"table": None}, "has neither table, results nor findings"),
        ({"commit": "main"}, "commit"),
        ({"machine": ""}, "machine"),
        ({"speed": 1}, "Extra inputs are not permitted"),
        ({"table": {"columns": [RATE], "rows": [[1.25, 2]]}}, "2 cells for 1 columns"),
        ({"table": {"columns": [RATE, RATE], "rows": [[1, 2]]}}, "two columns have the same name"),
        ({"table": {"columns": [{"name": "rate"}], "rows": [[1]]}}, "states no decimals"),
    ],
)
def test_a_measurement_without_what_a_reader_needs_is_refused(load, changes, reason):
    form = load("results_file")
    form.Measurement.model_validate(measurement())
    with pytest.raises(ValueError, match=reason):
        form.Measurement.model_validate(measurement(**changes))


def test_figures_are_shown_as_they_were_noted(load):
    """Rounds as `--results FILE` writes them, numbers with their unit and all their digits."""
    results = load("results")
    written = results.Result("start", [1.0, 1.5, 1.25], 1.2, "s", "less").as_dict()
    interval = {"value": 0.9, "low": 0.85, "high": 1}
    rows = [[1.5, interval, 97.0, "none"], [1234, None, 100, None]]
    columns = [RATE, {"name": "AUC", "decimals": 3}]
    columns += [{"name": "share", "unit": "%", "decimals": 0}, {"name": "note"}]
    one = measurement(
        command="by hand: a script",
        commit_is="recorded",
        expected="More.",
        table={"columns": columns, "rows": rows},
        results=[written],
    )
    lines = load("results_page")._measurement(load("results_file").Measurement.model_validate(one))
    text = "\n".join(lines)
    assert "by hand: a script; 2 cores; 2026-11-28, noted in commit 0123456." in text
    assert "*Expected:* More." in text
    assert "| 1.50 ms | 0.900 (0.850 to 1.000) | 97% | none |" in text
    assert "| 1,234.00 ms |  | 100% |  |" in text
    assert "| start | 1.25 s | 1 s | 1.5 s | <= 1.2 s | NO |" in text
