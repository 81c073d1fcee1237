"""Which failures are tried again, and what is remembered of them."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import pytest
import ray.train
from ray.core.generated import common_pb2
from ray.exceptions import ActorDiedError
from ray.train import PreemptionError, PreemptionInfo
from ray.train.v2._internal.exceptions import WorkerHealthCheckFailedError
from ray.train.v2.api.exceptions import WorkerGroupError

from leuk_ray.runs.target import interruption_notes
from leuk_ray.training import attempts
from leuk_ray.training.attempts import _lost_workers, attempt_starts, interruptions
from leuk_ray.training.trainer import _cause
from leuk_ray.utils.errors import UserError

PROTOCOL: Any = common_pb2  # made from a .proto: no annotations
GONE = WorkerHealthCheckFailedError("health check failed", ActorDiedError())
RESET = RuntimeError("Connection reset by peer")
TAKEN = ActorDiedError(
    PROTOCOL.ActorDiedErrorContext(
        actor_id=bytes(16),
        node_death_info=PROTOCOL.NodeDeathInfo(
            reason=PROTOCOL.NodeDeathInfo.AUTOSCALER_DRAIN_PREEMPTED
        ),
    )
)
NOTICE = PreemptionError(PreemptionInfo(deadline_ms=1, preempted_node_to_ranks={"node": [2, 1]}))


@pytest.mark.parametrize(("failures", "lost", "preempted"), [
    ({0: RESET, 1: GONE}, [1], False),
    ({0: GONE, 2: ActorDiedError()}, [0, 2], False),
    ({0: RESET, 1: TAKEN}, [1], True),
    ({0: UserError("lr"), 1: UserError("lr")}, [], False),
    ({0: RESET}, [], False),
])  # fmt: skip
def test_only_a_worker_that_is_gone_counts_as_lost(
    failures: dict, lost: list[int], preempted: bool
):
    assert _lost_workers(WorkerGroupError("failed", failures)) == (lost, preempted)


class Trainer:
    """Stands where Ray Train would, to fail in the ways that a test on one machine cannot."""

    failures: list[dict | PreemptionError]
    sizes: list[int]
    fits = 0

    def __init__(self, worker, **_):
        self.run = worker()

    def fit(self):
        Trainer.fits += 1
        if self.sizes:  # else it ends before the workers have started
            attempt_starts(self.run, self.sizes.pop(0), epochs_done=Trainer.fits - 1)
        if self.failures:
            failure = self.failures.pop(0)
            if isinstance(failure, dict):
                raise WorkerGroupError("failed", failure)
            raise failure
        return type("Result", (), {"return_value": "done"})


@pytest.fixture
def run(tmp_path: Path, monkeypatch) -> Path:
    monkeypatch.setattr(attempts, "TorchTrainer", Trainer)
    monkeypatch.setattr(Trainer, "fits", 0)
    monkeypatch.setattr(Trainer, "sizes", [3, 2, 2, 3], raising=False)
    return tmp_path


def fit(run: Path):
    return attempts.fit(lambda: run, run, None, None)  # pyright: ignore


def test_a_lost_worker_is_recorded_and_the_run_goes_on(run: Path, monkeypatch):
    monkeypatch.setattr(Trainer, "failures", [{0: RESET, 1: GONE}, {0: GONE}], raising=False)
    assert fit(run) == "done"
    first, second = interruptions(run)
    assert first.pop("time")
    assert first == {
        "lost_workers": [1], "preempted": False, "epochs_done": 1,
        "workers_before": 3, "workers_after": 2,
    }  # fmt: skip
    assert (second["lost_workers"], second["epochs_done"]) == ([0], 2)
    notes = interruption_notes(interruptions(run))
    assert "worker 1 was lost. Went on after epoch 1 with 2 workers instead of 3." in notes[0]
    assert "worker 0 was lost. Went on after epoch 2 with 2 workers." in notes[1]


def test_a_preempted_node_is_listed_and_never_ends_the_run(run: Path, monkeypatch):
    monkeypatch.setattr(Trainer, "failures", [*[NOTICE, {0: TAKEN}] * 4, {0: GONE}], raising=False)
    assert fit(run) == "done"
    first, second, third = interruptions(run)
    assert [item["preempted"] for item in (first, second, third)] == [True, True, True]
    assert [item["lost_workers"] for item in (first, second, third)] == [[1, 2], [0], [1, 2]]
    notes = interruption_notes([first])
    assert "worker 1, 2 was lost, its node preempted. Went on after epoch 1" in notes[0]


def test_a_run_that_is_resumed_or_resized_says_so(run: Path):
    for workers, epochs_done in ((2, 0), (2, 3), (4, 5)):
        attempt_starts(run, workers, epochs_done)
    resumed, resized = interruption_notes(interruptions(run))
    assert resumed.endswith(": started anew. Went on after epoch 3 with 2 workers.")
    assert resized.endswith(
        ": another number of workers. Went on after epoch 5 with 4 workers instead of 2."
    )


def test_workers_lost_before_they_start_change_no_earlier_attempt(run: Path, monkeypatch):
    monkeypatch.setattr(Trainer, "sizes", [2])
    monkeypatch.setattr(Trainer, "failures", [{1: GONE}, {0: GONE}], raising=False)
    assert fit(run) == "done"
    (attempt,) = attempts.attempts(run)
    assert attempt["lost_workers"] == [1]


def test_a_mistake_is_not_tried_again(run: Path, monkeypatch):
    monkeypatch.setattr(Trainer, "failures", [{0: UserError("lr")}], raising=False)
    with pytest.raises(ray.train.TrainingFailedError):
        fit(run)
    assert Trainer.fits == 1
    assert interruptions(run) == []


def test_workers_lost_again_and_again_end_the_run(run: Path, monkeypatch):
    monkeypatch.setattr(Trainer, "failures", [{0: GONE}] * 9, raising=False)
    with pytest.raises(ray.train.TrainingFailedError):
        fit(run)
    assert Trainer.fits == 4
    assert [bool(line["lost_workers"]) for line in attempts.attempts(run)] == [True] * 4


def test_storage_that_fails_is_named_in_one_line(tmp_path: Path):
    full = OSError(errno.ENOSPC, "No space left on device", "epoch_0002/state.pt")
    wrapped = RuntimeError("upload failed")
    wrapped.__cause__ = full
    for failure in (full, wrapped):
        cause = _cause(WorkerGroupError("failed", {0: RESET, 1: failure}), tmp_path)
        assert isinstance(cause, UserError)
        assert str(cause).startswith(f"{tmp_path}: ")
        assert "No space left on device: epoch_0002/state.pt" in str(cause)
        assert "--resume" in str(cause)
        assert "\n" not in str(cause)
