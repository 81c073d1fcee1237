"""The folder of a run that trains in one process: its record, and the best bundle so far."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
from torch import nn

from leuk_ray.bundles.bundle import load_bundle, write_bundle
from leuk_ray.bundles.manifest import read_manifest
from leuk_ray.datasets.prepared import PreparedDataset
from leuk_ray.io.storage import read_table, write_bytes
from leuk_ray.recipes.recipe import Recipe
from leuk_ray.training.record import bundle_lineage, bundle_manifest, start_record


@dataclass(frozen=True)
class RunFolder:
    """config.yaml  split.parquet  environment.json  metrics.jsonl  steps.jsonl  bundle/

    The bundle holds the best epoch so far, so that a run stopped at any time has one.
    """

    path: Path
    recipe: Recipe
    dataset: PreparedDataset

    def start(self, split: pa.Table) -> None:
        """Make the folder; what an unfinished run left there is removed."""
        shutil.rmtree(self.path, ignore_errors=True)
        start_record(self.recipe, self.dataset, self.path, split)

    def write_history(self, history: list[dict[str, Any]]) -> None:
        """Replace metrics.jsonl, one line an epoch."""
        lines = "".join(json.dumps(line) + "\n" for line in history)
        write_bytes(self.path / "metrics.jsonl", lines.encode())

    @property
    def best(self) -> dict[str, Any]:
        """Metrics of the epoch in the bundle; empty where there is none."""
        path = self.path / "bundle"
        return read_manifest(path).metrics if (path / "bundle.json").exists() else {}

    def keep(self, metrics: dict[str, Any], stopped: str, model: nn.Module) -> None:
        """Write the bundle of an epoch that is the best so far; `stopped` as in TrainingState."""
        manifest = bundle_manifest(self.recipe, self.dataset, metrics, stopped)
        split = read_table(self.path / "split.parquet")
        lineage = bundle_lineage(self.recipe, self.dataset.cells, split)
        write_bundle(self.path / "bundle", manifest, model, lineage)

    def end(self, stopped: str) -> nn.Module:
        """Write into the bundle why the run ended, and return its network."""
        bundle = load_bundle(self.path / "bundle")
        self.keep(bundle.manifest.metrics, stopped, bundle.model)
        return bundle.model
