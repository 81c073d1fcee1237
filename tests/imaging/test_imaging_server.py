"""The Imaging Server Kit's own client, and napari, ask through `leuk-ray imaging-server`."""

from __future__ import annotations

import hashlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator

import numpy as np
import pytest
import requests

from leuk_ray.serving.client import Client
from leuk_ray.serving.field_schemas import FieldCellOut
from leuk_ray.serving.schemas import PredictionOut
from tests.imaging.conftest import OFFLINE
from tests.support.serving_bundles import cells, encode, listening, write_small_bundle
from tests.support.small_fields import PIXELS_PER_UM, rendered

sk = pytest.importorskip("imaging_server_kit", reason="pip install 'leuk_ray[imaging]'")
KEY = "secret of the laboratory"
LEUK_RAY = (sys.executable, "-c", f"{OFFLINE}\nfrom leuk_ray.cli.main import main; main()")


@pytest.fixture(scope="module")
def service(tmp_path_factory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("service")
    keys = folder / "keys"
    keys.write_text(f"lab {hashlib.sha256(KEY.encode()).hexdigest()}\n")
    with listening(write_small_bundle(folder / "small"), keys=keys) as url:
        yield url


@pytest.fixture(scope="module")
def kit(service: str) -> Iterator[str]:
    """Address of `leuk-ray imaging-server`, which has the key that its clients lack."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    process = subprocess.Popen(
        [*LEUK_RAY, "imaging-server", service, "--port", port],
        env=os.environ | {"LEUK_RAY_API_KEY": KEY},
    )
    url, end = f"http://127.0.0.1:{port}", time.monotonic() + 100
    while True:
        assert process.poll() is None
        assert time.monotonic() < end
        try:
            requests.get(f"{url}/version", timeout=5).raise_for_status()
            break
        except requests.ConnectionError:
            time.sleep(0.2)
    yield url
    process.terminate()
    assert process.wait(20) in (0, -signal.SIGTERM)


@pytest.fixture(scope="module")
def expected(service: str) -> list[FieldCellOut]:
    file = ("f.png", encode(rendered(0, 3)[0]))
    with Client(service, KEY) as client:
        return client.fields(file, pixels_per_um=PIXELS_PER_UM).fields[0].cells


def test_a_field_comes_back_as_boxes_with_the_answers_of_the_service(kit: str, expected):
    client = sk.Client(kit)
    assert client.algorithms == ["field", "cell"]
    answer = client.run(rendered(0, 3)[0], PIXELS_PER_UM, algorithm="field")
    found = {}
    for layer in answer.layers[:-1]:
        assert layer.kind == "boxes"
        shares = layer.meta["features"]
        for box, share in zip(layer.data, shares["probability ALL"], strict=True):
            (y0, x0), (y1, x1) = box.min(axis=0), box.max(axis=0)
            found[x0, y0, x1, y1] = (layer.name, pytest.approx(share, abs=1e-6))
    assert {
        (cell.x0, cell.y0, cell.x1, cell.y1): (cell.label, cell.probabilities["ALL"])
        for cell in expected
    } == found
    assert len(found) == 3
    assert "3 cells" in answer.layers[-1].data
    assert "not a diagnosis" in answer.layers[-1].data


def test_a_cell_and_what_is_none(kit: str, service: str):
    client, pixels = sk.Client(kit), cells(1)[0]
    with Client(service, KEY) as direct:
        (expected,) = direct.predict(("a.png", encode(pixels))).predictions
    assert isinstance(expected, PredictionOut)
    (answer,) = client.run(pixels, algorithm="cell").layers
    assert answer.data.startswith(expected.label)
    assert f"ALL {expected.probabilities['ALL']:.3f}" in answer.data
    (answer,) = client.run(np.zeros((480, 640, 3), np.uint8), algorithm="field").layers
    assert answer.data.startswith("refused")
    (answer,) = client.run(np.zeros((40, 40, 3)), algorithm="cell").layers
    assert (answer.meta["level"], answer.data) == (
        "error", "an image of float64: give one of 8 bits a channel",
    )  # fmt: skip


def test_pages_of_other_sites_are_refused(kit: str):
    for headers in ({"Host": "cells.example"}, {"Origin": "https://elsewhere.example"}):
        answer = requests.get(f"{kit}/algorithms", headers=headers, timeout=10)
        assert answer.status_code == 403


def test_a_service_that_is_not_there_or_wants_another_key_is_named(kit: str, service: str):
    taken = kit.rpartition(":")[2]
    for url, key, port, said in (
        (service, "wrong", "8010", "401"),
        ("http://127.0.0.1:9", KEY, "8010", "not answer"),
        (service, KEY, taken, "cannot be listened on"),
    ):
        done = subprocess.run(
            [*LEUK_RAY, "imaging-server", url, "--port", port],
            env=os.environ | {"LEUK_RAY_API_KEY": key},
            capture_output=True, text=True, timeout=100,
        )  # fmt: skip
        assert done.returncode == 2
        assert said in done.stderr
        assert done.stderr.count("\n") == 1
        assert key not in done.stderr


def test_napari_shows_the_boxes(kit: str, expected):
    napari = pytest.importorskip("napari", reason="pip install 'napari[pyqt6]'")
    viewer = napari.Viewer(show=False)
    try:
        client = sk.Client(kit)
        client.run(rendered(0, 3)[0], PIXELS_PER_UM, algorithm="field", stack=viewer)
        shapes = [layer for layer in viewer.layers if isinstance(layer, napari.layers.Shapes)]
        assert {layer.name for layer in shapes} == {cell.label for cell in expected}
        assert sum(len(layer.data) for layer in shapes) == len(expected)
        assert {"class", "probability ALL"} <= set(shapes[0].features.columns)
    finally:
        viewer.close()
