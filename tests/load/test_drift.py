"""Drift as the service sees it: pictures over HTTP, the alarm in /v1/models. On demand.

SYNTHETIC cells always, and the real ones where LEUK_RAY_REAL_DATA names them.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import numpy as np
import pytest
import ray
import requests

from leuk_ray.cluster import ray_cluster
from leuk_ray.datasets.images import StorageSettings, decode
from leuk_ray.datasets.prepare import prepare
from leuk_ray.datasets.prepared import PreparedDataset
from leuk_ray.datasets.splits import rows_with_role
from leuk_ray.datasets.synthetic import SyntheticSpec, write_c_nmc
from leuk_ray.recipes.recipe import load_recipe
from leuk_ray.runs.placement import Resources
from leuk_ray.runs.spec import RunSpec, make_splits
from leuk_ray.runs.target import EvaluationTarget
from leuk_ray.runs.trial import TrialContext, train_in_process
from leuk_ray.serving.drift import WINDOW
from leuk_ray.workflows.calibrate import calibrate
from tests.support.serving_bundles import encode, listening, turned

ORDINARY, SOON, DEGREES = 5000, 500, 20
SETTINGS = ["input_size=96", "epochs=2", "fractions=[0.4,0.2,0.4]"]


@pytest.fixture(scope="module", params=["synthetic", "real"])
def cells(request, tmp_path_factory) -> Path:
    if request.param == "synthetic":
        folder = tmp_path_factory.mktemp("synthetic")
        write_c_nmc(folder, SyntheticSpec(cells=200, subjects=50, seed=4))
        return folder
    if "LEUK_RAY_REAL_DATA" not in os.environ:
        pytest.skip("LEUK_RAY_REAL_DATA is not set: no real cells")
    return Path(os.environ["LEUK_RAY_REAL_DATA"]) / "cnmc2019"


@pytest.fixture(scope="module")
def service(cells: Path, tmp_path_factory) -> Iterator[tuple[str, list[Path]]]:
    """A trained and calibrated network that listens, and the files of its test subjects."""
    folder = tmp_path_factory.mktemp("drift")
    ray_cluster.connect(num_workers=1)
    prepare(cells, folder / "dataset", "c-nmc", StorageSettings(size=96))
    ray.shutdown()
    dataset = PreparedDataset.open(str(folder / "dataset"))
    spec = RunSpec("lite", load_recipe("lite", SETTINGS), {})
    splits = make_splits(dataset, [spec.resolved])
    shared = TrialContext(
        folder, dataset, splits, Resources(), side_by_side=1, evaluated=False, checkpoints=False
    )
    train_in_process(spec, shared, lambda metrics, save: None)
    calibrate(EvaluationTarget.at(str(folder / "lite")), dataset, folder / "bundle")
    (split,) = splits.values()
    uids = dataset.cells["uid"].take(rows_with_role(dataset.cells, split, ("test",)))
    files = {path.stem: path for path in cells.rglob("*.bmp")}
    with listening(folder / "bundle") as url:
        yield url, [files[uid] for uid in uids.to_pylist()]


def drift(url: str) -> dict | None:
    (model,) = requests.get(f"{url}/v1/models", timeout=10).json()["models"]
    return model["drift"]


def test_ordinary_pictures_raise_no_alarm_and_a_turned_hue_soon_does(service):
    url, files = service
    pixels = [decode(path.read_bytes()) for path in files]
    ordinary = [encode(cell) for cell in pixels]
    changed = [encode(turned(cell, DEGREES)) for cell in pixels]
    generator = np.random.default_rng(0)
    highest = 0.0
    with requests.Session() as session:

        def send(bodies: list[bytes]) -> dict | None:
            body = bodies[generator.integers(len(bodies))]
            assert session.post(f"{url}/v1/predict", data=body, timeout=30).ok
            return drift(url)

        for number in range(ORDINARY):
            seen = send(ordinary)
            assert (seen is None) == (number + 1 < WINDOW)
            highest = max(highest, abs(seen["effect"]) if seen else 0.0)
            assert seen is None or not seen["alarm"], (number, seen)
        for needed in count(1):
            seen = send(changed)
            assert seen is not None
            if seen["alarm"]:
                print(
                    f"{len(files)} test cells: {ORDINARY} ordinary requests stray by {highest:.2f} "
                    f"at most; hue turned by {DEGREES} degrees: alarm after {needed} "
                    f"({seen['name']})"
                )
                break
            assert needed < SOON, seen
