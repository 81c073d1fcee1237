"""`leuk-ray serve` as a user runs it: it answers, and a signal ends it cleanly."""

import json
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
import requests

from leuk_ray.bundles.registry import Registry
from leuk_ray.inference.check import check_answers
from leuk_ray.workflows.trace import read_answers, verify_trace
from tests.support.serving_bundles import cells, encode, write_small_bundle


def leuk_ray(*arguments: object, **options) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "leuk_ray", *map(str, arguments)]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options
    )


@pytest.fixture(scope="module")
def registry(tmp_path_factory) -> Path:
    """`small` in three versions, of which the first is the champion."""
    folder = tmp_path_factory.mktemp("served")
    registry = Registry(folder / "registry", check_answers)
    for seed in (1, 2, 3):
        registry.add(write_small_bundle(folder / f"b{seed}", seed=seed), "small")
    registry.promote("small", 1)
    return registry.path


def logged(since: float) -> list[dict]:
    """Lines of JSON that processes of this machine's latest Ray have written."""
    found = []
    for path in Path("/tmp/ray/session_latest/logs").glob("worker-*.out"):
        if path.stat().st_mtime > since:
            lines = path.read_text().splitlines()
            found += [json.loads(line) for line in lines if line.startswith("{")]
    return found


@pytest.mark.timeout(200)
def test_it_answers_until_it_is_told_to_stop(registry: Path, tmp_path: Path):
    since = time.time()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    beside = ("--canary", "small@2=0.5", "--shadow", "small@3")
    trace = tmp_path / "trace"
    process = leuk_ray("serve", registry, *beside, "--port", port, "--trace", trace, "--json")
    try:
        wait(lambda: requests.get(f"{url}/readyz", timeout=5).ok, process, 150)
        cell, versions = encode(cells(1)[0]), Counter()
        for host, status in ((f"localhost:{port}", 200), ("cells.example", 403)):
            answer = requests.post(f"{url}/v1/predict", cell, headers={"Host": host}, timeout=30)
            assert answer.status_code == status, "HAProxy passes Host on as it is"
        hang_up(port, "gone")
        for number in range(40):
            headers = {"X-Request-ID": f"request-{number}"}
            answer = requests.post(f"{url}/v1/predict", data=cell, headers=headers, timeout=30)
            assert answer.json()["predictions"][0]["label"] in ("ALL", "healthy")
            versions[answer.json()["model"]["version"]] += 1
        # 20 expected; binomial standard deviation 3.2.
        assert set(versions) == {"1", "2"}
        assert 7 <= versions["2"] <= 33
        wait(lambda: any("shadow" in line for line in logged(since)), process, 30)
        compared = [line for line in logged(since) if "shadow" in line]
        assert {(line["shadow"], line["failed"]) for line in compared} == {("3", 0)}
        asked = {line.get("request_id") for line in logged(since)}
        assert asked >= {f"request-{number}" for number in range(40)}
        assert [line["status"] for line in logged(since) if line.get("request_id") == "gone"] == [
            499
        ]
        assert "leuk_ray" in requests.get(url, timeout=30).text
        process.send_signal(signal.SIGTERM)
        stdout, stderr = process.communicate(timeout=60)
        assert process.returncode == 0, stderr
        assert url in stdout
        assert "Traceback" not in stderr
        print(stderr)
        (chain,) = verify_trace(trace)["chains"]
        assert chain["state"] == "closed"
        traced = Counter(answer.request_id for answer in read_answers(trace))
        assert {f"request-{number}": 1 for number in range(40)}.items() <= traced.items()
        assert traced.total() == 41, "and the first; not what was refused, nor who hung up"
    finally:
        process.kill()
        process.wait()


def hang_up(port: int, request_id: str) -> None:
    """Go away while the service works on an answer."""
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        files = b"".join(
            b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.png"\r\n\r\n'
            + encode(pixels)
            + b"\r\n"
            for pixels in cells(60)
        )
        head = (
            f"POST /v1/predict?explain=true HTTP/1.1\r\nHost: localhost\r\n"
            f"X-Request-ID: {request_id}\r\nContent-Type: multipart/form-data; boundary=x\r\n"
            f"Content-Length: {len(files) + 5}\r\n\r\n"
        )
        connection.sendall(head.encode() + files + b"--x--")
        time.sleep(0.1)


def wait(holds: Callable[[], bool], process: subprocess.Popen[str], seconds: float) -> None:
    end = time.monotonic() + seconds
    while True:
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < end
        try:
            if holds():
                return
        except requests.RequestException:
            pass
        time.sleep(0.5)


@pytest.mark.timeout(240)
def test_what_cannot_be_served_is_refused_before_ray_starts(tmp_path: Path):
    bundle = write_small_bundle(tmp_path / "small")
    changed = write_small_bundle(tmp_path / "changed")
    weights = changed / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    keys = tmp_path / "keys"
    keys.write_text("lab secret\n")
    (tmp_path / "empty").mkdir()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        refused = {
            "keys are required": leuk_ray("serve", bundle, "--host", "0.0.0.0"),
            "line 1": leuk_ray("serve", bundle, "--host", "0.0.0.0", "--api-keys", keys),
            "nor a registry": leuk_ray("serve", tmp_path / "empty"),
            "cannot be listened on": leuk_ray("serve", bundle, "--port", port),
            "changed since it was written": leuk_ray("serve", changed),
        }
        for message, process in refused.items():
            _, stderr = process.communicate(timeout=200)
            assert process.returncode == 2, stderr
            assert stderr.count("\n") == 1, stderr
            assert message in stderr
