"""Jobs on a Ray of two nodes with token authentication, through the dashboard's job API."""

from __future__ import annotations

import json
import os
import re
import secrets
import shlex
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from ray.job_submission import JobSubmissionClient

from leuk_ray.datasets.synthetic import SyntheticSpec, write_c_nmc

ROOT = Path(__file__).parents[2]
HERE = Path(__file__).parent
CPUS_A_NODE = 2


@pytest.fixture(scope="module")
def environment() -> Iterator[dict[str, str]]:
    """What a user of the running cluster has in the environment."""
    port = free_port()
    own = {k: v for k, v in os.environ.items() if k not in ("RAY_ADDRESS", "RAY_AUTH_TOKEN_PATH")}
    own |= {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{own['PATH']}",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "RAY_worker_niceness": "0",
    }
    command = [sys.executable, str(HERE / "two_nodes.py"), str(port), str(CPUS_A_NODE)]
    cluster = subprocess.Popen(
        command, env=own, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert cluster.stdin is not None
    assert cluster.stdout is not None
    metrics = next(line.split()[1] for line in cluster.stdout if line.startswith("ready"))
    yield own | {"RAY_API_SERVER_ADDRESS": f"http://127.0.0.1:{port}", "RAY_METRICS": metrics}
    cluster.stdin.close()
    cluster.wait(timeout=60)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def job_client(environment: dict[str, str]) -> JobSubmissionClient:
    """Ray's own client; this process read its environment long ago, so the token goes along."""
    token = {"Authorization": f"Bearer {environment['RAY_AUTH_TOKEN']}"}
    return JobSubmissionClient(environment["RAY_API_SERVER_ADDRESS"], headers=token)


def leuk_ray(environment: dict[str, str], folder: Path, *words: object):
    return subprocess.run(
        [sys.executable, "-m", "leuk_ray.cli", *map(str, words)],
        env=environment,
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=200,
    )


@pytest.mark.timeout(280)
def test_prepare_and_train_as_jobs_on_two_nodes(environment, tmp_path: Path):
    write_c_nmc(tmp_path / "cells", SyntheticSpec(cells=48, subjects=12))
    dataset, run = tmp_path / "dataset", tmp_path / "runs" / "tiny"
    prepared = leuk_ray(
        environment, tmp_path, "submit", "--working-dir", ROOT, "--json",
        "prepare", tmp_path / "cells", dataset, "--layout", "c-nmc", "--size", "64",
    )  # fmt: skip
    assert prepared.returncode == 0, prepared.stderr
    assert "48 images in = 48 rows out + 0 rejected" in prepared.stderr, "the job's log"
    outcome = json.loads(prepared.stdout)
    assert (outcome["status"], outcome["exit_code"]) == ("SUCCEEDED", 0)
    trained = leuk_ray(
        environment, tmp_path, "submit", "--name", "tiny",
        "train", "lite", "--data", dataset, "--out", run, "--workers", CPUS_A_NODE + 1,
        "weights=scratch", "frozen_norm=none", "input_size=64", "epochs=1", "batch_size=12",
    )  # fmt: skip
    assert trained.returncode == 0, trained.stderr
    assert trained.stdout == "job tiny: succeeded\n"
    assert (run / "report" / "report.html").exists()
    assert (run / "bundle" / "bundle.json").exists()


@pytest.mark.timeout(120)
def test_what_the_cluster_cannot_do_is_told_before_the_command_starts(environment, tmp_path: Path):
    refused = leuk_ray(
        environment, tmp_path, "submit",
        "train", "lite", "--data", tmp_path, "--out", tmp_path / "run", "--workers", "50",
    )  # fmt: skip
    assert refused.returncode == 2, "the job's own exit code"
    assert "needs 50 CPUs and 1 for Ray Data, 51 in all; the cluster has 4" in refused.stderr
    assert "Traceback" not in refused.stderr
    assert not (tmp_path / "run").exists()


@pytest.mark.timeout(120)
def test_what_is_wrong_here_never_reaches_the_cluster(environment, tmp_path: Path):
    for words, problem in (
        (["train", "lite", "--datta", "/d", "--out", "/o"], "--datta"),
        (["train", "lite", "--data", "here", "--out", "/o"], "submit: here: give the path as the"),
        (["trian", "lite"], "no such command"),
    ):
        done = leuk_ray(environment, tmp_path, "submit", *words)
        assert done.returncode == 2
        assert problem in done.stderr
    wrong = environment | {"RAY_AUTH_TOKEN": secrets.token_hex(32)}
    done = leuk_ray(wrong, tmp_path, "submit", "audit", "/d")
    assert done.returncode == 2
    assert "RAY_AUTH_TOKEN" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.timeout(120)
def test_ctrl_c_leaves_the_job_running_when_no_one_can_be_asked(environment, tmp_path: Path):
    command = [sys.executable, "-m", "leuk_ray.cli", "submit", "--name", "left", "audit", tmp_path]
    process = subprocess.Popen(
        command,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    client = job_client(environment)
    deadline = time.monotonic() + 60
    while "left" not in [job.submission_id for job in client.list_jobs()]:
        assert time.monotonic() < deadline
        time.sleep(0.2)
    time.sleep(1)  # until it follows the log
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert "ray job logs --follow left" in out, err
    assert process.returncode == 0
    client.stop_job("left")


SERVING = """
import sys, time, urllib.error, urllib.request
from ray import serve

@serve.deployment(ray_actor_options={"num_cpus": 0})
class Answer:
    def __call__(self, request):
        if request.url.path == "/broken":
            raise ValueError("broken on purpose")
        return "ok"

serve.start(http_options={"port": int(sys.argv[1])})
serve.run(Answer.bind())
for path in ("", "broken"):
    try:
        urllib.request.urlopen(f"http://127.0.0.1:{sys.argv[1]}/{path}").read()
    except urllib.error.HTTPError as error:
        assert error.code == 500
time.sleep(600)
"""


@pytest.mark.timeout(150)
def test_ray_exports_the_metrics_that_alerts_and_dashboard_name(environment, tmp_path: Path):
    (tmp_path / "answer.py").write_text(SERVING)
    wanted = set(json.loads((ROOT / "tests" / "metrics_of_ray.json").read_text()))
    client = job_client(environment)
    command = shlex.join(["python", str(tmp_path / "answer.py"), str(free_port())])
    job = client.submit_job(entrypoint=command)
    seen: set[str] = set()
    deadline = time.monotonic() + 100
    while not wanted <= seen and time.monotonic() < deadline:
        time.sleep(2)
        assert not client.get_job_status(job).is_terminal(), client.get_job_logs(job)
        seen = exported_names(environment["RAY_METRICS"])
    client.stop_job(job)
    assert wanted - seen == set()


def exported_names(folder: str) -> set[str]:
    """Names of the metrics of all nodes, found as Prometheus finds the nodes."""
    discovery = Path(folder) / "prom_metrics_service_discovery.json"
    names: set[str] = set()
    for group in json.loads(discovery.read_text()):
        for target in group["targets"]:
            with suppress(OSError), urllib.request.urlopen(f"http://{target}/metrics") as answer:
                names |= set(re.findall(r"^(ray_\w+)\{", answer.read().decode(), re.MULTILINE))
    return names
