"""Decoding for requests: in threads, or in processes that end with their time.

Files whose header bounds the time to decode (`images.plain_pixels`) are decoded in threads of the
replica, a few of one request at a time. What else may be an image, such as a progressive JPEG or
WebP, goes to processes, which are killed where a file takes too long or its sender goes away.
Nobody with a file of the first kind waits for one of the second, and of the second nobody waits
for those of a single key.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import IO, Generic, ParamSpec, TypeVar, cast
from weakref import WeakValueDictionary

import numpy as np

from leuk_ray.datasets import images
from leuk_ray.datasets.images import BadImageError, StorageSettings, plain_pixels
from leuk_ray.fields.crops import crop_name, crops_of
from leuk_ray.fields.field import Field, FieldSettings, examine
from leuk_ray.inference.classifier import Cell, PrePostProcessor
from leuk_ray.serving.decoder import Done, Job
from leuk_ray.serving.errors import Problem
from leuk_ray.serving.traffic import Shares

_FILE_PIXELS = 2**23  # of a file for a thread; a camera's field of view has 5 million
_REQUEST_PIXELS = 2**26  # of all such files of a request
_FEW = min(4, os.cpu_count() or 1)  # threads that one request takes at a time
_PROCESSES = 4  # of which one request takes one at a time, and one key half
_WAITING = 32  # requests with files for processes, of which one key takes half
_FILE_SECONDS = 2.0  # of processor time; the largest progressive JPEG takes 1.1
_REQUEST_SECONDS = 5.0  # of all files of a request in processes

Named = tuple[str, bytes]
P = ParamSpec("P")
T = TypeVar("T")
R = TypeVar("R")

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class CroppedField:
    """A field of a request, with the crop of each cell as a file and decoded; None of a clump."""

    field: Field
    crops: list[bytes | None]
    cells: list[Cell | None]


class Threads:
    """A few threads of their own, awaited from the event loop."""

    def __init__(self, num_threads: int, name: str) -> None:
        self._threads = ThreadPoolExecutor(num_threads, name)

    async def run(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call a function in one of them."""
        call = partial(function, *args, **kwargs)
        return await asyncio.get_running_loop().run_in_executor(self._threads, call)


class Decoding:
    """What decodes the files of a replica's requests."""

    def __init__(self) -> None:
        self.threads = Threads(os.cpu_count() or 1, "decode")
        # Finding the cells of a field takes as long as many cells: these never wait for it.
        self._fields = Threads(max(1, (os.cpu_count() or 1) // 4), "fields")
        self._processes = _Processes()
        self._waiting = Shares(_WAITING)
        self._halves: WeakValueDictionary[str, asyncio.Semaphore] = WeakValueDictionary()

    async def read(
        self, processor: PrePostProcessor, files: Sequence[Named], holder: str
    ) -> list[Cell | BadImageError]:
        """Decode the cells of a request; a bad file is an item. Cancelling ends the work.

        Args:
            processor: what to make of them.
            files: named.
            holder: the key that they came with, or the request where there are no keys.

        Raises:
            Problem: 413 for too many pixels, 503 where too many wait for a process.
        """
        return await self._read(
            _Reading(
                processor.manifest.storage, self.threads, partial(_read, processor), processor.cell
            ),
            files,
            holder,
        )

    async def read_fields(
        self,
        processor: PrePostProcessor,
        settings: FieldSettings,
        files: Sequence[Named],
        holder: str,
    ) -> list[CroppedField | BadImageError]:
        """Decode fields of view and find their cells, as `read` decodes cells."""
        crop = partial(_crop, processor, settings)
        here = partial(_read_field, processor, settings)
        return await self._read(_Reading(None, self._fields, here, crop), files, holder)

    async def _read(
        self, reading: _Reading[R], files: Sequence[Named], holder: str
    ) -> list[R | BadImageError]:
        pixels = [_plain(data) for _, data in files]
        if sum(filter(None, pixels)) > _REQUEST_PIXELS:
            detail = f"a request may have {_REQUEST_PIXELS} pixels in all its images; send several"
            raise Problem(413, "pixels", detail)
        few, any_slow = asyncio.Semaphore(_FEW), None in pixels
        slow = _Slow(self._halves.setdefault(holder, asyncio.Semaphore(_PROCESSES // 2)))
        if any_slow and not self._waiting.take(holder, 1):
            detail = "too many images at once of kinds that take long to decode"
            raise Problem(503, "overload", detail, headers={"Retry-After": "1"})
        try:
            return await asyncio.gather(
                *(
                    self._in_process(reading, file, slow)
                    if known is None
                    else self._in_thread(reading, file, few)
                    for file, known in zip(files, pixels, strict=True)
                )
            )
        finally:
            if any_slow:
                self._waiting.give_back(holder, 1)

    async def _in_thread(
        self, reading: _Reading[R], file: Named, few: asyncio.Semaphore
    ) -> R | BadImageError:
        async with few:
            return await reading.threads.run(reading.here, file)

    async def _in_process(
        self, reading: _Reading[R], file: Named, slow: _Slow
    ) -> R | BadImageError:
        name, data = file
        async with slow.one, slow.half:
            seconds = min(_FILE_SECONDS, slow.seconds)
            found, spent = await self._processes.decode(data, reading.storage, seconds)
            slow.seconds -= spent
        if isinstance(found, BadImageError):
            return found
        return await reading.threads.run(reading.after, name, data, found)


@dataclass(frozen=True)
class _Reading(Generic[R]):
    """What to make of files.

    storage: of what a process decodes to; None for all pixels. threads: that do the rest. here:
    decodes a file and does the rest. after: does the rest with a file's name, bytes and pixels.
    """

    storage: StorageSettings | None
    threads: Threads
    here: Callable[[Named], R | BadImageError]
    after: Callable[[str, bytes, np.ndarray], R]


class _Slow:
    """What the files of a request in processes have: one at a time, and seconds together."""

    def __init__(self, half: asyncio.Semaphore) -> None:
        self.one, self.half = asyncio.Lock(), half
        self.seconds = _REQUEST_SECONDS


class _Processes:
    """Processes that decode, started when they are needed."""

    def __init__(self) -> None:
        self._free = asyncio.Semaphore(_PROCESSES)
        self._idle: list[_Process] = []
        self._threads = Threads(_PROCESSES, "decoder")

    async def decode(
        self, data: bytes, storage: StorageSettings | None, seconds: float
    ) -> tuple[np.ndarray | BadImageError, float]:
        """Decode in one of them: pixels, (S, S, 3) uint8, or why not; and processor time in s."""
        if seconds <= 0:
            return _too_slow("the images of this request take", _REQUEST_SECONDS), 0.0
        async with self._free:
            process = self._idle.pop() if self._idle else _Process()
            try:
                return await self._threads.run(process.decode, data, storage, seconds)
            except asyncio.CancelledError:
                process.kill()
                raise
            finally:
                if process.usable:
                    self._idle.append(process)


class _Process:
    """One process; its methods may be called from different threads."""

    def __init__(self) -> None:
        self.usable = True
        self._process: subprocess.Popen[bytes] | None = None

    def kill(self) -> None:
        """End it, also where it is just being started."""
        self.usable = False
        if self._process is not None:
            self._process.kill()

    def decode(
        self, data: bytes, storage: StorageSettings | None, seconds: float
    ) -> tuple[np.ndarray | BadImageError, float]:
        """Decode in it, and wait; see `_Processes.decode`."""
        if self._process is None:
            self._process = _started()
        if not self.usable:
            self._process.kill()
        job = Job(num_bytes=len(data), storage=storage, seconds=seconds)
        line = pixels = b""
        try:
            stdin = cast(IO[bytes], self._process.stdin)
            stdin.write(job.model_dump_json().encode() + b"\n" + data)
            stdin.flush()
            stdout = cast(IO[bytes], self._process.stdout)
            line = stdout.readline()
            done = Done.model_validate_json(line or Done().model_dump_json())
            pixels = stdout.read(done.num_bytes)
        except OSError:
            done = Done()
        if not line or len(pixels) < done.num_bytes:
            self.usable = False
            return self._ended(seconds), seconds
        if done.reason:
            return BadImageError(done.reason, done.detail), done.seconds
        return np.frombuffer(pixels, np.uint8).reshape(done.height, -1, 3), done.seconds

    def _ended(self, seconds: float) -> BadImageError:
        assert self._process is not None
        self._process.communicate()
        if self._process.returncode == -signal.SIGPROF:
            return _too_slow("it takes", seconds)
        logger.error("a decoder ended with %s", self._process.returncode)
        return BadImageError("truncated", "decoding it ended its process")


def _started() -> subprocess.Popen[bytes]:
    path = os.pathsep.join(filter(None, sys.path))  # a job's own checkout may be on it
    environment = os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "leuk_ray.serving.decoder"]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment)


def _plain(data: bytes) -> int | None:
    """Pixels of a file for a thread; None for one that a process decodes."""
    pixels = plain_pixels(data)
    return None if pixels is None or pixels > _FILE_PIXELS else pixels


def _read(processor: PrePostProcessor, file: Named) -> Cell | BadImageError:
    try:
        return processor.read(*file)
    except BadImageError as error:
        return error


def _read_field(
    processor: PrePostProcessor, settings: FieldSettings, file: Named
) -> CroppedField | BadImageError:
    try:
        return _crop(processor, settings, *file, images.decode(file[1]))
    except BadImageError as error:
        return error


def _crop(
    processor: PrePostProcessor, settings: FieldSettings, name: str, _: bytes, pixels: np.ndarray
) -> CroppedField:
    field = examine(name, pixels, settings)
    crops = crops_of(field, pixels, settings.crop_um)
    cells = [
        None if crop is None else processor.read(crop_name(name, at), crop)
        for at, crop in enumerate(crops, start=1)
    ]
    return CroppedField(field, crops, cells)


def _too_slow(what: str, seconds: float) -> BadImageError:
    detail = f"{what} more than {seconds:.1f} s to decode; save it as PNG or baseline JPEG"
    return BadImageError("too_slow", detail)
