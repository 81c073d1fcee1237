"""Storage that becomes read-only, full or slow while a run trains."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray
from fsspec.implementations.local import LocalFileSystem
from pyarrow.fs import FSSpecHandler, PyFileSystem

from leuk_ray.cluster import ray_cluster
from leuk_ray.datasets.prepared import PreparedDataset
from leuk_ray.training import trainer
from leuk_ray.training.attempts import interruptions
from leuk_ray.utils.errors import UserError
from tests.support.hurting import history, recipe, results

SECONDS = 2.0


@pytest.fixture(scope="module")
def dataset(undisturbed) -> Iterator[PreparedDataset]:
    ray_cluster.connect(num_workers=2)
    yield undisturbed.dataset
    ray.shutdown()


class Failing(LocalFileSystem):
    """From one file of the second epoch's checkpoint on, takes nothing more.

    code: errno of what it fails with. first: end of that file's name.
    """

    cachable = False

    def __init__(self, code: int, first: str) -> None:
        super().__init__()
        self.code = code
        self.first = first

    def _open(self, path, mode="rb", block_size=None, **options):
        if "w" in mode and "epoch_0002" in str(path) and str(path).endswith(self.first):
            raise OSError(self.code, os.strerror(self.code), str(path))
        return super()._open(path, mode=mode, block_size=block_size, **options)


class Slow(LocalFileSystem):
    """Every file of a checkpoint takes its time, more than an epoch does."""

    cachable = False

    def _open(self, path, mode="rb", block_size=None, **options):
        if "w" in mode and "epoch_" in str(path):
            time.sleep(SECONDS)
        return super()._open(path, mode=mode, block_size=block_size, **options)


def on(files: LocalFileSystem, out: Path, patch: pytest.MonkeyPatch) -> None:
    """Checkpoints of the run at `out` lie there."""
    path = trainer.filesystem(out)[1]
    through = PyFileSystem(FSSpecHandler(files))
    patch.setattr(trainer, "filesystem", lambda location: (through, path))


@pytest.mark.timeout(400)
@pytest.mark.parametrize(
    ("code", "first"), [(errno.EROFS, ""), (errno.ENOSPC, "state.pt")], ids=["read-only", "full"]
)
def test_storage_that_fails_ends_the_run_with_the_last_checkpoint_whole(
    code: int, first: str, undisturbed, dataset, tmp_path: Path
):
    out = tmp_path / "run"
    with pytest.MonkeyPatch.context() as patch:
        on(Failing(code, first), out, patch)
        with pytest.raises(
            UserError, match=rf"{os.strerror(code)}.*mend the storage, then"
        ) as told:
            trainer.run_training(recipe(), dataset, out, workers=2)
    assert "\n" not in str(told.value)
    good = {p.name: p.read_bytes() for p in (out / "checkpoints" / "epoch_0001").iterdir()}
    assert set(good) == {"model.safetensors", "state.pt"}
    assert not (out / "bundle").exists()
    trainer.run_training(recipe(), dataset, out, workers=2, resume=True)
    assert results(out) == undisturbed.results
    (interruption,) = interruptions(out)
    assert interruption["epochs_done"] == 1, "it went on from the good one"
    best = sorted(history(out), key=lambda epoch: epoch["selection"])[-recipe().training.keep :]
    kept = {f"epoch_{epoch['epoch']:04d}" for epoch in [*best, history(out)[-1]]}
    assert {p.name for p in (out / "checkpoints").iterdir() if p.is_dir()} == kept


@pytest.mark.timeout(400)
def test_slow_storage_is_waited_for(undisturbed, dataset, tmp_path: Path, monkeypatch):
    out = tmp_path / "run"
    on(Slow(), out, monkeypatch)
    started = time.monotonic()
    trainer.run_training(recipe(), dataset, out, workers=2)
    assert time.monotonic() - started > len(history(out)) * SECONDS
    assert results(out) == undisturbed.results
    assert interruptions(out) == []
