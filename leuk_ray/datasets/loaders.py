"""Feeds deliver the pixels of planned batches to a worker's device. They decide nothing.

`StreamLoader` runs a Ray Data pipeline over the plan itself, `ReaderLoader` reads in the calling
thread (from the host cache, which is fast; from the dataset, the reference that the others are
tested against), `ResidentLoader` keeps what another loader delivered in device memory.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np
import psutil
import pyarrow as pa
import torch
from torch import Tensor

from leuk_ray.datasets.columns import as_pixels, gather
from leuk_ray.datasets.host_cache import open_host_cache
from leuk_ray.datasets.plan import Cache, Window
from leuk_ray.datasets.prepared import PixelReader, PreparedDataset, read_block
from leuk_ray.datasets.staging import staging_for
from leuk_ray.utils.errors import ConfigError, StorageError

# Whatever a task reads, it costs Ray Data some milliseconds; blocks above 128 MiB it would cut.
_TASK_BYTES, _MOST_ROWS_PER_TASK = 96 * 2**20, 512
_ROWS_PER_COPY = 128


class Loader(Protocol):
    """Delivers batches of rows."""

    def iter_batches(self, batches: Sequence[np.ndarray]) -> Iterator[Tensor]:
        """For each array of rows, in order: (n, 3, size, size) uint8 on the worker's device."""
        ...


class Reader(Protocol):
    """Reads pixels of any rows in any order: a PixelReader or a HostCache."""

    size: int

    def read(self, rows: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
        """(len(rows), size, size, 3) uint8, `out` if given."""
        ...


class ReaderLoader:
    """Reads in the calling thread."""

    def __init__(self, reader: Reader, device: torch.device) -> None:
        self.reader = reader
        self.staging = staging_for(device)

    def iter_batches(self, batches: Sequence[np.ndarray]) -> Iterator[Tensor]:
        """See Loader."""
        for rows in batches:
            images = self.staging.empty(len(rows), self.reader.size)
            yield self.staging.send(self.reader.read(rows, images))


class StreamLoader:
    """Streams batches through Ray Data; the driver's cluster reads ahead of the worker.

    Batches go in prefetch windows of about `ahead` samples, of one task's rows at least. Every
    row of a prefetch window is read once, in the order of storage; this process holds one
    window of pixels. With a prefetch window as long as the plan's window, rows that lie
    together are read together.
    """

    def __init__(self, reader: PixelReader, device: torch.device, ahead: int = 1) -> None:
        self.reader = reader
        self.rows_per_task = _rows_per_task(reader.size)
        self.ahead = max(ahead, self.rows_per_task)
        self.staging = staging_for(device)

    def iter_batches(self, batches: Sequence[np.ndarray]) -> Iterator[Tensor]:
        """See Loader."""
        windows = _windows(batches, self.ahead)
        parts = [_parts(batches_of_window, self.rows_per_task) for batches_of_window in windows]
        stream = self._stream([part for of_window in parts for part in of_window])
        for batches_of_window, of_window in zip(windows, parts, strict=True):
            rows = np.concatenate([np.empty(0, np.int64), *of_window])
            pixels = np.empty((len(rows), self.reader.size, self.reader.size, 3), np.uint8)
            start = 0
            for part in of_window:
                pixels[start : start + len(part)] = next(stream)
                start += len(part)
            for wanted in batches_of_window:
                images = self.staging.empty(len(wanted), self.reader.size)
                gather(pixels, np.searchsorted(rows, wanted), images)
                yield self.staging.send(images)
        assert next(stream, None) is None  # which also ends the pipeline

    def _stream(self, parts: list[np.ndarray]) -> Iterator[np.ndarray]:
        """Return the pixels of each part, in order: one block, one task a part."""
        import ray.data

        if not parts:
            return
        blocks = [pa.table({"row": part}) for part in parts]
        dataset = ray.data.from_arrow(blocks).map_batches(
            read_block,  # pyright: ignore[reportArgumentType]
            batch_size=None,
            batch_format="pyarrow",
            fn_kwargs={"reader": self.reader},
        )
        dataset.context.execution_options.preserve_order = True
        dataset.context.enable_progress_bars = False
        stream = dataset.iter_batches(batch_size=None, batch_format="pyarrow")
        for part, block in zip(parts, stream, strict=True):
            table = pa.table(block)
            assert np.array_equal(table["row"].to_numpy(), part), "the stream lost its order"
            yield as_pixels(table["image"], self.reader.size)


class ResidentLoader:
    """Streams each row once, then serves it from one tensor on the device.

    The first delivery comes from `source` and is kept. At its end it also brings the rows that
    were not asked for, since another epoch deals other rows to this worker: in the same stream,
    which has read ahead by then.
    """

    def __init__(self, source: Loader, rows: np.ndarray, size: int, device: torch.device) -> None:
        self.source = source
        self.rows = np.unique(rows)
        self.pixels = _empty((len(self.rows), size, size, 3), device)
        self.complete = False

    def iter_batches(self, batches: Sequence[np.ndarray]) -> Iterator[Tensor]:
        """See Loader."""
        if not self.complete:
            yield from self._keep(batches)
            return
        for slots in self._slots(batches):
            yield self.pixels.index_select(0, slots).permute(0, 3, 1, 2)

    def _keep(self, batches: Sequence[np.ndarray]) -> Iterator[Tensor]:
        asked = np.concatenate([np.empty(0, np.int64), *batches])
        everything = [*batches, *_parts([np.setdiff1d(self.rows, asked)], _ROWS_PER_COPY)]
        delivered = zip(self._slots(everything), self.source.iter_batches(everything), strict=True)
        for number, (slots, images) in enumerate(delivered):
            self.pixels[slots] = images.permute(0, 2, 3, 1)
            if number < len(batches):
                yield images
        self.complete = True

    def _slots(self, batches: Sequence[np.ndarray]) -> Sequence[Tensor]:
        """Where each batch's rows lie in `pixels`: one copy to the device an epoch, not a step."""
        if not batches:
            return []
        slots = torch.from_numpy(np.searchsorted(self.rows, np.concatenate(batches)))
        return slots.to(self.pixels.device).split([len(rows) for rows in batches])


def _empty(shape: tuple[int, ...], device: torch.device) -> Tensor:
    """Uint8 memory; on the CPU NumPy's, which asks for huge pages, so gathers miss fewer."""
    if device.type == "cpu":
        return torch.from_numpy(np.empty(shape, np.uint8))
    return torch.empty(shape, dtype=torch.uint8, device=device)


def make_loaders(
    dataset: PreparedDataset,
    train: np.ndarray,
    validation: np.ndarray,
    device: torch.device,
    *,
    cache: Cache,
    window: Window,
    world_size: int,
    workers_on_node: int,
    stream: bool = True,
) -> tuple[Loader, Loader]:
    """Make a worker's loaders, for training and for validation. They differ in speed alone.

    Args:
        dataset: where the pixels are.
        train: training rows of all workers, since every epoch deals anew.
        validation: this worker's validation rows.
        device: where batches are wanted.
        cache: `device` keeps the rows in device memory after the first epoch, `host` maps the
            node's file (host_cache), `none` streams every epoch; `auto` takes the first of
            them that this node has room for.
        window: of the epoch plan; the stream reads as far ahead.
        world_size, workers_on_node: workers of the run, and those that share this node.
        stream: read through Ray Data; else this process reads for itself.

    Raises:
        UserError: no room for the cache that is asked for, with the arithmetic.
    """
    reader, size = dataset.reader(), dataset.storage.size
    ahead = 1 if window == "all" else window // world_size
    source = StreamLoader(reader, device, ahead) if stream else ReaderLoader(reader, device)
    if cache in ("auto", "device"):
        sharing = 1 if device.type == "cuda" else workers_on_node  # a GPU each, but one memory
        shortage = device_shortage(len(train) + len(validation), size, device, sharing)
        if not shortage:
            return (
                ResidentLoader(source, train, size, device),
                ResidentLoader(source, validation, size, device),
            )
        if cache == "device":
            raise ConfigError(shortage)
    if cache in ("auto", "host"):
        try:
            host = ReaderLoader(open_host_cache(dataset), device)
        except StorageError:
            if cache == "host":
                raise
        else:
            return host, host
    return source, source


def device_shortage(num_rows: int, size: int, device: torch.device, sharing: int) -> str:
    """Say why half of the free memory cannot hold `num_rows` images a worker; "" if it can.

    Args:
        num_rows: of each worker.
        size: of the images.
        device: whose memory; of the CPU, this node's.
        sharing: workers that keep their rows in that memory.
    """
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
    else:
        free = psutil.virtual_memory().available
    needed = num_rows * size * size * 3 * sharing
    if needed < free // 2:
        return ""
    workers = f" for each of {sharing} workers" if sharing > 1 else ""
    where = "this node" if device.type == "cpu" else str(device)
    return (
        f"training.cache device: {num_rows:,} cells of {size} px{workers} take "
        f"{needed / 1e6:,.0f} MB, half of the free memory of {where} is {free / 2e6:,.0f} MB; "
        "set training.cache to host or auto"
    )


def _windows(batches: Sequence[np.ndarray], ahead: int) -> list[list[np.ndarray]]:
    """Group consecutive batches into prefetch windows of about `ahead` samples."""
    windows: list[list[np.ndarray]] = []
    used, last = 0, -1
    for rows in batches:
        if used // ahead != last:
            last = used // ahead
            windows.append([])
        windows[-1].append(rows)
        used += len(rows)
    return windows


def _parts(batches_of_window: list[np.ndarray], most: int) -> list[np.ndarray]:
    """Return the rows of a prefetch window, each once and ascending, in parts of at most `most`."""
    rows = np.unique(np.concatenate(batches_of_window))
    return [rows[start : start + most] for start in range(0, len(rows), most)]


def _rows_per_task(size: int) -> int:
    return max(1, min(_TASK_BYTES // (size * size * 3), _MOST_ROWS_PER_TASK))
