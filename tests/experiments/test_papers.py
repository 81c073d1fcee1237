"""Both papers at scale tiny, as users run them: whole, killed midway, with a failed row."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

WORD = "WIRING ONLY, NO SCIENTIFIC MEANING"
MEASURED = ("images_per_second", "seconds")


def leuk_ray(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "leuk_ray", *map(str, arguments)]


def run(*arguments: object, timeout: int = 1200) -> dict:
    done = subprocess.run(
        leuk_ray(*arguments, "--json"), capture_output=True, text=True, timeout=timeout, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def datasets(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("synthetic")
    run("synth", folder / "cells", "--cells", 96, "--subjects", 24)
    run("prepare", folder / "cells", folder / "cnmc", "--layout", "c-nmc", "--size", 64)
    made = ("--cells", 72, "--subjects", 36)
    run("synth", folder / "fields", "--layout", "all-idb", *made)
    layout = ("--layout", "all-idb", "--crop", "full", "--size", 64)
    run("prepare", folder / "fields", folder / "idb", *layout)
    return {"saeed2022": folder / "cnmc", "bukhari2022": folder / "idb"}


def lines(out: Path) -> list[dict]:
    table = out / "runs.jsonl"
    return [json.loads(line) for line in table.read_text().splitlines()] if table.exists() else []


def without_times(value):
    """A report without what a clock measured."""
    if isinstance(value, dict):
        return {k: without_times(v) for k, v in value.items() if k not in MEASURED}
    return [without_times(v) for v in value] if isinstance(value, list) else value


@pytest.mark.timeout(1300)
@pytest.mark.parametrize("name", ["bukhari2022", "saeed2022"])
def test_a_whole_paper_has_every_row_and_no_gap(name: str, datasets, tmp_path: Path):
    started = time.monotonic()
    data = datasets[name]
    report = run("experiment", name, "--data", data, "--out", tmp_path / "out", "--scale", "tiny")
    assert time.monotonic() - started < 1200
    assert WORD in report["scale"]["note"]
    assert all(line["status"] == "finished" for line in report["runs"])
    for table in report["tables"]:
        keys = {column["key"] for column in table["columns"]}
        for row in table["rows"]:
            assert row["ours"] or row["reason"], row["name"]
            for line in row["ours"]:
                assert line["cells"].keys() == keys, (row["name"], line)
                assert all(cell["text"] for cell in line["cells"].values())
    assert report["leaks"]
    wanted = {"bars", "activations", "samples", "augmentation", "gradcam"}
    assert wanted <= report["figures"].keys()
    page = (tmp_path / "out" / "report" / "report.html").read_text()
    assert WORD in page
    assert "LEAKY" in page
    assert "http" not in page.split("</style>")[1].lower()


@pytest.mark.timeout(1200)
def test_a_killed_experiment_goes_on_and_ends_as_the_unbroken_one(datasets, tmp_path: Path):
    asked = ("experiment", "bukhari2022", "--data", datasets["bukhari2022"], "--scale", "tiny",
             "--models", "cnn,cnn-plain", "--no-images")  # fmt: skip
    unbroken = run(*asked, "--out", tmp_path / "unbroken")
    out = tmp_path / "broken"
    command = leuk_ray(*asked, "--out", out)
    driver = subprocess.Popen(command, start_new_session=True, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 400
    while len(lines(out)) < 4 and time.monotonic() < deadline:
        time.sleep(0.1)
    os.killpg(driver.pid, signal.SIGKILL)  # the driver and the Ray that it started
    driver.wait()
    before = lines(out)
    assert 4 <= len(before) < 12, "killed in the middle"
    resumed = run(*asked, "--out", out, "--resume")
    after = lines(out)
    assert after[: len(before)] == before
    names = [line["name"] for line in after]
    assert len(names) == len(set(names)) == 12, "no finished run is repeated"
    assert without_times(resumed) == without_times(unbroken)
    assert "samples" not in resumed["figures"]
    assert "--no-images" in (out / "report" / "report.html").read_text()


@pytest.mark.timeout(600)
def test_a_row_that_cannot_train_is_told_and_loses_no_other(datasets, tmp_path: Path):
    out = tmp_path / "out"
    asked = ("experiment", "bukhari2022", "--data", datasets["bukhari2022"], "--scale", "tiny",
             "--models", "cnn", "--out", out)  # fmt: skip
    first = run(*asked)
    assert {line["status"] for line in first["runs"]} == {"finished"}
    # One run's bundle is gone and its record says that it failed: it alone is tried again.
    (line, *others) = lines(out)
    text = [line | {"status": "failed", "reason": "the process died"}, *others]
    (out / "runs.jsonl").write_text("".join(json.dumps(one) + "\n" for one in text))
    again = run(*asked, "--resume")
    assert [one["name"] for one in lines(out)[len(text) :]] == [line["name"]]
    assert without_times(again["tables"]) == without_times(first["tables"])


@pytest.mark.timeout(600)
def test_an_experiment_whose_runs_all_fail_still_says_why(datasets, tmp_path: Path):
    report = run("experiment", "saeed2022", "--data", datasets["saeed2022"], "--scale", "tiny",
                 "--models", "efficientnet-b0", "--out", tmp_path / "out", "lr=1e30")  # fmt: skip
    assert {line["status"] for line in report["runs"]} == {"failed"}
    row = next(row for row in report["tables"][1]["rows"] if row["name"] == "EfficientNet-B0")
    assert all("is not a number" in line["reason"] for line in row["ours"])
