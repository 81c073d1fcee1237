"""What is wrong with an address, TMPDIR or HOME is noticed before Ray starts."""

import http.server
import os
import socket
import threading
from pathlib import Path

import pytest

from leuk_ray.cluster import ray_cluster
from leuk_ray.utils.errors import UserError


@pytest.fixture(autouse=True)
def short_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_cluster, "_ANSWER_SECONDS", 0.5)


def test_the_address_of_a_dashboard_says_what_to_give(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("RAY_ADDRESS", "http://127.0.0.1:8265")
    with pytest.raises(UserError, match=r"is the address of a dashboard; give HOST:PORT"):
        ray_cluster.connect()


def test_an_address_that_does_not_answer_is_named_soon():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    for address in (f"127.0.0.1:{port}", f"ray://127.0.0.1:{port}", "nonsense", "host:port"):
        with pytest.raises(UserError, match=rf"Ray cluster {address}: does not answer within"):
            ray_cluster.connect(address)


def test_a_server_of_another_kind_is_no_cluster():
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        with pytest.raises(UserError, match="does not answer within"):
            ray_cluster.connect(f"127.0.0.1:{server.server_port}")
    finally:
        server.shutdown()
        server.server_close()


def test_a_long_tmpdir_is_reached_by_a_short_link(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("tempfile.tempdir", None)
    long = tmp_path / ("x" * 100)
    long.mkdir()
    monkeypatch.setenv("TMPDIR", str(long))
    ray_cluster._shorten_tmpdir()
    short = Path(os.environ["TMPDIR"])
    assert len(str(short)) <= 37
    assert short.resolve() == long.resolve()
    ray_cluster._shorten_tmpdir()  # stays, and is found again
    assert os.environ["TMPDIR"] == str(short)
    short.unlink()


@pytest.mark.parametrize("home", ["/proc", "/nowhere/at/all"])
def test_a_home_that_takes_no_token_gets_one_of_this_process(
    home: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.delenv("RAY_AUTH_TOKEN", raising=False)
    monkeypatch.delenv("RAY_AUTH_TOKEN_PATH", raising=False)
    monkeypatch.setenv("HOME", home)
    ray_cluster._make_token_possible()
    token = os.environ["RAY_AUTH_TOKEN"]
    monkeypatch.setenv("RAY_AUTH_TOKEN", token)  # so that it is taken back
    assert len(token) == 64


def test_a_home_that_takes_a_token_keeps_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("RAY_AUTH_TOKEN", raising=False)
    monkeypatch.delenv("RAY_AUTH_TOKEN_PATH", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    ray_cluster._make_token_possible()
    assert "RAY_AUTH_TOKEN" not in os.environ
