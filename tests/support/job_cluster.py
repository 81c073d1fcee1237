"""A Ray of several nodes with token authentication in a process of its own, as a user meets it."""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
import subprocess
import sys
from pathlib import Path

import psutil
from ray.job_submission import JobSubmissionClient

ROOT = Path(__file__).parents[2]
NODES = Path(__file__).with_name("nodes.py")


class JobCluster:
    """Started at once; `environment` is what a user of it has.

    address: of the cluster itself. metrics: where Prometheus finds the nodes.
    """

    def __init__(self, num_nodes: int, cpus: int) -> None:
        port = free_port()
        own = {k: v for k, v in os.environ.items() if not k.startswith(("RAY_ADDRESS", "RAY_AUTH"))}
        own |= {
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{own['PATH']}",
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": secrets.token_hex(32),
            "RAY_worker_niceness": "0",
            "RAY_worker_maximum_startup_concurrency": "4",  # one a CPU by default
        }
        command = [sys.executable, str(NODES), str(port), str(num_nodes), str(cpus)]
        self._process = subprocess.Popen(
            command, env=own, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self._process.stdout is not None
        ready = (line for line in self._process.stdout if line.startswith("ready"))
        _, self.address, folder = next(ready).split()
        self.metrics = Path(folder) / "prom_metrics_service_discovery.json"
        self.environment = own | {"RAY_API_SERVER_ADDRESS": f"http://127.0.0.1:{port}"}

    def client(self) -> JobSubmissionClient:
        """Ray's own; this process read its environment long ago, so the token goes along."""
        token = {"Authorization": f"Bearer {self.environment['RAY_AUTH_TOKEN']}"}
        return JobSubmissionClient(self.environment["RAY_API_SERVER_ADDRESS"], headers=token)

    def start(
        self, folder: Path, *words: object, stdin: int = subprocess.DEVNULL
    ) -> subprocess.Popen[str]:
        """`leuk-ray WORDS` in a folder of the user's machine."""
        return subprocess.Popen(
            [sys.executable, "-m", "leuk_ray", *map(str, words)],
            env=self.environment,
            cwd=folder,
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def leuk_ray(
        self, folder: Path, *words: object, timeout: float = 200
    ) -> subprocess.CompletedProcess[str]:
        """The same to its end."""
        process = self.start(folder, *words)
        out, err = process.communicate(timeout=timeout)
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)

    def stop(self) -> None:
        """End it as `ray stop` would."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(timeout=60)

    def kill(self) -> None:
        """End every process of it at once, as when all machines lose power."""
        processes = psutil.Process(self._process.pid).children(recursive=True)
        self._process.kill()
        for process in processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(processes, timeout=30)
        self._process.wait(timeout=10)


def free_port() -> int:
    """A port of this machine that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
