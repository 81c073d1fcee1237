"""Feeds deliver the pixels of planned batches to a worker's device. They decide nothing.

`StreamFeed` runs a Ray Data pipeline over the plan itself: its blocks are stretches of
batches in plan order, its tasks read their rows from the small Parquet row groups.
`ResidentFeed` keeps what another feed delivered and serves later epochs from device memory.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np
import psutil
import pyarrow as pa
import torch
from torch import Tensor

from leuk_ray.datasets.prepared import PixelReader, as_pixels

_ROWS_PER_BLOCK = 128


class Feed(Protocol):
    """Delivers batches of rows."""

    def deliver(self, batches: Sequence[np.ndarray]) -> Iterator[Tensor]:
        """For each array of rows, in order: (n, 3, size, size) uint8 on the worker's device."""
        ...


class ReaderFeed:
    """Reads in the calling thread. The reference that other feeds are tested against."""

    def __init__(self, reader: PixelReader, device: torch.device) -> None:
        self.reader = reader
        self.device = device

    def deliver(self, batches: Sequence[np.ndarray]) -> Iterator[Tensor]:
        """See Feed."""
        for rows in batches:
            yield _to_device(self.reader.read(rows), self.device)


class StreamFeed:
    """Streams batches through Ray Data; the driver's cluster reads ahead of the worker."""

    def __init__(self, reader: PixelReader, device: torch.device) -> None:
        self.reader = reader
        self.device = device

    def deliver(self, batches: Sequence[np.ndarray]) -> Iterator[Tensor]:
        """See Feed."""
        import ray.data

        stretches = _stretches(batches)
        blocks = [pa.table({"row": np.concatenate(stretch)}) for stretch in stretches]
        dataset = ray.data.from_arrow(blocks).map_batches(
            _read_block,  # pyright: ignore[reportArgumentType]
            batch_size=None,
            batch_format="pyarrow",
            fn_kwargs={"reader": self.reader},
        )
        dataset.context.execution_options.preserve_order = True
        dataset.context.enable_progress_bars = False
        stream = dataset.iter_batches(batch_size=None, batch_format="pyarrow")
        for stretch, block in zip(stretches, stream, strict=True):
            pixels = as_pixels(block["image"], self.reader.size)
            assert len(pixels) == sum(map(len, stretch)), "the stream lost rows"
            start = 0
            for rows in stretch:
                yield _to_device(pixels[start : start + len(rows)], self.device)
                start += len(rows)


class ResidentFeed:
    """Streams each row once, then serves it from one tensor on the device.

    The first delivery comes from `source` and is kept. Before the second, the rows that this
    worker has not seen are fetched too, since another epoch deals other rows to it.
    """

    def __init__(self, source: Feed, rows: np.ndarray, size: int, device: torch.device) -> None:
        self.source = source
        self.rows = np.unique(rows)
        self.held = np.zeros(len(self.rows), bool)
        self.pixels = torch.empty((len(self.rows), size, size, 3), dtype=torch.uint8, device=device)
        self.started = False

    def deliver(self, batches: Sequence[np.ndarray]) -> Iterator[Tensor]:
        """See Feed."""
        if not self.started:
            self.started = True
            yield from self._keep(batches)
            return
        missing = self.rows[~self.held]
        for _ in self._keep(np.array_split(missing, -(-len(missing) // _ROWS_PER_BLOCK) or 1)):
            pass
        for rows in batches:
            slots = torch.from_numpy(self._slots(rows)).to(self.pixels.device)
            yield self.pixels.index_select(0, slots).permute(0, 3, 1, 2)

    def _keep(self, batches: Sequence[np.ndarray]) -> Iterator[Tensor]:
        batches = [rows for rows in batches if len(rows)]
        if not batches:
            return
        for rows, images in zip(batches, self.source.deliver(batches), strict=True):
            slots = self._slots(rows)
            self.pixels[torch.from_numpy(slots).to(self.pixels.device)] = images.permute(0, 2, 3, 1)
            self.held[slots] = True
            yield images

    def _slots(self, rows: np.ndarray) -> np.ndarray:
        return np.searchsorted(self.rows, rows)


def fits_on_device(num_rows: int, size: int, device: torch.device, workers_on_node: int) -> bool:
    """Whether every worker of a node can hold `num_rows` images in half of its free memory."""
    needed = num_rows * size * size * 3
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return needed < free // 2
    return needed * workers_on_node < psutil.virtual_memory().available // 2


def _stretches(batches: Sequence[np.ndarray]) -> list[list[np.ndarray]]:
    """Consecutive batches, about _ROWS_PER_BLOCK rows together."""
    stretches: list[list[np.ndarray]] = []
    size = _ROWS_PER_BLOCK
    for rows in batches:
        if size >= _ROWS_PER_BLOCK:
            stretches.append([])
            size = 0
        stretches[-1].append(rows)
        size += len(rows)
    return stretches


def _read_block(block: pa.Table, reader: PixelReader) -> pa.Table:
    pixels = reader.read(block["row"].to_numpy())
    width = reader.size * reader.size * 3
    buffers = [None, pa.py_buffer(pixels)]
    array = pa.Array.from_buffers(pa.binary(width), len(pixels), buffers)
    return pa.table({"image": array})


def _to_device(pixels: np.ndarray, device: torch.device) -> Tensor:
    """(N, H, W, 3) uint8 -> (N, 3, H, W) uint8, channels last in memory."""
    # Arrow buffers are read-only; every consumer converts to float before it writes.
    if not pixels.flags.writeable:
        pixels = np.array(pixels) if device.type == "cpu" else pixels
    return torch.from_numpy(pixels).to(device, non_blocking=True).permute(0, 3, 1, 2)
