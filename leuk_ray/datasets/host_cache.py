"""The host cache: a dataset's stored pixels in one file a node, mapped by all its workers.

    TMPDIR/leuk_ray-USER/     /tmp where TMPDIR is not set; for the user alone
        KEY.arrow             Arrow IPC, one column `image`, one batch in row order, not compressed
        KEY.arrow.partial     while it is being written
        lock                  held by the one worker that writes

Not compressed, so that a read is a copy out of the page cache. Everything here may be deleted
at any time: whoever has a file mapped keeps it, and it is written again when it is wanted.
The place must be a disk of the node's own; locks and mappings want no network filesystem.
"""

from __future__ import annotations

import fcntl
import io
import mmap
import os
import shutil
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np
import pyarrow as pa

from leuk_ray.datasets.columns import as_pixels, gather
from leuk_ray.datasets.prepared import PixelReader, PreparedDataset
from leuk_ray.utils.errors import StorageError
from leuk_ray.utils.scratch import make_private

if TYPE_CHECKING:
    from typing_extensions import Buffer

_WRITE_BYTES = 64 * 2**20  # what the writer holds in memory
_POLL_SECONDS = 0.1
_PATIENCE_SECONDS = 600.0  # a writer that writes nothing for so long hangs


class HostCache:
    """Pixels of any rows, in any order, from the mapped file. Reads like a PixelReader."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        """Map a file that this process holds a shared lock on, and keep both."""
        self.size = size
        self._file = file
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        table = pa.ipc.open_file(pa.BufferReader(pa.py_buffer(mapped)))
        self._pixels = as_pixels(table.get_batch(0).column(0), size)

    def __len__(self) -> int:
        return len(self._pixels)

    def read(self, rows: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
        """Pixels of `rows`, in their order: (len(rows), size, size, 3) uint8, `out` if given."""
        if out is None:
            out = np.empty((len(rows), self.size, self.size, 3), np.uint8)
        return gather(self._pixels, rows, out)


def open_host_cache(dataset: PreparedDataset, folder: Path | None = None) -> HostCache:
    """Map the dataset's file on this node, after writing it if there is none.

    Of several processes one writes and the others wait. The lock is the kernel's, so a writer
    that is killed releases it, and the next begins anew.

    Args:
        dataset: whose pixels are wanted.
        folder: where the files lie; by default as this module's documentation says.

    Raises:
        StorageError: no room, no right to write, or another writer hangs.
    """
    folder = folder or Path(tempfile.gettempdir()) / f"leuk_ray-{os.getuid()}"
    path = folder / f"{dataset.pixels_key()}.arrow"
    reader = dataset.reader()
    try:
        make_private(folder)
        with (folder / "lock").open("ab") as lock:
            writer = _OtherWriter(folder)
            while True:
                mine = _try_lock(lock)
                if (cache := _map(path, reader)) is not None:
                    return cache
                if mine:
                    _make_room(folder, len(reader) * reader.size * reader.size * 3)
                    _write(reader, path)
                else:
                    writer.wait()
    except OSError as error:
        raise StorageError(
            f"{folder}: the host cache cannot be kept there ({error.strerror or error}); "
            "set TMPDIR to a disk of this node, or training.cache to none"
        ) from error


def _try_lock(file: BinaryIO) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _map(path: Path, reader: PixelReader) -> HostCache | None:
    """Return the file, mapped and marked as used; None where there is none that can be read."""
    try:
        file = path.open("rb")
    except FileNotFoundError:
        return None
    fcntl.flock(file, fcntl.LOCK_SH)  # for as long as it is mapped: `_make_room` leaves it alone
    if not os.fstat(file.fileno()).st_nlink:  # removed between the two lines above
        file.close()
        return None
    try:
        cache = HostCache(file, reader.size)
        assert len(cache) == len(reader), "a cache file of this key has other rows"
    except (ValueError, pa.ArrowInvalid):  # somebody shortened it
        file.close()
        path.unlink(missing_ok=True)
        return None
    os.utime(path)
    return cache


def _make_room(folder: Path, needed: int) -> None:
    """Remove what was used longest ago until the cache, `needed` bytes larger, may be kept.

    All files together may take half of the space that is free or already theirs. Only the
    holder of the lock may call.
    """
    for partial in folder.glob("*.partial"):  # of a writer that was killed
        partial.unlink()
    held = {path: path.stat() for path in folder.glob("*.arrow")}
    sizes = {path: found.st_size for path, found in held.items()}
    allowed = (shutil.disk_usage(folder).free + sum(sizes.values())) // 2
    excess = sum(sizes.values()) + needed - allowed
    unused = []
    for path in sorted(held, key=lambda path: held[path].st_mtime_ns):
        if excess > 0 and _is_unused(path):
            unused.append(path)
            excess -= sizes[path]
    if excess > 0:
        raise StorageError(
            f"training.cache host: the pixels take {_megabytes(needed)} of disk, {folder} may hold "
            f"{_megabytes(needed - excess)} more (half of what is free); set TMPDIR to a larger "
            "disk of this node, or training.cache to none"
        )
    for path in unused:
        path.unlink()


def _is_unused(path: Path) -> bool:
    with path.open("rb") as file:
        return _try_lock(file)


def _write(reader: PixelReader, path: Path) -> None:
    """All rows, a few at a time, then the name."""
    partial = path.with_name(path.name + ".partial")
    at_once = max(1, _WRITE_BYTES // (reader.size * reader.size * 3))
    try:
        with partial.open("w+b") as file:
            file.seek(_write_around_pixels(file, len(reader), reader.size))
            for start in range(0, len(reader), at_once):
                rows = np.arange(start, min(start + at_once, len(reader)))
                file.write(reader.read(rows).data)
            file.flush()
            os.fsync(file.fileno())  # a name over lost pages would be a file of zeros
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def _write_around_pixels(file: BinaryIO, num_rows: int, size: int) -> int:
    """Return an Arrow file of one batch with a hole for the pixels; returns where the hole starts.

    One batch, so that a read is one gather; a hole, so that nobody holds the batch in memory.
    """
    num_bytes = num_rows * size * size * 3
    file.truncate(num_bytes)
    with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as nothing:
        hole = pa.py_buffer(nothing)
        column = pa.Array.from_buffers(pa.binary(size * size * 3), num_rows, [None, hole])
        batch = pa.record_batch([column], names=["image"])
        sink = _AroundPixels(file, num_bytes)
        with pa.ipc.new_file(pa.PythonFile(sink, mode="w"), batch.schema) as writer:
            writer.write_batch(batch)
        del hole, column, batch
    assert sink.start is not None, "Arrow wrote the pixels in pieces"
    return sink.start


class _AroundPixels(io.RawIOBase):
    """Writes on to `file`, and skips the one buffer of `num_bytes`."""

    def __init__(self, file: BinaryIO, num_bytes: int) -> None:
        self.file = file
        self.num_bytes = num_bytes
        self.start: int | None = None

    def writable(self) -> bool:
        return True

    def tell(self) -> int:
        return self.file.tell()

    def write(self, data: Buffer) -> int:
        with memoryview(data) as view:
            if view.nbytes != self.num_bytes:
                return self.file.write(view)
        self.start = self.file.tell()
        self.file.seek(self.num_bytes, os.SEEK_CUR)
        return self.num_bytes


class _OtherWriter:
    """Waits for the holder of the lock as long as it gets on."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.last_write = 0
        self.since = time.monotonic()

    def wait(self) -> None:
        """Let a moment pass; a StorageError once nothing was written for _PATIENCE_SECONDS."""
        last_write = max(map(_modified, self.folder.glob("*.partial")), default=0)
        if last_write != self.last_write:
            self.last_write, self.since = last_write, time.monotonic()
        if time.monotonic() - self.since > _PATIENCE_SECONDS:
            raise StorageError(
                f"{self.folder}: another process holds the lock and has written nothing for "
                f"{_PATIENCE_SECONDS:.0f} s; end it, or set training.cache to none"
            )
        time.sleep(_POLL_SECONDS)


def _modified(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except FileNotFoundError:  # it has just got its name
        return 0


def _megabytes(num_bytes: int) -> str:
    return f"{max(0, num_bytes) / 1e6:,.0f} MB"
