"""Fitting until it is done: a run whose workers are lost goes on from its last checkpoint.

attempts.jsonl in the run's folder has a line for every start of its workers: `started` (UTC),
`workers`, `epochs_done` (of the checkpoint it starts from); where workers were lost, also `ended`,
`lost_workers` (ranks) and `preempted` (whether their node was taken away with notice). An attempt
begins anew after a loss, after `--resume`, and where the number of workers is elastic, when nodes
have come.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from typing import Any

import ray.train
from ray.exceptions import RayActorError
from ray.train import FailureConfig, PreemptionError, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer

from leuk_ray.io.locations import Location, join
from leuk_ray.io.storage import exists, read_bytes, write_bytes
from leuk_ray.utils.interrupts import in_thread
from leuk_ray.utils.progress import note
from leuk_ray.utils.provenance import now

# Ray Train tries nothing again by itself: `fit` does, and writes down why.
FAILURES = FailureConfig(max_failures=0, max_preemption_failures=0)
_MAX_LOSSES = 3
_FILE = "attempts.jsonl"


def fit(worker: Callable[[], Any], out: Location, scaling: ScalingConfig, run: RunConfig) -> Any:
    """Return what rank 0 returns, after as many attempts as lost workers make necessary.

    Ray Train's own `max_failures` would also try a user's mistake again. After the notice that a
    node will be preempted, it trains on until the node's deadline, and saves what epochs end by
    then; that is no loss and counts as none.

    Args:
        worker: called on every worker.
        out: the run's folder.
        scaling: how many workers.
        run: where checkpoints go; with `FAILURES`.

    Raises:
        TrainingFailedError: an exception in the code, or workers were lost too often.
    """
    losses = 0
    while True:
        trainer = TorchTrainer(worker, scaling_config=scaling, run_config=run)
        try:
            return in_thread(trainer.fit).return_value  # its own SIGINT handler exits with 0
        except ray.train.TrainingFailedError as error:
            lost, preempted = _lost_workers(error)
            losses += not preempted
            if lost:
                _attempt_lost(out, lost, preempted)
            if not lost or losses > _MAX_LOSSES:
                raise
            names = ", ".join(map(str, lost))
            note(f"train: worker {names} was lost; going on from the last checkpoint")


def attempt_starts(run: Location, workers: int, epochs_done: int) -> None:
    """Record a start of the workers; rank 0 calls it when it knows where it stands."""
    line = {"started": now(), "workers": workers, "epochs_done": epochs_done}
    _write(run, [*attempts(run), line])


def attempts(run: Location) -> list[dict[str, Any]]:
    """Return all attempts of a run, see the module; none where Ray Train never started it."""
    file = join(run, _FILE)
    lines = read_bytes(file).decode().splitlines() if exists(file) else []
    return [json.loads(line) for line in lines]


def interruptions(run: Location) -> list[dict[str, Any]]:
    """Say what lay between attempts.

    Returns:
        For each: `time` (UTC), `lost_workers` (ranks, none where the run was resumed or resized),
        `preempted`, `epochs_done`, `workers_before` and `workers_after`.
    """
    return [
        {
            "time": before.get("ended", after["started"]),
            "lost_workers": before.get("lost_workers", []),
            "preempted": before.get("preempted", False),
            "epochs_done": after["epochs_done"],
            "workers_before": before["workers"],
            "workers_after": after["workers"],
        }
        for before, after in itertools.pairwise(attempts(run))
    ]


def _attempt_lost(run: Location, lost: list[int], preempted: bool) -> None:
    lines = attempts(run)
    if lines and "ended" not in lines[-1]:  # else they were lost before they started
        lines[-1] |= {"ended": now(), "lost_workers": lost, "preempted": preempted}
        _write(run, lines)


def _write(run: Location, lines: list[dict[str, Any]]) -> None:
    text = "".join(json.dumps(line) + "\n" for line in lines)
    write_bytes(join(run, _FILE), text.encode())


def _lost_workers(error: ray.train.TrainingFailedError) -> tuple[list[int], bool]:
    """Ranks of the workers whose process is gone, and whether a preempted node took them along.

    Others may have failed with them, waiting for an answer.
    """
    if isinstance(error, PreemptionError):
        return error.preemption_info.preempted_ranks, True
    failures = getattr(error, "worker_failures", {})
    causes = {
        rank: getattr(failure, "health_check_failure", failure)
        for rank, failure in failures.items()
    }
    gone = {rank: cause for rank, cause in causes.items() if isinstance(cause, RayActorError)}
    return sorted(gone), any(cause.preempted for cause in gone.values())
