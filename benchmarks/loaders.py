"""Images/s of the loaders into shuffled uint8 batches whose every byte is summed.

    python benchmarks/loaders.py [--cells 1024] [--repeats 5] [--device cuda] [--results F.json]

All contestants must deliver the same batches, image by image. On a GPU the bytes are summed there.
Against a NumPy gather from an array in memory, and a DataLoader that decodes the BMP files with
Pillow in as many workers as there are cores. Contestants take turns; a ratio compares two of one
round; the table has the median ratio and its spread. The clock starts after a quarter of the
batches, so that neither starting a pipeline counts nor what it had read by then. Cells are rendered
(SYNTHETIC), 300 px.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import ray
import torch
from results import Result, finish, ratios
from torch.utils.data import DataLoader, Dataset

from leuk_ray.cluster import ray_cluster
from leuk_ray.datasets import images
from leuk_ray.datasets.host_cache import open_host_cache
from leuk_ray.datasets.images import StorageSettings
from leuk_ray.datasets.loaders import ReaderLoader, ResidentLoader, StreamLoader
from leuk_ray.datasets.plan import Window, plan_epoch
from leuk_ray.datasets.prepare import prepare
from leuk_ray.datasets.prepared import PreparedDataset
from leuk_ray.datasets.synthetic import SyntheticSpec, write_c_nmc

BATCH_SIZE, WINDOW = 16, 512
USES = 8  # of a cell
CORES = os.cpu_count() or 1


class Files(Dataset):
    """BMP files, decoded and cropped as `prepare` does."""

    def __init__(self, paths: list[Path], storage: StorageSettings) -> None:
        self.paths, self.storage = paths, storage

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, row: int) -> torch.Tensor:
        data = self.paths[row].read_bytes()
        return torch.from_numpy(images.read(data, self.storage))


def plan(num_cells: int, uses: int, window: Window = "all") -> list[np.ndarray]:
    """Shuffled batches; every cell is used uses / num_cells times."""
    rows = np.arange(num_cells)
    batches = []
    for epoch in range(uses // num_cells):
        epoch_plan = plan_epoch(
            rows, rows % 2, seed=0, epoch=epoch, balance="none", batch_size=BATCH_SIZE,
            window=window,
        )  # fmt: skip
        batches += np.split(epoch_plan.rows, epoch_plan.bounds[1:-1])
    return batches


def consume(batches: Iterator[torch.Tensor], images: int) -> tuple[float, list[int]]:
    """Images/s after a quarter of `images`, and each image's sum of bytes, taken eight at a time.

    batches: (N, side, side, 3) uint8, contiguous.
    """
    sums, count, clocked, started = [], 0, 0, 0.0
    for pixels in batches:
        sums.append(pixels.view(len(pixels), -1).view(torch.int64).sum(1))  # stays on the device
        count += len(pixels)
        if not started and count >= images // 4:
            sums[-1].cpu()  # waits for the device
            clocked, started = count, time.perf_counter()
    assert count == images
    found = torch.cat(sums).tolist()
    return (count - clocked) / (time.perf_counter() - started), found


def of_loader(loader, batches: list[np.ndarray]) -> Iterator[torch.Tensor]:
    for delivered in loader.iter_batches(batches):
        yield delivered.permute(0, 2, 3, 1)


def contestants(
    dataset: PreparedDataset, paths: list[Path], folder: Path, device: torch.device
) -> dict[str, Callable[[], Iterator[torch.Tensor]]]:
    num_cells, size, reader = len(paths), dataset.storage.size, dataset.reader()
    batches = plan(num_cells, USES * num_cells)
    windowed = plan(num_cells, USES * num_cells, WINDOW)
    resident = reader.read(np.arange(num_cells))
    kept = ResidentLoader(ReaderLoader(reader, device), np.arange(num_cells), size, device)
    list(kept.iter_batches([np.arange(num_cells)]))
    host = ReaderLoader(open_host_cache(dataset, folder / "cache"), device)
    loader = DataLoader(
        Files(paths, dataset.storage), batch_sampler=[rows.tolist() for rows in batches],
        num_workers=CORES, prefetch_factor=4, persistent_workers=True,
        pin_memory=device.type == "cuda",
    )  # fmt: skip
    return {
        "NumPy gather": lambda: (torch.from_numpy(resident[rows]).to(device) for rows in batches),
        "device": lambda: of_loader(kept, batches),
        "host": lambda: of_loader(host, batches),
        "stream": lambda: of_loader(StreamLoader(reader, device), batches),
        f"stream, window {WINDOW}": lambda: of_loader(
            StreamLoader(reader, device, WINDOW), windowed
        ),
        "DataLoader, Pillow, BMP": lambda: (
            pixels.to(device, non_blocking=True) for pixels in loader
        ),
    }


def measure(
    dataset: PreparedDataset, paths: list[Path], folder: Path, repeats: int, device: torch.device
) -> dict[str, list[float]]:
    """Images/s of every contestant in every round."""
    racing = contestants(dataset, paths, folder, device)
    rates: dict[str, list[float]] = {name: [] for name in racing}
    for repeat in range(repeats + 1):  # the first round warms up
        delivered = {}
        for name, start in racing.items():
            rate, delivered[name] = consume(start(), USES * len(paths))
            if repeat:
                rates[name].append(rate)
        for name, sums in delivered.items():
            expected = delivered["NumPy gather"]
            if "window" in name:  # the same images, dealt in another order
                sums, expected = sorted(sums), sorted(expected)
            assert sums == expected, f"{name} delivered other images"
    return rates


def table(rates: dict[str, list[float]]) -> str:
    lines = ["| loader | of the NumPy gather | of DataLoader + Pillow |", "|---|---|---|"]
    for name, own in rates.items():
        cells = []
        for against in ("NumPy gather", "DataLoader, Pillow, BMP"):
            ratios = sorted(a / b for a, b in zip(own, rates[against], strict=True))
            cells.append(f"{np.median(ratios):.3g} ({ratios[0]:.3g} to {ratios[-1]:.3g})")
        lines.append(f"| {name} | {cells[0]} | {cells[1]} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cells", type=int, default=1024)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"))
    parser.add_argument("--results", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)  # each loader gathers in one thread, as NumPy does
    ray_cluster.connect(num_workers=1)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        write_c_nmc(folder / "cells", SyntheticSpec(cells=options.cells, subjects=40))
        prepare(folder / "cells", folder / "dataset", "c-nmc", StorageSettings(size=300))
        dataset = PreparedDataset.open(str(folder / "dataset"))
        files = {path.stem: path for path in (folder / "cells").rglob("*.bmp")}
        paths = [files[uid] for uid in dataset.cells["uid"].to_pylist()]
        rates = measure(dataset, paths, folder, options.repeats, options.device)
    ray.shutdown()
    print(table(rates))
    gather, loader, windowed = "NumPy gather", "DataLoader, Pillow, BMP", f"stream, window {WINDOW}"
    finish(
        [
            ratios(
                "loader from the device, of a NumPy gather", rates["device"], rates[gather], 0.8
            ),
            ratios("loader from the host, of a NumPy gather", rates["host"], rates[gather], 0.8),
            ratios("stream, of DataLoader + Pillow", rates["stream"], rates[loader], 2),
            ratios(f"{windowed}, of DataLoader + Pillow", rates[windowed], rates[loader], 2),
            *[Result(f"loader: {name}", own, unit="images/s") for name, own in rates.items()],
        ],
        options.results,
    )


if __name__ == "__main__":
    main()
