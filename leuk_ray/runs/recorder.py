"""Makes the record of every run that ends, whatever ended it."""

from __future__ import annotations

import hashlib
import math
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
from ray import tune
from typing_extensions import override

from leuk_ray.bundles.manifest import read_manifest
from leuk_ray.runs.spec import RunSpec, split_key
from leuk_ray.runs.table import RunRecord, Status, read_history, read_steps
from leuk_ray.runs.trial import TrialContext


class Recorder(tune.Callback):
    """Hears of trials from Tune's driver loop and hands on a record when one ends."""

    def __init__(
        self,
        shared: TrialContext,
        specs: Mapping[str, RunSpec],
        on_record: Callable[[RunRecord], None],
    ) -> None:
        """Args: what runs share; name -> run, filled as runs are proposed; a listener."""
        self.shared = shared
        self.specs = specs
        self.on_record = on_record
        self.started: dict[str, float] = {}
        self.splits = {key: split_fingerprint(split) for key, split in shared.splits.items()}

    def __getstate__(self) -> dict[str, Any]:
        """Nothing: Tune pickles its callbacks to restore from, and we never do."""
        return {}

    @override
    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Start the clock; a trial that was paused goes on with its own."""
        self.started.setdefault(trial.trial_id, time.monotonic())

    @override
    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Record a trial that ended by itself or was stopped."""
        result = trial.last_result or {}
        if "failure" in result:
            self._record(trial, "failed", result["failure"])
        elif result.get("ended"):
            self._record(trial, "finished", result["ended"])
        else:
            reason = f"stopped after epoch {result.get('epoch', 0)}: others did better"
            self._record(trial, "stopped", reason)

    @override
    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Record a trial whose process died."""
        lines = str(trial.get_error() or "no word of why").strip().splitlines()
        self._record(trial, "failed", f"the process died: {lines[-1]}")

    def _record(self, trial: Any, status: Status, reason: str) -> None:
        given = self.specs[trial.config["spec"]["run"]]
        overrides = trial.config["spec"]["overrides"]  # a population changes them
        recipe = RunSpec(given.name, given.recipe, overrides).resolved
        path = self.shared.root / given.name
        history = [line for line in read_history(path) if math.isfinite(line["selection"])]
        started = self.started.get(trial.trial_id, time.monotonic())
        self.on_record(
            RunRecord(
                name=given.name,
                status=status,
                recipe=recipe.name,
                overrides=overrides,
                seed=recipe.seed,
                reason=reason,
                metrics=_best(path, history),
                curve=[line["selection"] for line in history],
                seconds=round(time.monotonic() - started, 1),
                bundle=(path / "bundle" / "bundle.json").exists(),
                lineage={
                    "dataset": self.shared.dataset.identity.fingerprint,
                    "split": self.splits[split_key(recipe)],
                    "steps": read_steps(path),
                },
            )
        )


def _best(path: Path, history: list[dict[str, Any]]) -> dict[str, Any]:
    """Metrics of the epoch in the bundle; without one, of the best epoch.

    Empty where the history does not tell of that epoch, as after a death between two files.
    """
    if not (path / "bundle" / "bundle.json").exists():
        return max(history, key=lambda line: line["selection"], default={})
    kept = read_manifest(path / "bundle").metrics
    selected = [line["selection"] for line in history if line["epoch"] == kept["epoch"]]
    if not selected:
        return {}
    rate = statistics.median(line["images_per_second"] for line in history)
    return {"selection": selected[0]} | kept | {"images_per_second": rate}


def split_fingerprint(split: pa.Table) -> str:
    """sha256 over who has which role: the same for the same split."""
    uids, roles = split["uid"].to_pylist(), split["role"].to_pylist()
    lines = sorted(f"{uid} {role}" for uid, role in zip(uids, roles, strict=True))
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()
