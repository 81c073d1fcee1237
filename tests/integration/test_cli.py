"""Commands as a user types them, each in a process of its own, without Ray where they need none."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from leuk_ray.datasets.prepared import PreparedDataset


def leuk_ray(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "leuk_ray", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def test_split_and_audit(dataset: PreparedDataset, tmp_path: Path):
    out = tmp_path / "split.parquet"
    done = leuk_ray("split", dataset.location, "--out", out, "--json")
    assert done.returncode == 0, done.stderr
    values = json.loads(done.stdout)
    assert sum(role["cells"] for role in values["roles"].values()) == 121
    assert not values["leaky"]
    assert values["crossings"]["subject"] == {"units": 0, "test_cells": 0}
    leaky = tmp_path / "leaky.parquet"
    done = leuk_ray("split", dataset.location, "--protocol", "image-random", "--out", leaky)
    assert "LEAKY" in done.stdout
    assert "test cells whose subject trains too" in done.stdout
    done = leuk_ray("audit", dataset.location, "--json")
    assert json.loads(done.stdout)["identical_images"] == 0
    assert (Path(dataset.location) / "audit.json").exists()
    sheet = (Path(dataset.location) / "DATASHEET.md").read_text()
    assert "SYNTHETIC cells" in sheet
    assert "Files: 123 = 121 rows + 0 rejected + 2 skipped" in sheet
    done = leuk_ray("audit", dataset.location, "--out", tmp_path / "audit", "--no-images")
    assert done.returncode == 0, done.stderr
    assert "Audit of dataset" in (tmp_path / "audit" / "audit.html").read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "lite", "--data", "nowhere", "--out", "x"], "no prepared dataset"),
        (["train", "light", "--data", "d", "--out", "x"], "did you mean lite?"),
        (["train", "lite", "lrr=1", "--data", "d", "--out", "x"], "did you mean"),
        (["train", "lite", "lr=-1", "--data", "d", "--out", "x"], "greater than 0"),
        (["train", "lite", "lr", "--data", "d", "--out", "x"], "write key=value"),
        (["train", "lite", "seed=1.5", "--data", "d", "--out", "x"], "seed"),
        (["train", "lite", "--out", "x"], "--data"),
        (["prepare", "nowhere", "d", "--layout", "c-nmc"], "no such folder"),
        (["prepare", ".", "d", "--layout", "cnmc"], "did you mean c-nmc?"),
        (["prepare", ".", "d", "--layout", "csv"], "no such file"),
        (["prepare", ".", "d", "--layout", "csv", "--columns", "x"], "write OURS=ITS"),
        (["synth", "x", "--layout", "all-idb", "--cells", "90", "--subjects", "3"], "fields"),
        (["crop", "nowhere.jpg", "--centroids", "a.xyc", "--out", "x"], "nowhere.jpg"),
        (["predict", "nowhere", "pyproject.toml"], "neither a bundle nor a run"),
        (["synth", "x", "--cells", "1", "--subjects", "5"], "cells"),
        (["evaluate", "nowhere", "--data", "d", "--out", "x"], "neither a bundle nor a run"),
        (["compare", "nowhere", "there", "--data", "d"], "no prepared dataset"),
        (["frobnicate"], "frobnicate"),
    ],
)
def test_a_users_mistake_is_one_line_and_exit_code_2(arguments: list[str], message: str):
    done = leuk_ray(*arguments)
    assert done.returncode == 2
    assert message in done.stderr
    assert done.stderr.count("\n") == 1, done.stderr
    assert done.stdout == ""
    assert not Path("x").exists()
