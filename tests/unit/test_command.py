"""Standard output of a command is its result alone."""

import subprocess
import sys

_NOISY = """
import os, click
from leuk_ray.commands.base import command

@click.command()
@command
def noisy():
    print("a library prints")
    os.write(1, b"a raylet complains\\n")
    os.system("echo a process of it too")
    return {"cells": 3}, "3 cells"

noisy()
"""


def test_what_libraries_and_their_processes_print_goes_to_standard_error():
    for words, expected in (["--json"], '{"cells": 3}\n'), ([], "3 cells\n"):
        done = subprocess.run(
            [sys.executable, "-c", _NOISY, *words], capture_output=True, text=True, timeout=60
        )
        assert done.stdout == expected, done.stderr
        for noise in ("a library prints", "a raylet complains", "a process of it too"):
            assert noise in done.stderr
