"""Tune's schedulers as a sweep sets them up; no cluster is asked."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from ray.tune.schedulers import TrialScheduler

from leuk_ray.runs.table import RunRecord
from leuk_ray.tuning.schedulers import _into_bounds, make_scheduler
from leuk_ray.tuning.settings import load_sweep

RECORD = RunRecord("000", "finished", "lite", {}, 0, "", {}, [0.9, 0.9, 0.9], 1.0, True)


def sweep(folder: Path, **changes):
    values = {
        "recipe": "lite",
        "overrides": {"epochs": 3},
        "search": {"lr": {"log_uniform": [1e-4, 1e-2]}, "hidden": {"integer": [16, 64]}},
        "trials": 9,
        "scheduler": {"kind": "asha", "grace": 1, "reduction": 3},
    }
    (folder / "x.yaml").write_text(yaml.safe_dump(values | changes))
    return load_sweep(str(folder / "x.yaml"))


@pytest.mark.parametrize(("selection", "goes_on"), [(0.95, True), (0.5, False)])
def test_asha_compares_with_the_runs_of_an_earlier_process(tmp_path, selection, goes_on):
    told = [replace(RECORD, name=f"{n:03d}", curve=[0.8 + n / 100] * 3) for n in range(6)]
    trial = SimpleNamespace(trial_id="new")
    result = {"epoch": 1, "selection": selection}
    for records, expected in ((told, goes_on), ([], True)):
        scheduler: Any = make_scheduler(sweep(tmp_path), records)
        scheduler.on_trial_add(None, trial)
        decision = scheduler.on_trial_result(None, trial, result)
        assert (decision == TrialScheduler.CONTINUE) == expected


def test_asha_lets_a_run_that_reached_its_last_epoch_end_by_itself(tmp_path: Path):
    told = [replace(RECORD, name=f"{n:03d}") for n in range(6)]
    scheduler: Any = make_scheduler(sweep(tmp_path), told)
    trial = SimpleNamespace(trial_id="new")
    scheduler.on_trial_add(None, trial)
    for epoch in (1, 2, 3):
        result = {"epoch": epoch, "selection": 0.95}
        assert scheduler.on_trial_result(None, trial, result) == TrialScheduler.CONTINUE


def test_what_a_population_changes_stays_in_its_range(tmp_path: Path):
    search = sweep(tmp_path).search
    changed = {"training.lr": 0.012, "model.hidden": 13.6, "other": 1}
    config = _into_bounds({"spec": {"run": "000", "overrides": changed}}, search)["spec"]
    assert config["run"] == "000"
    assert config["overrides"] == {"training.lr": 0.01, "model.hidden": 16, "other": 1}
    assert isinstance(config["overrides"]["model.hidden"], int)
    assert make_scheduler(sweep(tmp_path, scheduler="none")) is None
