"""Storage that fails while a checkpoint is written: a clear end, and the last good one stays."""

from __future__ import annotations

import errno
import json
from pathlib import Path

import pytest
from fsspec.implementations.local import LocalFileSystem
from pyarrow.fs import FSSpecHandler, PyFileSystem

from leuk_ray.config import load_recipe
from leuk_ray.errors import UserError
from leuk_ray.training import trainer


class FullDisk(LocalFileSystem):
    """The disk is full when the second epoch's weights come."""

    cachable = False

    def _open(self, path, mode="rb", **options):
        if "w" in mode and "epoch_0002" in str(path) and str(path).endswith("state.pt"):
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        return super()._open(path, mode=mode, **options)


def test_a_full_disk_at_a_checkpoint_keeps_the_last_good_one(dataset, tmp_path: Path, monkeypatch):
    settings = ["input_size=64", "epochs=4", "frozen_norm=all", "lr=1e-3", "keep=2"]
    recipe = load_recipe("lite", settings)
    out = tmp_path / "run"
    healthy = trainer.filesystem
    full = PyFileSystem(FSSpecHandler(FullDisk()))
    monkeypatch.setattr(trainer, "filesystem", lambda location: (full, healthy(location)[1]))
    with pytest.raises(UserError, match=r"No space left.*--resume") as caught:
        trainer.run_training(recipe, dataset, out, workers=2)
    assert "\n" not in str(caught.value)
    assert not (out / "bundle").exists()
    good = {p.name: p.read_bytes() for p in (out / "checkpoints" / "epoch_0001").iterdir()}
    assert set(good) == {"model.safetensors", "state.pt"}
    told = (out / "metrics.jsonl").read_text().splitlines()

    monkeypatch.setattr(trainer, "filesystem", healthy)
    trainer.run_training(recipe, dataset, out, workers=2, resume=True)
    lines = (out / "metrics.jsonl").read_text().splitlines()
    history = [json.loads(line) for line in lines]
    assert [epoch["epoch"] for epoch in history] == [1, 2, 3, 4]
    assert lines[0] == told[0], "the resumed run went on from the first epoch's checkpoint"
    assert (out / "bundle" / "bundle.json").exists()
    best = sorted(history, key=lambda epoch: epoch["selection"])[-2:]
    kept = {f"epoch_{epoch['epoch']:04d}" for epoch in [*best, history[-1]]}
    assert {p.name for p in (out / "checkpoints").iterdir() if p.is_dir()} == kept
