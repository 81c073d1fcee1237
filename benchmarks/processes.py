"""Process trees: CPU time by what their processes are and of the rest of the machine, their end."""

from __future__ import annotations

import os
import subprocess
import time
from contextlib import suppress
from dataclasses import dataclass, field

import psutil

_DRIVER = "driver"
_TITLES = {"ray::RayTrainWorker": "workers", "ray::TrainController": "controller"}
_DAEMONS = ("gcs_server", "raylet", "dashboard", "DashboardAgent", "RuntimeEnvAgent", "monitor.py")


@dataclass(frozen=True)
class Usage:
    """What had been used at a moment, or, as a difference, between two.

    at: seconds. spent: CPU seconds by role: workers (of Ray Train), daemons (of Ray), driver
        (the command itself), actors (its other processes), others (outside of the tree).
    """

    at: float
    spent: dict[str, float] = field(default_factory=dict)

    def __sub__(self, before: Usage) -> Usage:
        spent = {role: value - before.spent.get(role, 0.0) for role, value in self.spent.items()}
        return Usage(self.at - before.at, spent)

    def cores(self, role: str) -> float:
        """Cores that a role kept busy; of a difference."""
        return self.spent.get(role, 0.0) / self.at

    def __str__(self) -> str:
        return ", ".join(f"{role} {self.cores(role):.2f}" for role in self.spent)


def usage(root: int) -> Usage:
    """The CPU time that has been used so far by a process, its descendants, and all others.

    That of processes which have ended counts with the others.
    """
    spent = dict.fromkeys(("workers", "controller", "daemons", "driver", "actors", "others"), 0.0)
    tree = psutil.Process(root)
    for process in [tree, *tree.children(recursive=True)]:
        with suppress(psutil.NoSuchProcess):
            times = process.cpu_times()
            spent[_role(process, root)] += times.user + times.system
    machine = psutil.cpu_times()
    busy = machine.user + machine.nice + machine.system + machine.irq + machine.softirq
    spent["others"] = busy - sum(spent.values())
    return Usage(time.monotonic(), spent)


def _role(process: psutil.Process, root: int) -> str:
    if process.pid == root or process.pid == os.getpid():
        return _DRIVER
    command = " ".join(process.cmdline()[:3])
    for title, role in _TITLES.items():
        if command.startswith(title):
            return role
    # The first words: a worker's later arguments name the daemons too.
    return "daemons" if any(name in command for name in _DAEMONS) else "actors"


def stop(process: subprocess.Popen, patience: float = 60) -> None:
    """End a command and what it started, as its Ray or the workers that LitServe leaves behind.

    patience: seconds until a command that does not end is killed.
    """
    children = psutil.Process(process.pid).children(recursive=True)
    process.terminate()
    try:
        process.wait(patience)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    for child in psutil.wait_procs(children, timeout=min(patience, 10))[1]:
        child.kill()
