"""A peer of benchmarks/training.py: a bare DistributedDataParallel loop, started by torchrun.

    torchrun --nproc-per-node 2 benchmarks/ddp_peer.py memory|files RECIPE DATASET CELLS EPOCHS

`memory` indexes one uint8 tensor of all cells; `files` decodes the BMP files in CELLS with Pillow
in one DataLoader worker a process, which reads ahead. Neither augments, validates, reports nor
saves anything. Rank 0 prints the images/s of each epoch, all processes together, as a JSON line.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, Dataset, DistributedSampler

from leuk_ray.datasets import images
from leuk_ray.datasets.prepared import PreparedDataset
from leuk_ray.models.zoo import build, class_logits
from leuk_ray.recipes.recipe import load_recipe
from leuk_ray.training.learner import freeze_norm, make_optimizer


class Files(Dataset):
    """BMP files, decoded and cropped as `prepare` does."""

    def __init__(self, dataset: PreparedDataset, cells: Path) -> None:
        files = {path.stem: path for path in cells.rglob("*.bmp")}
        self.paths = [files[uid] for uid in dataset.cells["uid"].to_pylist()]
        self.labels = dataset.cells["label"].to_pylist()
        self.storage = dataset.storage

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, row: int) -> tuple[Tensor, float]:
        pixels = images.read(self.paths[row].read_bytes(), self.storage)
        return torch.from_numpy(pixels.copy()).permute(2, 0, 1), float(self.labels[row])


def from_memory(dataset: PreparedDataset, batch: int) -> Iterator[Iterable[tuple[Tensor, Tensor]]]:
    """An iterable of batches for each epoch, for ever."""
    rows = np.arange(len(dataset.cells))
    pixels = torch.from_numpy(dataset.reader().read(rows)).permute(0, 3, 1, 2)
    labels = torch.tensor(dataset.cells["label"].to_pylist(), dtype=torch.float32)
    for epoch in range(2**30):
        order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(epoch))
        mine = order[dist.get_rank() :: dist.get_world_size()].split(batch)
        yield ((pixels[part], labels[part]) for part in mine)


def from_files(
    dataset: PreparedDataset, cells: Path, batch: int
) -> Iterator[Iterable[tuple[Tensor, Tensor]]]:
    """An iterable of batches for each epoch, for ever."""
    files = Files(dataset, cells)
    sampler = DistributedSampler(files)
    loader = DataLoader(
        files, batch, sampler=sampler, num_workers=1, prefetch_factor=4, persistent_workers=True
    )
    for epoch in range(2**30):
        sampler.set_epoch(epoch)
        yield ((pixels, labels.float()) for pixels, labels in loader)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source", choices=("memory", "files"))
    parser.add_argument("recipe")
    parser.add_argument("dataset")
    parser.add_argument("cells", type=Path)
    parser.add_argument("epochs", type=int)
    options = parser.parse_args()
    dist.init_process_group("gloo")
    torch.set_num_threads(1)
    recipe = load_recipe(options.recipe)
    dataset = PreparedDataset.open(options.dataset)
    torch.manual_seed(recipe.seed)
    core = build(recipe.model, load_weights=True)  # channels_last
    optimizer = make_optimizer(core, recipe.training)
    model = DistributedDataParallel(core, forward_sync_buffers=False, gradient_as_bucket_view=True)
    model.train()
    if recipe.training.frozen_norm == "backbone":
        freeze_norm(core.backbone)
    batch = recipe.training.batch_size // dist.get_world_size()
    epochs = (
        from_memory(dataset, batch)
        if options.source == "memory"
        else from_files(dataset, options.cells, batch)
    )
    for _ in range(options.epochs):
        dist.barrier()
        started, seen = time.perf_counter(), 0
        for pixels, labels in next(epochs):
            pixels = pixels.contiguous(memory_format=torch.channels_last)
            loss = F.binary_cross_entropy_with_logits(class_logits(model(pixels)[0])[:, 0], labels)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            seen += len(labels)
        dist.barrier()
        rate = seen * dist.get_world_size() / (time.perf_counter() - started)
        if dist.get_rank() == 0:
            print(json.dumps(rate), flush=True)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
