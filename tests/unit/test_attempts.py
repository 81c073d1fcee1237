"""Which failures are tried again, and what is remembered of them."""

from __future__ import annotations

from pathlib import Path

import pytest
import ray.train
from ray.exceptions import ActorDiedError
from ray.train.v2._internal.exceptions import WorkerHealthCheckFailedError
from ray.train.v2.api.exceptions import WorkerGroupError

from leuk_ray.errors import UserError
from leuk_ray.judged import interruption_notes
from leuk_ray.training import attempts
from leuk_ray.training.attempts import _lost_workers, interruptions

GONE = WorkerHealthCheckFailedError("health check failed", ActorDiedError())
RESET = RuntimeError("Connection reset by peer")


@pytest.mark.parametrize(("failures", "lost"), [
    ({0: RESET, 1: GONE}, [1]),
    ({0: GONE, 2: ActorDiedError()}, [0, 2]),
    ({0: UserError("lr"), 1: UserError("lr")}, []),
    ({0: RESET}, []),
])  # fmt: skip
def test_only_a_worker_that_is_gone_counts_as_lost(failures: dict, lost: list[int]):
    assert _lost_workers(WorkerGroupError("failed", failures)) == lost


class Trainer:
    """Stands where Ray Train would, to fail in the ways that a test on one machine cannot."""

    failures: list[dict]
    fits = 0

    def __init__(self, *_, **__):
        pass

    def fit(self):
        Trainer.fits += 1
        if self.failures:
            raise WorkerGroupError("failed", self.failures.pop(0))
        return type("Result", (), {"return_value": "done"})


@pytest.fixture
def run(tmp_path: Path, monkeypatch) -> Path:
    monkeypatch.setattr(attempts, "TorchTrainer", Trainer)
    monkeypatch.setattr(Trainer, "fits", 0)
    (tmp_path / "metrics.jsonl").write_text("{}\n{}\n")
    return tmp_path


def fit(run: Path):
    return attempts.fit(lambda config: None, {"run": run}, None, None)  # pyright: ignore


def test_a_lost_worker_is_recorded_and_the_run_goes_on(run: Path, monkeypatch):
    monkeypatch.setattr(Trainer, "failures", [{0: RESET, 1: GONE}, {0: GONE}], raising=False)
    assert fit(run) == "done"
    assert [item["lost_workers"] for item in interruptions(run)] == [[1], [0]]
    assert {item["epochs_done"] for item in interruptions(run)} == {2}
    notes = interruption_notes(interruptions(run))
    assert "after 2 epochs: worker 1 was lost. The run went on from its last" in notes[0]


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
    assert len(interruptions(run)) == 3
