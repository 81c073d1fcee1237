"""Throughput and latency of the service beside plain FastAPI and LitServe, in one run.

    python benchmarks/serve.py --bundle lite.bundle [--seconds 10] [--clients 1 16] [--device cuda]

Every server gets the same bundle, decoder, engine and device, and the same requests: one image of
450 x 450 pixels as PNG a request, from 1 and from 16 clients on the same machine. LitServe is
left out, and the table says so, where it is not installed (pip install litserve). The last
column is the CPU time of all processes of a server, Ray's daemons among them, less that of decoding
and the engine alone.
"""

from __future__ import annotations

import argparse
import base64
import importlib.util
import io
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import ExitStack, suppress
from pathlib import Path

import psutil
import requests
from fastapi import Request  # FastAPI looks annotations up in the module
from PIL import Image
from processes import stop
from results import Result, finish

from leuk_ray.datasets.synthetic import SyntheticSpec, draw_cells, render

START_SECONDS = 180
SERVERS = ("fastapi", "leuk_ray", "litserve")


def serve_fastapi(bundle: str, port: int, device: str) -> None:
    """A route that decodes and scores in the thread pool: what one writes without Ray."""
    import torch
    import uvicorn
    from fastapi import FastAPI
    from starlette.concurrency import run_in_threadpool

    from leuk_ray.inference.classifier import Classifier

    torch.set_num_threads(os.cpu_count() or 1)
    classifier = Classifier.load(Path(bundle), device)
    app = FastAPI()

    @app.get("/healthz")
    async def healthz() -> dict:
        return {}

    @app.post("/v1/predict")
    async def predict(request: Request) -> dict:
        data = await request.body()
        (answer,) = await run_in_threadpool(classifier.predict, [("image", data)])
        return {"predictions": [answer.as_dict()]}

    uvicorn.run(app, port=port, log_level="warning")


def serve_litserve(bundle: str, port: int, device: str) -> None:
    """LitServe, whose classes its workers have to find in a module."""
    assert device == "cpu", "the peer is written for the CPU"
    peer = str(Path(__file__).with_name("litserve_peer.py"))
    os.execv(sys.executable, [sys.executable, peer, bundle, str(port)])


def serve_leuk_ray(bundle: str, port: int, device: str) -> None:
    """`leuk-ray serve`."""
    command = [sys.executable, "-m", "leuk_ray", "serve", bundle, "--port", str(port)]
    command += ["--gpus"] * (device == "cuda")
    os.execv(sys.executable, command)


def bare(bundle: str, data: bytes, device: str, images: int = 100) -> float:
    """CPU milliseconds an image that decoding and the engine alone take, in batches of 8."""
    import torch

    from leuk_ray.inference.classifier import Classifier

    torch.set_num_threads(os.cpu_count() or 1)
    classifier = Classifier.load(Path(bundle), device)
    files = [("image", data)] * 8
    classifier.predict(files)
    started = time.process_time()
    for _ in range(images // 8):
        classifier.predict(files)
    return 1000 * (time.process_time() - started) / (images // 8 * 8)


def cpu_seconds(process: subprocess.Popen) -> float:
    """CPU time that a process and its descendants have taken."""
    found = psutil.Process(process.pid)
    total = 0.0
    for one in [found, *found.children(recursive=True)]:
        with suppress(psutil.NoSuchProcess):
            times = one.cpu_times()
            total += times.user + times.system
    return total


def request_of(name: str, data: bytes) -> dict:
    """What a server is sent."""
    if name == "litserve":
        return {"json": {"image": base64.b64encode(data).decode()}}
    return {"data": data}


def measure(
    url: str, request: dict, clients: int, seconds: float, process: subprocess.Popen
) -> dict:
    """Answered requests a second, latency and CPU time in ms, after a warm-up."""
    seconds_of: list[float] = []
    before = cpu_seconds(process)
    end = time.monotonic() + seconds

    def ask() -> None:
        with requests.Session() as session:
            while time.monotonic() < end:
                started = time.monotonic()
                answer = session.post(f"{url}/v1/predict", **request, timeout=60)
                answer.raise_for_status()
                seconds_of.append(time.monotonic() - started)

    threads = [threading.Thread(target=ask) for _ in range(clients)]
    started = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    ordered = sorted(seconds_of)
    spent = cpu_seconds(process) - before
    return {
        "clients": clients,
        "requests_per_second": len(ordered) / (time.monotonic() - started),
        "median_ms": 1000 * statistics.median(ordered),
        "p95_ms": 1000 * ordered[int(0.95 * (len(ordered) - 1))],
        "p99_ms": 1000 * ordered[int(0.99 * (len(ordered) - 1))],
        "cpu_ms": 1000 * spent / len(ordered),
    }


def run(
    name: str, bundle: str, data: bytes, seconds: float, clients: list[int], device: str
) -> list[dict]:
    """Start one server, load it, stop it."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, __file__, "--bundle", bundle, "--child", name, "--port", str(port)]
    command += ["--device", device]
    url, request = f"http://127.0.0.1:{port}", request_of(name, data)
    with ExitStack() as stack:
        log = stack.enter_context(tempfile.TemporaryFile("w+"))
        process = subprocess.Popen(command, stdout=log, stderr=log)
        stack.callback(stop, process)
        try:
            wait_until_up(url, request, process)
        except AssertionError:
            log.seek(0)
            print(log.read()[-2000:], file=sys.stderr)
            raise
        measure(url, request, 4, min(seconds, 3), process)
        return [{"server": name} | measure(url, request, n, seconds, process) for n in clients]


def wait_until_up(url: str, request: dict, process: subprocess.Popen) -> None:
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end:
        assert process.poll() is None, "the server ended"
        with suppress(requests.ConnectionError, requests.Timeout):
            answer = requests.post(f"{url}/v1/predict", **request, timeout=10)
            if answer.ok:
                return
            # Ray Serve's proxy says 404 until the application is there.
            assert answer.status_code in (404, 503), answer.text
        time.sleep(0.5)
    raise AssertionError("the server does not answer")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bundle", required=True)
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 16])
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--results", type=Path)
    parser.add_argument("--child", choices=SERVERS, help=argparse.SUPPRESS)
    parser.add_argument("--port", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        globals()[f"serve_{arguments.child}"](arguments.bundle, arguments.port, arguments.device)
        return
    cell = render(draw_cells(SyntheticSpec(cells=2, subjects=2))[0])
    out = io.BytesIO()
    Image.fromarray(cell).save(out, "PNG")
    rows: list[dict] = []
    for name in SERVERS:
        if name == "litserve" and importlib.util.find_spec("litserve") is None:
            print("litserve: not installed, left out")
            continue
        if name == "litserve" and arguments.device != "cpu":
            print("litserve: its peer is written for the CPU, left out")
            continue
        data, clients = out.getvalue(), arguments.clients
        rows += run(name, arguments.bundle, data, arguments.seconds, clients, arguments.device)
    base = {
        row["clients"]: row["requests_per_second"] for row in rows if row["server"] == "fastapi"
    }
    alone = bare(arguments.bundle, out.getvalue(), arguments.device)
    print(f"decoding and engine alone: {alone:.1f} ms of CPU time an image")
    print(
        f"{'server':10} {'clients':>7} {'req/s':>8} {'of fastapi':>10} {'median':>9} {'p95':>9} "
        f"{'more CPU':>9}"
    )
    for row in rows:
        row["of_fastapi"] = row["requests_per_second"] / base[row["clients"]]
        row["more_cpu_ms"] = row["cpu_ms"] - alone
        print(
            f"{row['server']:10} {row['clients']:7} {row['requests_per_second']:8.1f} "
            f"{row['of_fastapi']:10.2f} {row['median_ms']:6.1f} ms {row['p95_ms']:6.1f} ms "
            f"{row['more_cpu_ms']:6.1f} ms"
        )
    results = []
    for row in rows:
        name = f"serve, {row['clients']} clients"
        if row["server"] == "leuk_ray":
            results += [
                Result(f"{name}, of FastAPI", [row["of_fastapi"]], 1),
                Result(name, [row["requests_per_second"]], unit="requests/s"),
                Result(f"{name}: median", [row["median_ms"]], unit="ms"),
                Result(f"{name}: 99th percentile", [row["p99_ms"]], unit="ms"),
            ]
    finish(results, arguments.results)


if __name__ == "__main__":
    main()
