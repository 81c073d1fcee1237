"""cluster/README.md, as it stands: every block marked `bash` is run, in order, on several nodes.

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
import urllib.request
from collections.abc import Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import promql_parser
import pytest
import requests
import yaml

from leuk_ray.datasets.synthetic import SyntheticSpec, write_c_nmc
from leuk_ray.training.attempts import attempts
from leuk_ray.training.monitoring import GAUGES, PREFIX
from tests.support.job_cluster import ROOT, JobCluster, free_port
from tests.support.readme_blocks import blocks

# What the text leaves to the defaults is made small: added to the lines that hold these words.
# Epochs take half a second; the metrics are exported every ten.
SMALL = {
    "submit prepare": "--size 64",
    "train lite": "weights=scratch frozen_norm=none input_size=64 epochs=20 batch_size=12",
    "submit tune": "trials=2 top=1 overrides.weights=scratch overrides.frozen_norm=none",
}
README = ROOT / "cluster" / "README.md"
# Beside a clean checkout: what is no part of it, and the tests.
LEFT_OUT = {".git", ".venv", ".hypothesis", "tests", "demo", "runs", "sweeps"}


@dataclass(frozen=True)
class RunKey:
    """share: what all nodes see. checkout: a clean one, in which the commands are typed."""

    share: Path
    checkout: Path
    port: int

    def here(self, text: str) -> str:
        """The text with the share, the image's files and the port of this machine."""
        text = text.replace("/shared", str(self.share))
        text = text.replace("/opt/leuk-ray", str(self.checkout))
        return re.sub(r"\b8000\b", str(self.port), text)


def not_checked_out(folder: str, names: list[str]) -> set[str]:
    """For copytree: the package has rooms of the same names as folders that commands leave."""
    caches = {name for name in names if name == "__pycache__" or name.endswith("_cache")}
    return caches | (LEFT_OUT & set(names) if Path(folder) == ROOT else set())


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> RunKey:
    """SYNTHETIC images as they are downloaded, and some new ones."""
    folder = tmp_path_factory.mktemp("cluster")
    share, checkout = folder / "share", folder / "checkout"
    write_c_nmc(share / "C-NMC_Leukemia", SyntheticSpec(cells=96, subjects=18, seed=3))
    (share / "new_cells").mkdir()
    for cell in sorted((share / "C-NMC_Leukemia").rglob("*.bmp"))[:5]:
        shutil.copy(cell, share / "new_cells")
    shutil.copytree(ROOT, checkout, ignore=not_checked_out)
    shutil.copy(next((share / "new_cells").iterdir()), checkout / "cell.bmp")
    found = RunKey(share, checkout, free_port())
    config = checkout / "cluster" / "serve.yaml"
    config.write_text(found.here(config.read_text()))
    return found


@contextmanager
def job_cluster(num_nodes: int, cpus: int) -> Generator[JobCluster]:
    nodes = JobCluster(num_nodes, cpus)
    try:
        yield nodes
    finally:
        nodes.stop()


def run(cluster: JobCluster, place: RunKey, texts: list[str]) -> str:
    """Type the blocks one after the other into one shell; what they print."""
    script = []
    for line in place.here("\n".join(texts)).splitlines():
        added = [small for words, small in SMALL.items() if words in line]
        script.append(" ".join([line, *added]))
    done = subprocess.run(
        ["bash", "-euxo", "pipefail", "-c", "\n".join(script)],
        env=cluster.environment | {"HOME": str(place.share.parent)},
        cwd=place.checkout,
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-6000:]
    return done.stdout


@pytest.fixture(scope="module")
def exported_by_training(place: RunKey) -> set[str]:
    """The first block: images become a model, on three nodes, since each has one CPU."""
    first, *_ = blocks(README, "bash")
    with job_cluster(num_nodes=4, cpus=1) as cluster, exported_names(cluster.metrics) as seen:
        run(cluster, place, [first])
    return seen


@contextmanager
def exported_names(discovery: Path) -> Generator[set[str]]:
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


@pytest.mark.timeout(1000)
def test_images_become_a_model_on_three_nodes(exported_by_training: set[str], place: RunKey):
    trained = place.share / "runs" / "lite"
    assert (trained / "bundle" / "bundle.json").exists()
    assert (trained / "report" / "report.html").exists()
    assert [attempt["workers"] for attempt in attempts(trained)] == [3]
    assert {f"ray_{PREFIX}{name}" for name in GAUGES} <= exported_by_training


@pytest.mark.timeout(1000)
def test_a_model_is_searched_asked_and_served_and_every_metric_named_is_exported(
    exported_by_training: set[str], place: RunKey
):
    _, *others = blocks(README, "bash")
    absent = ("shadow", "broken", "guarantee")  # none is here
    wanted = {name for name in metrics_named() if not any(word in name for word in absent)}
    with job_cluster(num_nodes=2, cpus=2) as cluster, exported_names(cluster.metrics) as seen:
        printed = run(cluster, place, others)
        ask_much(f"http://127.0.0.1:{place.port}", place.share)
        deadline = time.monotonic() + 40
        while not wanted <= seen | exported_by_training and time.monotonic() < deadline:
            time.sleep(1)
    answer, _ = json.JSONDecoder().raw_decode(printed[printed.index('{"model"') :])
    assert answer["predictions"][0]["label"] in ("ALL", "healthy", "abstain")
    assert len((place.share / "answers.csv").read_text().splitlines()) == 1 + 5
    for folder in ("sweeps/quick/winner", "registry.restored/lite/versions/2"):
        assert (place.share / folder).is_dir()
    assert wanted - seen - exported_by_training == set()


def ask_much(url: str, share: Path) -> None:
    """As many cells as the drift alarm looks at, one file that is none, and a request too many."""
    key = {"X-API-Key": "of-this-test"}
    digest = hashlib.sha256(key["X-API-Key"].encode()).hexdigest()
    with (share / "keys" / "api-keys").open("a") as file:
        file.write(f"test {digest}\n")
    time.sleep(1.5)  # until it is read again
    cells = [path.read_bytes() for path in sorted((share / "C-NMC_Leukemia").rglob("*.bmp"))]
    files = [("file", (f"{number}.bmp", cell)) for number, cell in enumerate(cells)]
    for half in [files[:48], files[48:]] * 3:
        answer = requests.post(f"{url}/v1/predict", files=half, headers=key, timeout=60)
        assert answer.status_code == 200, answer.text
    refused = requests.post(f"{url}/v1/predict", data=b"no image", headers=key, timeout=60)
    assert refused.status_code in (415, 422)
