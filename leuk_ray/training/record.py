"""The record of a run: what it was started with, and what happened so far.

config.yaml  split.parquet  environment.json  metrics.jsonl  tensorboard/
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import ray.train
from ray.train import Checkpoint
from ray.train.v2.api.report_config import CheckpointUploadMode

from leuk_ray.bundles.bundle import lineage_of, open_bundle
from leuk_ray.bundles.lineage import CellLineage
from leuk_ray.bundles.manifest import MANIFEST, ModelManifest
from leuk_ray.datasets.identity import DatasetIdentity
from leuk_ray.datasets.layouts.all_idb import Shows, shown_in
from leuk_ray.datasets.pairing import check_same_dataset
from leuk_ray.datasets.prepared import PreparedDataset
from leuk_ray.datasets.splits import write_split
from leuk_ray.io.locations import Location, join
from leuk_ray.io.storage import (
    directory_by_rename,
    fetched,
    read_json,
    upload,
    write_bytes,
    write_json,
)
from leuk_ray.recipes.recipe import Recipe, load_recipe, with_values
from leuk_ray.training.monitoring import Monitor
from leuk_ray.training.state import TrainingState
from leuk_ray.training.tracking import MlflowRun
from leuk_ray.utils import scratch
from leuk_ray.utils.errors import ConfigError
from leuk_ray.utils.provenance import environment

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

_PROGRESS_SECONDS = 0.5


def start_record(recipe: Recipe, dataset: PreparedDataset, out: Location, split: pa.Table) -> None:
    """Write what a run is started with, in one step; config.yaml makes the folder a run."""
    with directory_by_rename(out, new="run (add --resume to go on with it)") as partial:
        write_split(split, partial / "split.parquet")
        write_environment(dataset, partial)
        (partial / "config.yaml").write_text(recipe.to_yaml())


def write_environment(dataset: PreparedDataset, out: Location) -> None:
    """Write what a run or a sweep is made with, and on which data, as environment.json."""
    data = {"dataset": dataset.identity.model_dump(mode="json"), "data": str(dataset.location)}
    write_json(join(out, "environment.json"), environment() | data)


def check_started_on(dataset: PreparedDataset, out: Location) -> None:
    """Raise a UserError unless a run, sweep or experiment was started on this dataset."""
    recorded = read_json(join(out, "environment.json"))["dataset"]
    trained_on = [] if isinstance(recorded, str) else [DatasetIdentity(**recorded)]
    advice = "give the --data that it was started with, or another --out"
    check_same_dataset(trained_on, dataset, out, advice, join(out, "split.parquet"))


def check_same_run(recipe: Recipe, dataset: PreparedDataset, out: Location) -> None:
    """Raise a UserError unless a run was started with this recipe and dataset.

    Pixels may be kept elsewhere than before: `training.cache` changes no result.
    """
    config = join(out, "config.yaml")
    with fetched(config) as path:
        started_with = load_recipe(str(path))
    if with_values(started_with, {"training.cache": recipe.training.cache}) != recipe:
        raise ConfigError(f"{out}: was started with another recipe; resume with {config}")
    check_started_on(dataset, out)


def bundle_manifest(
    recipe: Recipe, dataset: PreparedDataset, metrics: Mapping[str, Any], stopped: str
) -> ModelManifest:
    """Say what a run's bundle says of itself; `stopped` as in TrainingState.

    Args:
        recipe, dataset: what was trained, and on what.
        metrics: of the epoch whose weights it holds; how that epoch did on validation is kept.
        stopped: why the training ended.
    """
    kept = {key: metrics[key] for key in metrics if key.startswith("validation")}
    return ModelManifest(
        model=recipe.model,
        storage=dataset.storage,
        classes=dataset.classes.names,
        positive=dataset.classes.positive,
        ordered=dataset.classes.ordered,
        shows=_shows(recipe, dataset),
        synthetic=dataset.synthetic,
        protocol=recipe.split.protocol,
        dataset_fingerprint=dataset.identity.fingerprint,
        datasets=(dataset.identity,),
        recipe=recipe.name,
        seed=recipe.seed,
        metrics={
            "epoch": metrics["epoch"],
            "selection": metrics["selection"],
            "stopped": stopped,
            **kept,
        },
    )


def bundle_lineage(recipe: Recipe, cells: pa.Table, split: pa.Table) -> CellLineage | None:
    """Say which cells make a run's bundle: its own, and those of the bundle its weights came from.

    None where that bundle was written before it was recorded.

    Args:
        recipe: of the run.
        cells: `PreparedDataset.cells`.
        split: of the run.
    """
    own = CellLineage.of_split(split, cells)
    parent = Path(recipe.model.weights)
    if not (parent / MANIFEST).is_file():
        return own
    inherited = lineage_of(open_bundle(parent))
    return None if inherited is None else CellLineage.union((own, inherited))


def _shows(recipe: Recipe, dataset: PreparedDataset) -> Shows:
    source = recipe.split.source
    return shown_in(dataset.cells["source"].unique().to_pylist() if source is None else [source])


class Reporter:
    """Reports to Ray Train; rank 0, which has a board, also keeps the record.

    A checkpoint is written in the worker and uploaded while the next epoch trains. Events are
    written beside the run, or in the worker and uploaded after each epoch.
    """

    def __init__(
        self,
        run: Location,
        state: TrainingState,
        board: Any | None,
        mlflow: MlflowRun | None,
        monitor: Monitor,
    ) -> None:
        self.run = run
        self.monitor = monitor
        self.state = state
        self.board = board
        self.mlflow = mlflow
        self.events: SummaryWriter | None = None
        self.steps: SummaryWriter | None = None
        self.shown_at = 0.0
        if board is not None:
            if isinstance(run, Path):
                self.folder = run / "tensorboard"
            else:
                self.folder = scratch.make("events")
            self.events = _writer(self.folder, state.epoch + 1)

    def __call__(self, metrics: dict[str, Any], save: Callable[[Path], None]) -> None:
        """An epoch is done. All workers must call."""
        slowest = self.monitor.epoch_done(metrics["epoch"], metrics["train_loss"])
        if self.board is None or self.events is None:
            ray.train.report({})
            return
        lines = [json.dumps(line) + "\n" for line in self.state.history]
        write_bytes(join(self.run, "metrics.jsonl"), "".join(lines).encode())
        for name, value in metrics.items():
            if isinstance(value, int | float) and name != "epoch":
                self.events.add_scalar(name, value, metrics["epoch"])
        self.events.flush()
        if not isinstance(self.run, Path):
            upload(self.folder, join(self.run, "tensorboard"))
        if self.mlflow is not None:
            self.mlflow.log(metrics, metrics["epoch"])
        lagging = str(slowest) if slowest.lags else None
        self.board.put.remote(metrics | {"batches": 1, "of": 1, "lagging": lagging})
        folder = scratch.make("checkpoint")  # Ray removes it when it is uploaded
        save(folder)
        ray.train.report(
            metrics,
            checkpoint=Checkpoint.from_directory(str(folder)),
            checkpoint_dir_name=f"epoch_{metrics['epoch']:04d}",
            checkpoint_upload_mode=CheckpointUploadMode.ASYNC,
        )

    def progress(self, update: dict[str, Any]) -> None:
        """A step is done."""
        step = update.pop("step", None)
        if step is not None and self.events is not None:
            number = step.pop("number")
            if self.steps is None:  # whose numbers are not the epochs': each purges its own
                self.steps = _writer(self.folder / "steps", number)
            for name, value in step.items():
                self.steps.add_scalar(f"step/{name}", value, number)
            if self.mlflow is not None:
                self.mlflow.log({f"step/{name}": value for name, value in step.items()}, number)
        if self.board is not None and time.monotonic() - self.shown_at > _PROGRESS_SECONDS:
            self.shown_at = time.monotonic()
            self.board.put.remote(update)


def _writer(folder: Path, first: int) -> SummaryWriter:
    """Events of a folder; what an interrupted attempt wrote from `first` on is hidden."""
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(str(folder), purge_step=first)
