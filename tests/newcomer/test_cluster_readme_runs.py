"""cluster/README.md, run as it stands: every block marked `bash`, in order, on a Ray of four nodes.

From images to a served model through jobs, with token authentication; and every metric that the
dashboard and the alerts name is exported on the way.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import promql_parser
import pytest
import requests
import yaml

from leuk_ray.datasets.synthetic import SyntheticSpec, write_c_nmc
from tests.job_cluster import ROOT, JobCluster, free_port
from tests.readme_blocks import blocks

# What the text leaves to the defaults is made small: added to the lines that hold these words.
SMALL = {
    "submit prepare": "--size 64",
    "train lite": "weights=scratch frozen_norm=none input_size=64 epochs=1 batch_size=12",
    "submit tune": "trials=2 top=1 overrides.weights=scratch overrides.frozen_norm=none",
}
LEFT_OUT = (".git", ".venv", "__pycache__", ".*_cache", "tests", "demo", "runs", "sweeps")


@pytest.fixture
def cluster() -> Iterator[JobCluster]:
    """A CPU a node, so that three workers are on three nodes."""
    nodes = JobCluster(num_nodes=4, cpus=1)
    yield nodes
    nodes.stop()


@pytest.fixture
def share(tmp_path: Path) -> Path:
    """What all nodes see: SYNTHETIC images as they are downloaded, and some new ones."""
    folder = tmp_path / "share"
    write_c_nmc(folder / "C-NMC_Leukemia", SyntheticSpec(cells=96, subjects=18, seed=3))
    (folder / "new_cells").mkdir()
    for cell in sorted((folder / "C-NMC_Leukemia").rglob("*.bmp"))[:5]:
        shutil.copy(cell, folder / "new_cells")
    return folder


@pytest.fixture
def checkout(tmp_path: Path, share: Path) -> Path:
    folder = tmp_path / "checkout"
    shutil.copytree(ROOT, folder, ignore=shutil.ignore_patterns(*LEFT_OUT))
    shutil.copy(next((share / "new_cells").iterdir()), folder / "cell.bmp")
    return folder


@contextmanager
def exported_names(discovery: Path) -> Iterator[set[str]]:
    """Names of all metrics that any node exports while the block runs."""
    names: set[str] = set()
    over = threading.Event()

    def look() -> None:
        while not over.wait(2):
            for group in json.loads(discovery.read_text()):
                for target in group["targets"]:
                    with (
                        suppress(OSError),
                        urllib.request.urlopen(f"http://{target}/metrics") as got,
                    ):
                        found = re.findall(r"^(ray_\w+)\{", got.read().decode(), re.MULTILINE)
                        names.update(found)

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    yield names
    over.set()
    thread.join(timeout=30)


def metrics_named() -> set[str]:
    """By the dashboard and the alerts."""
    folder = ROOT / "cluster" / "monitoring"
    groups = yaml.safe_load((folder / "alerts.yaml").read_text())["groups"]
    expressions = [rule["expr"] for group in groups for rule in group["rules"]]
    for panel in json.loads((folder / "grafana.json").read_text())["panels"]:
        expressions += [t["expr"].replace("$run", ".*") for t in panel.get("targets", [])]
    parsed = [promql_parser.parse(expression).prettify() for expression in expressions]
    return set().union(*(re.findall(r"\bray_\w+", text) for text in parsed))


@pytest.mark.timeout(600)
def test_the_text_runs_and_every_metric_that_is_named_is_exported(
    cluster: JobCluster, share: Path, checkout: Path, tmp_path: Path
):
    port = str(free_port())

    def here(text: str) -> str:
        text = text.replace("/shared", str(share)).replace("/opt/leuk-ray", str(checkout))
        return re.sub(r"\b8000\b", port, text)

    config = checkout / "cluster" / "serve.yaml"
    config.write_text(here(config.read_text()))
    script = []
    for line in here("\n".join(blocks(checkout / "cluster" / "README.md", "bash"))).splitlines():
        added = [small for words, small in SMALL.items() if words in line]
        script.append(" ".join([line, *added]))
    with exported_names(cluster.metrics) as seen:
        done = subprocess.run(
            ["bash", "-euxo", "pipefail", "-c", "\n".join(script)],
            env=cluster.environment | {"HOME": str(tmp_path)},
            cwd=checkout,
            capture_output=True,
            text=True,
            timeout=500,
        )
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-6000:]
        printed = done.stdout[done.stdout.index('{"model"') :]
        answer, _ = json.JSONDecoder().raw_decode(printed)
        assert answer["predictions"][0]["label"] in ("ALL", "healthy", "abstain")
        assert len((share / "answers.csv").read_text().splitlines()) == 1 + 5
        for folder in ("runs/lite/report", "sweeps/quick/winner", "registry.restored/lite"):
            assert (share / folder).is_dir()
        wanted = metrics_named()
        ask_much(f"http://127.0.0.1:{port}", share)
        deadline = time.monotonic() + 40
        while not wanted <= seen and time.monotonic() < deadline:
            time.sleep(1)
    assert wanted - seen == set()


def ask_much(url: str, share: Path) -> None:
    """As many cells as the drift alarm looks at, one file that is none, and a request too many."""
    key = {"X-API-Key": "of-this-test"}
    digest = hashlib.sha256(key["X-API-Key"].encode()).hexdigest()
    with (share / "api-keys").open("a") as file:
        file.write(f"test {digest}\n")
    time.sleep(1.5)  # until it is read again
    cells = [path.read_bytes() for path in sorted((share / "C-NMC_Leukemia").rglob("*.bmp"))]
    files = [("file", (f"{number}.bmp", cell)) for number, cell in enumerate(cells)]
    for half in [files[:48], files[48:]] * 3:
        answer = requests.post(f"{url}/v1/predict", files=half, headers=key, timeout=60)
        assert answer.status_code == 200, answer.text
    refused = requests.post(f"{url}/v1/predict", data=b"no image", headers=key, timeout=60)
    assert refused.status_code in (415, 422)
