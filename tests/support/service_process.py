"""`leuk-ray serve` as a user runs it, for the tests that load it."""

from __future__ import annotations

import hashlib
import socket
import subprocess
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import psutil
import requests

from tests.support.serving_bundles import cells, encode, write_small_bundle

KEY, OTHER_KEY = {"X-API-Key": "secret"}, {"X-API-Key": "other"}
GOOD = encode(cells(1)[0])


class Service:
    """A running `leuk-ray serve` with keys."""

    def __init__(self, process: subprocess.Popen[str], host: str, port: int) -> None:
        self.process, self.host, self.port = process, host, port
        self.url = f"http://{host}:{port}"

    def processes(self, word: str) -> list[psutil.Process]:
        """Processes behind it that have a word on their command lines."""
        found = psutil.Process(self.process.pid).children(recursive=True)
        return [child for child in found if any(word in each for each in child.cmdline())]

    def replicas(self) -> dict[int, int]:
        """Resident memory of each replica's process, bytes."""
        return {child.pid: child.memory_info().rss for child in self.processes("Classify")}

    def ask(self, **query: str) -> requests.Response:
        url = f"{self.url}/v1/predict"
        return requests.post(url, params=query, data=GOOD, headers=KEY, timeout=60)

    def answers(self) -> bool:
        started = time.monotonic()
        answer = self.ask()
        return answer.status_code == 200 and time.monotonic() - started < 10

    def connect(self, source: str = "") -> socket.socket:
        """A connection, from an address of this machine."""
        address = (source, 0) if source else None
        return socket.create_connection((self.host, self.port), 60, source_address=address)


@contextmanager
def serving(folder: Path) -> Generator[Service]:
    """Serve a small bundle to others, with two keys."""
    bundle = write_small_bundle(folder / "small")
    keys = folder / "keys"
    lines = [
        f"{name} {hashlib.sha256(name.encode()).hexdigest()}\n" for name in ("secret", "other")
    ]
    keys.write_text("".join(lines))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "leuk_ray", "serve", str(bundle), "--host", "0.0.0.0"]
    process = subprocess.Popen(
        [*command, "--port", str(port), "--api-keys", str(keys)], stdout=subprocess.DEVNULL,
        text=True, stderr=(folder / "stderr").open("w"),
    )  # fmt: skip
    service = Service(process, "127.0.0.1", port)
    try:
        end = time.monotonic() + 150
        while True:
            assert process.poll() is None, (folder / "stderr").read_text()
            assert time.monotonic() < end, (folder / "stderr").read_text()
            try:
                if requests.get(f"{service.url}/readyz", timeout=5).ok:
                    break
            except requests.RequestException:
                time.sleep(0.5)
        yield service
        process.terminate()
        process.wait(timeout=60)
    finally:
        process.kill()
        process.wait()
