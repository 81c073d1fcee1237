"""Ctrl-C: a command that is interrupted ends within ten seconds, and never as if it were done.

KeyboardInterrupt unwinds the command, so that context managers remove what is unfinished. Code
that catches it, as some libraries do while they are imported or started, is interrupted again;
what still does not end is ended from a thread.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import NoReturn, TypeVar

from leuk_ray.utils import scratch

_AGAIN_SECONDS = 3.0
_END_SECONDS = 8.0

_T = TypeVar("_T")


@contextmanager
def interruptible(say: Callable[[str], None]) -> Generator[None]:
    """Run a command that Ctrl-C can end at any moment; the process then exits with 130.

    Args:
        say: called with the text of the KeyboardInterrupt after an interrupted command has
            cleaned up, also where the command has caught the interrupt and returned.
    """
    received, unwound = threading.Event(), threading.Event()

    def interrupt(*_: object) -> None:
        if not received.is_set():
            received.set()
            os.write(2, b"\nleuk-ray: interrupted, stopping\n")
            threading.Thread(target=_insist, args=(unwound,), daemon=True).start()
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, interrupt)
    left = ""
    try:
        try:
            yield
        except KeyboardInterrupt as error:
            left = str(error)
            received.set()
        unwound.set()
        if received.is_set():
            _stop_ray()
            say(left)
            _exit()
    finally:
        signal.signal(signal.SIGINT, before)


def _insist(unwound: threading.Event) -> None:
    """Interrupt again a command that goes on all the same, and end a process that does not."""
    if not unwound.wait(_AGAIN_SECONDS):
        os.kill(os.getpid(), signal.SIGINT)
    time.sleep(_END_SECONDS - _AGAIN_SECONDS)
    os.write(2, b"leuk-ray: ended. Partial output may be left; run the command again.\n")
    _exit()


def _exit() -> NoReturn:
    """Leave without the end of libraries whose threads still run: they crash there."""
    scratch.remove_own()
    sys.stderr.flush()
    os._exit(130)  # 128 + SIGINT, as shells count it


def _stop_ray() -> None:
    """End a Ray that this process started, its workers too, and remove what they leave."""
    import psutil

    started = psutil.Process().children(recursive=True)
    if (ray := sys.modules.get("ray")) is not None and ray.is_initialized():
        ray.shutdown()
    _, alive = psutil.wait_procs(started, timeout=1)
    for process in alive:
        process.kill()
    psutil.wait_procs(alive, timeout=1)
    scratch.remove_abandoned()


def in_thread(function: Callable[[], _T]) -> _T:
    """Call a function that replaces the SIGINT handler when it runs in the main thread.

    The caller stays interruptible; the thread ends with the process.
    """
    results: list[_T] = []
    errors: list[BaseException] = []

    def call() -> None:
        try:
            results.append(function())
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=call, daemon=True)
    thread.start()
    while thread.is_alive():
        thread.join(0.2)  # without a limit, Python answers no signal until the thread ends
    if errors:
        raise errors[0]
    return results[0]
