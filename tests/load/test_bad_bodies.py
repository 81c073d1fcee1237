"""Thousands of bad requests against `leuk-ray serve`, as a user runs it. On demand.

LEUK_RAY_LOAD_BODIES sets how many bodies are sent (5,000).
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import pytest
import requests

from leuk_ray.serving.settings import Limits
from tests.support.bad_bodies import Bad, crafted, from_openapi, mutated, send
from tests.support.service_process import GOOD, KEY, Service, serving

BODIES = int(os.environ.get("LEUK_RAY_LOAD_BODIES", "5000"))
CLIENTS = 4


@pytest.fixture(scope="module")
def service(tmp_path_factory) -> Iterator[Service]:
    with serving(tmp_path_factory.mktemp("bad")) as service:
        yield service


@pytest.fixture(scope="module")
def warm(service: Service) -> Service:
    """It has loaded what it loads when asked, and held the largest that it accepts."""
    with requests.Session() as session, ThreadPoolExecutor(CLIENTS) as pool:
        for _ in range(3):
            list(pool.map(lambda bad: send(session, service.url, bad, **KEY), crafted()))
    from_openapi(service.url, 8, **KEY)
    assert service.ask(explain="true").ok
    for _ in range(2):
        send_gigabyte(service, told=False)
    return service


@pytest.fixture
def unharmed(warm: Service) -> Iterator[None]:
    """The same replica answers the next good request, in the memory that it had."""
    for _ in range(20):
        assert warm.answers()
    before = warm.replicas()
    yield
    assert warm.answers()
    after = warm.replicas()
    grown = (sum(after.values()) - sum(before.values())) / 2**20
    print(f"replica's memory {sum(before.values()) / 2**20:.0f} MiB, {grown:+.0f} MiB")
    assert set(after) == set(before) != set(), "no replica died"
    assert grown < 60


@pytest.mark.timeout(1200)
def test_bodies_made_to_break_it_do_not(service: Service, unharmed: None):
    generated = from_openapi(service.url, max(8, BODIES // 40), **KEY)
    bodies = [*crafted(), *mutated(max(100, BODIES - generated.total()))]
    with requests.Session() as session, ThreadPoolExecutor(CLIENTS) as pool:
        answers = pool.map(lambda bad: send(session, service.url, bad, **KEY).status_code, bodies)
        statuses = Counter(answers)
    print(f"{generated.total()} from OpenAPI {dict(generated)}, others {dict(statuses)}")
    assert generated.total() + statuses.total() >= BODIES
    assert set(statuses) <= {200, 400, 404, 413, 415, 422}


@pytest.mark.timeout(300)
def test_others_reach_haproxy_alone(service: Service):
    """What answers HTTP behind it listens on the loopback address."""
    reached = {
        connection.laddr.port: connection.laddr.ip
        for word in ("haproxy", "ServeReplica", "ProxyActor")
        for process in service.processes(word)
        for connection in process.net_connections()
        if connection.status == "LISTEN"
    }
    assert reached.pop(service.port) == "0.0.0.0"
    http = {port: ip for port, ip in reached.items() if speaks_http(port)}
    assert len(http) >= 4, "a replica, the fallback, statistics, metrics"
    assert set(http.values()) == {"127.0.0.1"}


def speaks_http(port: int) -> bool:
    try:
        return bool(requests.get(f"http://127.0.0.1:{port}/", timeout=2).status_code)
    except requests.RequestException:
        return False


@pytest.mark.timeout(300)
def test_a_missing_or_wrong_key_is_refused_whatever_comes_with_it(service, unharmed: None):
    with requests.Session() as session:
        for bad in [*crafted()[:20], Bad("good", GOOD)]:
            assert send(session, service.url, bad).status_code == 401
            wrong = {"X-API-Key": "Secret"}
            assert send(session, service.url, bad, **wrong).status_code == 401


@pytest.mark.timeout(300)
@pytest.mark.parametrize("told", [True, False], ids=["its length told", "in chunks"])
def test_a_body_of_a_gigabyte_is_cut_off(told: bool, service: Service, unharmed: None):
    sent, answer = send_gigabyte(service, told=told)
    print(f"{sent / 2**20:.0f} MiB taken; answer {answer!r}")
    assert sent < Limits().body_bytes + 2**27, "not read to its end"
    assert not answer or b" 413 " in answer


def send_gigabyte(service: Service, *, told: bool) -> tuple[int, bytes]:
    """Send a body of 1 GiB until it is answered: bytes taken, and the answer's first line."""
    piece, sent, answer = bytes(2**20), 0, b""
    head = f"Content-Length: {2**30}" if told else "Transfer-Encoding: chunked"
    with service.connect() as sender, suppress(ConnectionError, TimeoutError):
        sender.sendall(
            f"POST /v1/predict HTTP/1.1\r\nHost: x\r\nX-API-Key: secret\r\n{head}\r\n\r\n".encode()
        )
        while sent < 2**30 and not answer:
            try:
                sender.sendall(piece if told else b"100000\r\n" + piece + b"\r\n")
                sent += len(piece)
                sender.settimeout(0.001)
                answer = sender.recv(4096)
            except TimeoutError:
                sender.settimeout(60)
            except ConnectionError:  # it hung up, and may have said why
                answer = sender.recv(4096)
                break
    return sent, answer.partition(b"\r")[0]


@pytest.mark.timeout(300)
def test_slow_senders_are_let_go_and_keep_nobody_waiting(service: Service, unharmed: None):
    senders = [service.connect() for _ in range(8)]
    for sender in senders:
        sender.sendall(
            b"POST /v1/predict HTTP/1.1\r\nHost: x\r\nX-API-Key: secret\r\n"
            b"Content-Length: 1000000\r\n\r\n"
        )
    end = time.monotonic() + Limits().receive_seconds + 15
    waiting = list(senders)
    while waiting and time.monotonic() < end:
        assert service.answers(), "others are answered meanwhile"
        for sender in list(waiting):
            sender.settimeout(0.01)
            try:
                sender.sendall(b"x")
                first = sender.recv(4096)
            except TimeoutError:
                continue
            except ConnectionError:
                first = b""
            assert not first or b" 408 " in first.split(b"\r\n")[0]
            waiting.remove(sender)
        time.sleep(0.5)
    for sender in senders:
        sender.close()
    assert not waiting
