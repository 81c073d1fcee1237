"""Jobs on a Ray of two nodes with token authentication, through the dashboard's job API."""

from __future__ import annotations

import json
import os
import re
import secrets
import shlex
import signal
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from leuk_ray.datasets.synthetic import SyntheticSpec, write_c_nmc
from tests.support.job_cluster import ROOT, JobCluster, free_port


@pytest.fixture(scope="module")
def cluster() -> Iterator[JobCluster]:
    nodes = JobCluster(num_nodes=2, cpus=2)
    yield nodes
    nodes.stop()


@pytest.mark.timeout(280)
def test_prepare_and_train_as_jobs_on_two_nodes(cluster: JobCluster, tmp_path: Path):
    write_c_nmc(tmp_path / "cells", SyntheticSpec(cells=48, subjects=12))
    dataset, run = tmp_path / "dataset", tmp_path / "runs" / "tiny"
    prepared = cluster.leuk_ray(
        tmp_path, "submit", "--working-dir", ROOT, "--json",
        "prepare", tmp_path / "cells", dataset, "--layout", "c-nmc", "--size", "64",
    )  # fmt: skip
    assert prepared.returncode == 0, prepared.stderr
    assert "50 files in = 48 rows out + 0 rejected + 2 skipped" in prepared.stderr, "the job's log"
    assert "WebSocket" not in prepared.stderr
    outcome = json.loads(prepared.stdout)
    assert (outcome["status"], outcome["exit_code"]) == ("SUCCEEDED", 0)
    trained = cluster.leuk_ray(
        tmp_path, "submit", "--name", "tiny",
        "train", "lite", "--data", dataset, "--out", run, "--workers", 3,
        "weights=scratch", "frozen_norm=none", "input_size=64", "epochs=1", "batch_size=12",
    )  # fmt: skip
    assert trained.returncode == 0, trained.stderr
    assert trained.stdout == "job tiny: succeeded\n"
    assert (run / "report" / "report.html").exists()
    assert (run / "bundle" / "bundle.json").exists()


@pytest.mark.timeout(120)
def test_what_the_cluster_cannot_do_is_told_before_the_command_starts(
    cluster: JobCluster, tmp_path: Path
):
    refused = cluster.leuk_ray(
        tmp_path, "submit",
        "train", "lite", "--data", tmp_path, "--out", tmp_path / "run", "--workers", "50",
    )  # fmt: skip
    assert refused.returncode == 2, "the job's own exit code"
    assert "needs 50 CPUs and 1 for Ray Data, 51 in all; the cluster has 4" in refused.stderr
    assert "Traceback" not in refused.stderr
    assert not (tmp_path / "run").exists()


@pytest.mark.timeout(120)
def test_what_is_wrong_here_never_reaches_the_cluster(
    cluster: JobCluster, tmp_path: Path, monkeypatch
):
    for words, problem in (
        (["train", "lite", "--datta", "/d", "--out", "/o"], "--datta"),
        (["train", "lite", "--data", "here", "--out", "/o"], "submit: here: give the path as the"),
        (["trian", "lite"], "no such command"),
    ):
        done = cluster.leuk_ray(tmp_path, "submit", *words)
        assert done.returncode == 2
        assert problem in done.stderr
    monkeypatch.setitem(cluster.environment, "RAY_AUTH_TOKEN", secrets.token_hex(32))
    done = cluster.leuk_ray(tmp_path, "submit", "audit", "/d")
    assert done.returncode == 2
    assert "RAY_AUTH_TOKEN" in done.stderr
    assert "Traceback" not in done.stderr


def interrupt(cluster: JobCluster, process: subprocess.Popen, job: str) -> None:
    """Press Ctrl-C when the job is there and its log is followed."""
    client = cluster.client()
    deadline = time.monotonic() + 60
    while job not in [known.submission_id for known in client.list_jobs()]:
        assert time.monotonic() < deadline
        time.sleep(0.2)
    time.sleep(1)
    process.send_signal(signal.SIGINT)


@pytest.mark.timeout(120)
def test_ctrl_c_leaves_the_job_running_when_no_one_can_be_asked(
    cluster: JobCluster, tmp_path: Path
):
    process = cluster.start(tmp_path, "submit", "--name", "left", "audit", tmp_path)
    interrupt(cluster, process, "left")
    out, err = process.communicate(timeout=60)
    assert "ray job logs --follow left" in out, err
    assert process.returncode == 0
    cluster.client().stop_job("left")


@pytest.mark.timeout(120)
def test_ctrl_c_asks_and_stops_the_job(cluster: JobCluster, tmp_path: Path):
    terminal, theirs = os.openpty()
    process = cluster.start(
        tmp_path, "submit", "--name", "stopped", "audit", tmp_path, stdin=theirs
    )
    interrupt(cluster, process, "stopped")
    os.write(terminal, b"stop\n")
    out, err = process.communicate(timeout=60)
    assert "job stopped still runs: stop it, or detach" in err
    assert out == "job stopped: stopped\n"
    assert process.returncode == 1
    assert cluster.client().get_job_status("stopped") == "STOPPED"


@pytest.mark.timeout(150)
def test_a_node_that_does_not_share_the_folder_is_told_before_anything_starts(
    cluster: JobCluster, tmp_path: Path
):
    own = tmp_path / "share"  # here a folder, on the other node an empty disk of its own
    own.mkdir()
    hide = ["unshare", "--mount"] if os.geteuid() == 0 else ["unshare", "-Urm"]
    if subprocess.run([*hide, "mount", "-t", "tmpfs", "none", own], capture_output=True).returncode:
        pytest.skip("no mount namespace may be made here")
    write_c_nmc(own / "cells", SyntheticSpec(cells=48, subjects=12))
    start = ["ray", "start", "--address", cluster.address, "--num-cpus", "1", "--block"]
    mounted = f"mount -t tmpfs none {own} && exec {shlex.join(start)}"
    node = subprocess.Popen(
        [*hide, "bash", "-c", mounted],
        env=cluster.environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    try:
        assert node.stdout is not None
        next(line for line in node.stdout if "Ray runtime started" in line)
        prepare = ["prepare", own / "cells", own / "dataset", "--layout", "c-nmc"]
        for words in (["submit", *prepare], [*prepare, "--address", cluster.address]):
            refused = cluster.leuk_ray(tmp_path, *words)
            assert refused.returncode == 2, refused.stderr
            assert "does not see it, or not the same folder" in refused.stderr
            assert "NFS" in refused.stderr
    finally:
        node.terminate()
        node.wait(timeout=60)


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
def test_ray_exports_the_metrics_that_alerts_and_dashboard_name(
    cluster: JobCluster, tmp_path: Path
):
    (tmp_path / "answer.py").write_text(SERVING)
    wanted = set(json.loads((ROOT / "tests" / "support" / "metrics_of_ray.json").read_text()))
    client = cluster.client()
    command = shlex.join(["python", str(tmp_path / "answer.py"), str(free_port())])
    job = client.submit_job(entrypoint=command)
    seen: set[str] = set()
    deadline = time.monotonic() + 100
    while not wanted <= seen and time.monotonic() < deadline:
        time.sleep(2)
        assert not client.get_job_status(job).is_terminal(), client.get_job_logs(job)
        seen = exported_names(cluster.metrics)
    client.stop_job(job)
    assert wanted - seen == set()


def exported_names(discovery: Path) -> set[str]:
    """Names of the metrics of all nodes, found as Prometheus finds the nodes."""
    names: set[str] = set()
    for group in json.loads(discovery.read_text()):
        for target in group["targets"]:
            with suppress(OSError), urllib.request.urlopen(f"http://{target}/metrics") as answer:
                names |= set(re.findall(r"^(ray_\w+)\{", answer.read().decode(), re.MULTILINE))
    return names
