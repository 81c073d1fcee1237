"""A day's requests of a laboratory in minutes: what the service holds stays what it is. On demand.

LEUK_RAY_SOAK_MINUTES sets how long it takes (2); benchmarks/results/load.json has 20.
"""

from __future__ import annotations

import base64
import os
import random
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest
import requests

from tests.support.service_process import KEY, Service, serving
from tests.support.serving_bundles import cells, encode
from tests.support.small_fields import PIXELS_PER_UM, rendered

MINUTES = float(os.environ.get("LEUK_RAY_SOAK_MINUTES", "2"))
CLIENTS = 4
MIB = 2**20
IMAGES = [encode(pixels) for pixels in cells(40)]
FIELD = encode(rendered(0, 3)[0])
# Requests of each kind in a hundred, and the statuses that they may have.
KINDS = {
    "cell": (60, {200}), "cells of a subject": (12, {200}), "explained": (3, {200}),
    "field": (2, {200}), "v2": (8, {200}), "no image": (5, {415}), "no key": (3, {401}),
    "hangs up": (2, {None}), "models": (2, {200}), "page": (3, {200}),
}  # fmt: skip


def ask(
    service: Service, session: requests.Session, kind: str, chance: random.Random
) -> int | None:
    """The status of a request of a kind; None where nobody waits for it."""
    one = chance.choice(IMAGES)
    predict = f"{service.url}/v1/predict"
    if kind == "hangs up":
        with service.connect() as connection:
            head = f"POST /v1/predict HTTP/1.1\r\nHost: a\r\nContent-Length: {len(one)}\r\n\r\n"
            connection.sendall(head.encode() + one[: len(one) // 2])
        return None
    if kind == "page":
        return session.get(service.url, timeout=60).status_code
    if kind == "models":
        return session.get(f"{service.url}/v1/models", headers=KEY, timeout=60).status_code
    if kind == "no key":
        return session.post(predict, data=one, timeout=60).status_code
    if kind == "cells of a subject":
        files = [("file", (str(i), data)) for i, data in enumerate(chance.sample(IMAGES, 12))]
        answer = session.post(predict, files=files, data={"subject": "S"}, headers=KEY, timeout=60)
        return answer.status_code
    if kind == "field":
        url = f"{service.url}/v1/fields?pixels_per_um={PIXELS_PER_UM}"
        return session.post(url, data=FIELD, headers=KEY, timeout=60).status_code
    if kind == "v2":
        data = [base64.b64encode(one).decode()]
        body = {"inputs": [{"name": "image", "shape": [1], "datatype": "BYTES", "data": data}]}
        url = f"{service.url}/v2/models/small/infer"
        return session.post(url, json=body, headers=KEY, timeout=60).status_code
    query = {"explain": "true"} if kind == "explained" else {}
    data = b"no image" if kind == "no image" else one
    return session.post(predict, params=query, data=data, headers=KEY, timeout=60).status_code


def held(service: Service) -> dict[str, float]:
    """Memory in MiB, descriptors, threads and processes of replicas and HAProxy."""
    processes = service.processes("Classify") + service.processes("haproxy.cfg")
    processes += service.processes("leuk_ray.serving.decoder")
    found = {process.pid: process for process in processes}.values()
    counts: Counter[str] = Counter(processes=len(found))
    for process in found:
        with process.oneshot():
            counts["MiB"] += process.memory_info().rss // MIB
            counts["descriptors"] += process.num_fds()
            counts["threads"] += process.num_threads()
    return dict(counts)


@pytest.mark.timeout(60 * MINUTES + 600)
def test_nothing_piles_up(tmp_path: Path):
    statuses: Counter[tuple[str, int | None]] = Counter()
    lock = threading.Lock()
    with serving(tmp_path) as service:
        started = time.monotonic()
        end = started + 60 * MINUTES

        def client(number: int) -> None:
            chance = random.Random(number)
            weights = [share for share, _ in KINDS.values()]
            while time.monotonic() < end:
                with requests.Session() as session:  # a new connection now and then
                    for kind in chance.choices(list(KINDS), weights, k=50):
                        status = ask(service, session, kind, chance)
                        with lock:
                            statuses[kind, status] += 1

        samples: list[dict[str, float]] = []
        with ThreadPoolExecutor(CLIENTS) as pool:
            clients = [pool.submit(client, number) for number in range(CLIENTS)]
            while time.monotonic() < end:
                time.sleep(60 * MINUTES / 40)
                samples.append(held(service))
            for done in clients:
                done.result()
        pids = {process.pid for process in service.processes("Classify")}
        assert all(psutil.pid_exists(pid) for pid in pids)
        assert service.answers()
    for sample in samples[::4]:
        print(sample)
    print(f"{statuses.total()} requests in {time.monotonic() - started:.0f} s: {dict(statuses)}")
    assert {kind for kind, _ in statuses} == set(KINDS)
    assert all(status in KINDS[kind][1] for kind, status in statuses), statuses
    early, late = samples[10:20], samples[30:]
    for what, more in (("MiB", 40), ("descriptors", 30), ("threads", 10), ("processes", 0)):
        before, after = (max(sample[what] for sample in part) for part in (early, late))
        assert after <= before + more, f"{what}: {before} in the second quarter, {after} at the end"
