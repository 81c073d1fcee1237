"""The record of a run: what it was started with, and what happened so far.

config.yaml  split.parquet  environment.json  metrics.jsonl  tensorboard/
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import ray.train
from ray.train import Checkpoint
from ray.train.v2.api.report_config import CheckpointUploadMode

from leuk_ray.config import Recipe, load_recipe
from leuk_ray.datasets.prepared import PreparedDataset
from leuk_ray.datasets.splits import write_split
from leuk_ray.environment import environment
from leuk_ray.errors import UserError
from leuk_ray.storage import write_json
from leuk_ray.training.state import TrainingState
from leuk_ray.training.tracking import MlflowRun

_PROGRESS_SECONDS = 0.5


def start_record(recipe: Recipe, dataset: PreparedDataset, out: Path, split: pa.Table) -> None:
    """Write what a run is started with; config.yaml comes last and makes the folder a run."""
    try:
        out.mkdir(parents=True)
    except OSError as error:
        raise UserError(f"{out}: cannot be made ({error.strerror}); name another place") from error
    write_split(split, out / "split.parquet")
    write_json(out / "environment.json", environment() | {"dataset": dataset.facts["fingerprint"]})
    (out / "config.yaml").write_text(recipe.to_yaml())


def check_same_run(recipe: Recipe, dataset: PreparedDataset, out: Path) -> None:
    """Raise a UserError unless a run was started with this recipe and dataset."""
    config = out / "config.yaml"
    if load_recipe(str(config)) != recipe:
        raise UserError(f"{out}: was started with another recipe; resume with {config}")
    started_on = json.loads((out / "environment.json").read_text())["dataset"]
    if started_on != dataset.facts["fingerprint"]:
        raise UserError(f"{out}: was started on another dataset; give the same --data")


class Reporter:
    """Reports to Ray Train; rank 0, which has a board, also keeps the record.

    A checkpoint is written in the worker and uploaded while the next epoch trains.
    """

    def __init__(
        self, run: Path, state: TrainingState, board: Any | None, mlflow: MlflowRun | None
    ) -> None:
        self.run = run
        self.state = state
        self.board = board
        self.mlflow = mlflow
        self.events = None
        self.told = 0.0
        if board is not None:
            from torch.utils.tensorboard import SummaryWriter

            self.events = SummaryWriter(str(run / "tensorboard"), purge_step=state.epoch + 1)

    def __call__(self, metrics: dict, save: Callable[[Path], None]) -> None:
        """An epoch is done. All workers must call."""
        if self.board is None or self.events is None:
            ray.train.report({})
            return
        lines = [json.dumps(line) + "\n" for line in self.state.history]
        partial = self.run / "metrics.jsonl.partial"
        partial.write_text("".join(lines))
        partial.replace(self.run / "metrics.jsonl")
        for name, value in metrics.items():
            if isinstance(value, int | float) and name != "epoch":
                self.events.add_scalar(name, value, metrics["epoch"])
        self.events.flush()
        if self.mlflow is not None:
            self.mlflow.log(metrics)
        self.board.put.remote(metrics | {"batches": 1, "of": 1})
        directory = tempfile.mkdtemp(prefix="leuk-ray-checkpoint-")  # Ray removes it when uploaded
        save(Path(directory))
        ray.train.report(
            metrics,
            checkpoint=Checkpoint.from_directory(directory),
            checkpoint_dir_name=f"epoch_{metrics['epoch']:04d}",
            checkpoint_upload_mode=CheckpointUploadMode.ASYNC,
        )

    def progress(self, update: dict) -> None:
        """A step is done."""
        if self.board is not None and time.monotonic() - self.told > _PROGRESS_SECONDS:
            self.told = time.monotonic()
            self.board.put.remote(update)
