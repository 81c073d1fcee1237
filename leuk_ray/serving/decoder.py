"""`python -m leuk_ray.serving.decoder`: decode files in a process that can be ended.

It reads jobs from its standard input, a line of JSON and the file's bytes, and writes answers of
the same form, a line and the pixels, to its standard output. It ends with its input, by a signal
that it sends itself when a file takes too much processor time, or when it is killed.
"""

from __future__ import annotations

import os
import resource
import signal
import sys

from leuk_ray.datasets import images
from leuk_ray.datasets.images import BadImageError, StorageSettings
from leuk_ray.utils.settings import Settings

_MEMORY = 2**30  # bytes; a file of the most pixels takes a third, the libraries a tenth of it
_NICE = 10  # files that decode fast, and networks, go first


class Job(Settings):
    """A file to decode: its size in bytes, what to make of it, and processor time in seconds.

    storage: None keeps all pixels of the file.
    """

    num_bytes: int
    storage: StorageSettings | None
    seconds: float


class Done(Settings):
    """How it went: bytes and rows of pixels that follow or why there are none, and seconds of
    processor time."""

    num_bytes: int = 0
    height: int = 0
    seconds: float = 0.0
    reason: str = ""
    detail: str = ""


def main() -> None:
    """Decode until the input ends."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_DATA, (_MEMORY, _MEMORY))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the service closes the input
    os.nice(_NICE)
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what a library prints is no answer
    while line := sys.stdin.buffer.readline():
        job = Job.model_validate_json(line)
        data = sys.stdin.buffer.read(job.num_bytes)
        signal.setitimer(signal.ITIMER_PROF, job.seconds)  # SIGPROF ends the process
        done, pixels = _decode(data, job.storage)
        left, _ = signal.setitimer(signal.ITIMER_PROF, 0)
        done = done.model_copy(update={"seconds": job.seconds - left})
        answers.write(done.model_dump_json().encode() + b"\n" + pixels)
        answers.flush()


def _decode(data: bytes, storage: StorageSettings | None) -> tuple[Done, bytes]:
    try:
        pixels = images.decode(data) if storage is None else images.read(data, storage)
    except BadImageError as error:
        return Done(reason=error.reason, detail=error.detail), b""
    except MemoryError:
        return Done(reason="too_large", detail="takes too much memory to decode"), b""
    return Done(num_bytes=pixels.nbytes, height=len(pixels)), pixels.tobytes()


if __name__ == "__main__":
    main()
