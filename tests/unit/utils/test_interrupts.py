"""Ctrl-C ends a command that ignores it, and never with exit code 0."""

import signal
import subprocess
import sys
import time

import pytest

_COMMAND = """
import time, sys
from leuk_ray.utils.interrupts import in_thread, interruptible
from leuk_ray.utils import interrupts
interrupts._AGAIN_SECONDS, interrupts._END_SECONDS = 0.3, 1.0

def work():
    print("started", flush=True)
    {}

with interruptible(lambda left: print("said:", left, flush=True)):
    work()
"""
_SWALLOWED_ONCE = """
    try:
        time.sleep(20)
    except KeyboardInterrupt:
        pass
"""


@pytest.mark.parametrize(
    ("work", "said"),
    [
        ("time.sleep(20)", "said:"),
        ("in_thread(lambda: time.sleep(20))", "said:"),
        (_SWALLOWED_ONCE, "said:"),
        (_SWALLOWED_ONCE + "    time.sleep(20)", "said:"),
        ("while True:" + _SWALLOWED_ONCE.replace("\n", "\n    "), "Partial output may be left"),
        (_SWALLOWED_ONCE.replace("pass", "raise KeyboardInterrupt('intact')"), "said: intact"),
    ],
    ids=["ends", "thread", "swallowed", "swallowed and on", "never ends", "says what is left"],
)  # fmt: skip
def test_an_interrupted_command_ends_and_not_with_0(work: str, said: str):
    process = subprocess.Popen(
        [sys.executable, "-c", _COMMAND.format(work)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "started\n"
    time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=10)
    assert process.returncode == 130, output
    assert said in output
    assert "Traceback" not in output
