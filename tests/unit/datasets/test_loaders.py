"""Feeds without Ray: the same pixels in the same order, each row as often as asked."""

from __future__ import annotations

import tempfile
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from leuk_ray.augment.settings import AugmentSettings
from leuk_ray.datasets import host_cache, loaders
from leuk_ray.datasets.host_cache import HostCache, open_host_cache
from leuk_ray.datasets.loaders import (
    ReaderLoader,
    ResidentLoader,
    StreamLoader,
    device_shortage,
    make_loaders,
)
from leuk_ray.datasets.plan import Window, plan_epoch, uid_keys
from leuk_ray.datasets.prepared import PreparedDataset
from leuk_ray.datasets.staging import PinnedStaging
from leuk_ray.recipes.recipe import load_recipe
from leuk_ray.recipes.training import TrainingSettings
from leuk_ray.training.cells import EpochPlanner, TrainingCells
from leuk_ray.training.learner import Learner
from leuk_ray.training.loop import train_epoch
from leuk_ray.training.state import TrainingState
from leuk_ray.utils.errors import UserError

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def own_temporary_folder(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))


class Counting(nn.Module):
    """A network that counts the cells it is shown, by the row in their first pixel."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Linear(3, 2)
        self.seen: Counter = Counter()

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        self.seen.update(images[:, 0, 0, 0].int().tolist())
        features = images.float().mean(dim=(2, 3)) / 255
        return self.backbone(features), features


def some_feeds(dataset: PreparedDataset) -> dict[str, loaders.Loader]:
    reader = ReaderLoader(dataset.reader(), CPU)
    return {
        "none": reader,
        "host": ReaderLoader(open_host_cache(dataset), CPU),
        "device": ResidentLoader(reader, np.arange(len(dataset.reader())), 16, CPU),
    }


def test_feeds_deliver_the_same_pixels_in_the_same_order(numbered_dataset):
    generator = np.random.default_rng(0)
    batches = [generator.integers(0, 123, n) for n in (16, 16, 1, 0, 15, 123, 7)]
    everything = numbered_dataset.reader().read(np.arange(123))
    for name, loader in some_feeds(numbered_dataset).items():
        for epoch in range(3):
            for rows, images in zip(batches, list(loader.iter_batches(batches)), strict=True):
                assert images.shape == (len(rows), 3, 16, 16)
                assert images.dtype == torch.uint8
                assert images.permute(0, 2, 3, 1).is_contiguous(), "channels last"
                expected = everything[rows].transpose(0, 3, 1, 2)
                assert np.array_equal(images.numpy(), expected), (name, epoch)


@pytest.mark.parametrize("window", ["all", 64])
def test_the_network_sees_each_cell_as_often_as_the_plan_says(numbered_dataset, window):
    rows = np.flatnonzero(np.arange(123) % 5)
    labels = (np.arange(123) < 40).astype(np.int64)
    uids = [f"c{row}" for row in range(123)]
    cells = TrainingCells(uids, labels, uid_keys(uids), rows, rows[:0])
    settings = TrainingSettings(batch_size=16, balance="equal", window=window)
    for name, loader in some_feeds(numbered_dataset).items():
        for epoch in range(3):
            model = Counting()
            train_epoch(
                Learner(model, settings), TrainingState(epoch=epoch),
                EpochPlanner(cells, settings, 0), loader,
                AugmentSettings(policy="none"), lambda update: None,
            )  # fmt: skip
            plan = plan_epoch(
                rows, labels[rows], seed=0, epoch=epoch, balance="equal", batch_size=16,
                window=window,
            )  # fmt: skip
            assert model.seen == Counter(plan.rows.tolist()), name
            assert len(model.seen) == len(rows)


def made(dataset: PreparedDataset, cache, window: Window = "all", world_size=1, on_node=1):
    return make_loaders(
        dataset, np.arange(100), np.arange(100, 123), CPU, cache=cache, window=window,
        world_size=world_size, workers_on_node=on_node,
    )  # fmt: skip


def memory_of(num_bytes: int, monkeypatch) -> None:
    free = SimpleNamespace(available=num_bytes)
    monkeypatch.setattr(loaders.psutil, "virtual_memory", lambda: free)


def test_auto_takes_device_then_host_then_none(numbered_dataset, monkeypatch):
    needed = 123 * 16 * 16 * 3
    memory_of(2 * needed + 2, monkeypatch)
    assert all(isinstance(loader, ResidentLoader) for loader in made(numbered_dataset, "auto"))
    memory_of(2 * needed, monkeypatch)
    training, validation = made(numbered_dataset, "auto")
    assert training is validation
    assert isinstance(training, ReaderLoader)
    assert isinstance(training.reader, HostCache)
    no_disk = SimpleNamespace(free=needed)
    monkeypatch.setattr(host_cache.shutil, "disk_usage", lambda path: no_disk)
    for file in Path(tempfile.gettempdir()).glob("leuk_ray-*/*.arrow"):
        file.unlink()
    assert all(isinstance(loader, StreamLoader) for loader in made(numbered_dataset, "auto"))
    with pytest.raises(UserError, match="of disk"):
        made(numbered_dataset, "host")


def test_a_device_too_small_is_refused_with_the_arithmetic(numbered_dataset, monkeypatch):
    memory_of(10_000_000_000, monkeypatch)
    assert device_shortage(10_661, 300, CPU, 1) == ""
    assert device_shortage(10_661, 300, CPU, 2) == (
        "training.cache device: 10,661 cells of 300 px for each of 2 workers take 5,757 MB, half "
        "of the free memory of this node is 5,000 MB; set training.cache to host or auto"
    )
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (10_000_000_000, 0))
    assert device_shortage(10_661, 300, torch.device("cuda"), 1) == ""
    assert "each of 2 workers" in device_shortage(10_661, 300, torch.device("cuda"), 2)
    memory_of(300_000, monkeypatch)
    made(numbered_dataset, "device")
    with pytest.raises(UserError, match="for each of 4 workers take 0 MB"):
        made(numbered_dataset, "device", on_node=4)


def test_the_stream_reads_as_far_ahead_as_the_window(numbered_dataset):
    cases: list[tuple[Window, int, int]] = [
        ("all", 2, 512),
        (64, 1, 512),
        (4096, 1, 4096),
        (2700, 3, 900),
    ]
    for window, world_size, ahead in cases:
        loader, _ = made(numbered_dataset, "none", window, world_size)
        assert isinstance(loader, StreamLoader)
        assert loader.ahead == ahead


def test_a_prefetch_window_reads_each_row_group_about_once():
    """What the window is for: a window of 640 uses is 80 row groups, not hundreds."""
    rows = np.arange(6400)
    arguments = {"seed": 0, "epoch": 0, "balance": "none", "batch_size": 16}
    read = {}
    for window in ("all", 640):
        plan = plan_epoch(rows, rows % 2, **arguments, window=window)
        batches = [plan.rows[plan.share(batch, 0, 1)] for batch in range(len(plan))]
        stretches = loaders._windows(batches, 640)
        assert np.array_equal(np.concatenate([b for s in stretches for b in s]), plan.rows)
        read[window] = sum(
            len(np.unique(part // 8))
            for window_batches in stretches
            for part in loaders._parts(window_batches, 512)
        )
    assert read[640] < 1.1 * 6400 / 8
    assert read["all"] > 4 * read[640]


def test_a_task_reads_less_than_ray_data_cuts():
    for size, rows in ((32, 512), (160, 512), (300, 372), (600, 93), (10_000, 1)):
        assert loaders._rows_per_task(size) == rows
        assert rows == 1 or rows * size * size * 3 < 128 * 2**20


def test_settings_are_checked_where_they_are_read():
    for override in ("cache=ram", "window=63", "window=half"):
        with pytest.raises(UserError, match=r"training\.(cache|window)"):
            load_recipe("lite", [override])
    assert load_recipe("lite", ["window=4096", "cache=host"]).training.window == 4096


@pytest.mark.gpu
def test_batches_reach_the_gpu_from_pinned_memory_unmixed():
    """Many batches of uneven size, kept until the end, beside steps that keep the GPU busy."""
    device = torch.device("cuda")
    staging, generator = PinnedStaging(device), np.random.default_rng(0)
    busy = torch.randn(2048, 2048, device=device)
    expected, sent = [], []
    for number in range(200):
        pixels = generator.integers(0, 256, (number % 17, 64, 64, 3), np.uint8)
        images = staging.empty(len(pixels), 64)
        assert torch.from_numpy(images).is_pinned() or not len(pixels)
        images[:] = pixels
        sent.append(staging.send(images))
        expected.append(pixels)
        busy = (busy @ busy).clamp_(-1, 1)
    for images, pixels in zip(sent, expected, strict=True):
        assert images.device.type == "cuda"
        assert np.array_equal(images.permute(0, 2, 3, 1).cpu().numpy(), pixels)
