"""`leuk-ray serve` as a user runs it: it answers, and a signal ends it cleanly."""

import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import requests

from tests.serving_bundles import cells, encode, write_small_bundle


def leuk_ray(*arguments: object, **options) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "leuk_ray.cli", *map(str, arguments)]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options
    )


@pytest.mark.timeout(200)
def test_it_answers_until_it_is_told_to_stop(tmp_path: Path):
    bundle = write_small_bundle(tmp_path / "small")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    process = leuk_ray("serve", bundle, "--port", port, "--json")
    try:
        end = time.monotonic() + 150
        while True:
            assert process.poll() is None, process.communicate()[1]
            assert time.monotonic() < end
            try:
                if requests.get(f"{url}/readyz", timeout=5).ok:
                    break
            except requests.RequestException:
                time.sleep(0.5)
        answer = requests.post(f"{url}/v1/predict", data=encode(cells(1)[0]), timeout=30)
        assert answer.json()["predictions"][0]["label"] in ("ALL", "healthy")
        assert "leuk_ray" in requests.get(url, timeout=30).text
        process.send_signal(signal.SIGTERM)
        stdout, stderr = process.communicate(timeout=60)
        assert process.returncode == 0, stderr
        assert url in stdout
        assert "Traceback" not in stderr
    finally:
        process.kill()
        process.wait()


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
