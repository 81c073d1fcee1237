"""The demo as a user runs it, and its bundle on 4,000 fresh cells of 200 fresh subjects."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

BEST_AUC = 0.90


def leuk_ray(*arguments: object, timeout: int) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "leuk_ray", *map(str, arguments), "--json"]
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=True)


@pytest.mark.timeout(1200)
def test_the_demos_bundle_comes_close_to_the_best_there_is(tmp_path: Path, capsys):
    started = time.monotonic()
    done = leuk_ray("demo", "--out", tmp_path / "demo", timeout=600)
    seconds = time.monotonic() - started
    result = json.loads(done.stdout)
    assert result["synthetic"]
    assert result["best_auc"] == BEST_AUC
    noise = [line for line in done.stderr.replace("\r", "\n").split("\n") if line.strip()]
    assert all(
        line.startswith(("ray:", "synth:", "prepare:", "train:", "report:")) for line in noise
    ), noise
    fresh, dataset = tmp_path / "fresh", tmp_path / "dataset"
    leuk_ray("synth", fresh, "--cells", 4000, "--subjects", 200, "--seed", 1, timeout=300)
    leuk_ray("prepare", fresh, dataset, "--layout", "c-nmc", "--size", 160, timeout=300)
    done = leuk_ray(
        "evaluate", result["paths"]["bundle"], "--data", dataset, "--out", tmp_path / "report",
        "--workers", 2, timeout=600,
    )  # fmt: skip
    report = json.loads(done.stdout)
    auc = report["metrics"]["test"]["auc"]["value"]
    interval = report["intervals"]["auc"]
    with capsys.disabled():
        print(
            f"\ndemo {seconds:.0f} s; AUC {auc:.3f}, {interval['low']:.3f}-{interval['high']:.3f}"
        )
    assert report["metrics"]["test"]["cells"] == 4000
    assert auc >= BEST_AUC - 0.05
