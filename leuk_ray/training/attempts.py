"""Fitting until it is done: a run whose workers are lost goes on from its last checkpoint."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import ray.train
from ray.exceptions import RayActorError
from ray.train import RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer

from leuk_ray.locations import Location, join
from leuk_ray.progress import note
from leuk_ray.storage import exists, read_bytes, write_bytes

_MAX_INTERRUPTIONS = 3
_FILE = "interruptions.jsonl"


def fit(
    worker: Callable[[dict], Any], config: dict[str, Any], scaling: ScalingConfig, run: RunConfig
) -> Any:
    """What rank 0 returns, after as many attempts as lost workers make necessary.

    Ray Train's own `max_failures` would also try a user's mistake again. A preempted node is
    its matter: it never counts as a failure.

    Raises:
        TrainingFailedError: an exception in the code, or workers were lost too often.
    """
    attempt = 0
    while True:
        attempt += 1
        trainer = TorchTrainer(
            worker, train_loop_config=config, scaling_config=scaling, run_config=run
        )
        try:
            return trainer.fit().return_value
        except ray.train.TrainingFailedError as error:
            lost = _lost_workers(error)
            if not lost or attempt > _MAX_INTERRUPTIONS:
                raise
            _record(config["run"], lost)
            names = ", ".join(map(str, lost))
            note(f"train: worker {names} was lost; going on from the last checkpoint")


def interruptions(run: Location) -> list[dict[str, Any]]:
    """Every interruption of a run: time (UTC), lost_workers (ranks), epochs_done."""
    return [json.loads(line) for line in _lines(run, _FILE)]


def _record(run: Location, lost: list[int]) -> None:
    line = {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "lost_workers": lost,
        "epochs_done": len(_lines(run, "metrics.jsonl")),
    }
    lines = [*_lines(run, _FILE), json.dumps(line)]
    write_bytes(join(run, _FILE), "".join(f"{line}\n" for line in lines).encode())


def _lines(run: Location, name: str) -> list[str]:
    file = join(run, name)
    return read_bytes(file).decode().splitlines() if exists(file) else []


def _lost_workers(error: ray.train.TrainingFailedError) -> list[int]:
    """Ranks of the workers whose process is gone, with which others may have failed too."""
    failures = getattr(error, "worker_failures", {})
    causes = {
        rank: getattr(failure, "health_check_failure", failure)
        for rank, failure in failures.items()
    }
    return sorted(rank for rank, cause in causes.items() if isinstance(cause, RayActorError))
