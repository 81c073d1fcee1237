"""Small bundles, images and the application without Ray, for the tests of the service."""

from __future__ import annotations

import colorsys
import io
import threading
import time
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
import uvicorn
from anyio.from_thread import BlockingPortal
from PIL import Image
from starlette.testclient import TestClient

from leuk_ray.bundles.bundle import write_bundle
from leuk_ray.bundles.manifest import ModelManifest
from leuk_ray.datasets.images import StorageSettings
from leuk_ray.datasets.synthetic import SyntheticSpec, draw_cells, render
from leuk_ray.inference.predictions import Failure, Prediction
from leuk_ray.models.settings import ModelSettings
from leuk_ray.models.zoo import build
from leuk_ray.serving.api import create_api
from leuk_ray.serving.keys import ApiKeys
from leuk_ray.serving.models import Models
from leuk_ray.serving.monitoring import Metrics
from leuk_ray.serving.replica import local_runners
from leuk_ray.serving.served_model import LocalBackend, ServedModel
from leuk_ray.serving.settings import Limits, ServeSettings

SIZE = 96
LOOPBACK = "http://127.0.0.1"


def plain_manifest(**changes) -> ModelManifest:
    """What bundle.json of a bundle that is not calibrated says, with changes."""
    base = {
        "model": ModelSettings(), "storage": StorageSettings(), "synthetic": True, "seed": 0,
        "protocol": "subject-disjoint", "dataset_fingerprint": "0" * 64, "recipe": "lite",
    }  # fmt: skip
    return ModelManifest(**(base | changes))


def write_small_bundle(path: Path, seed: int = 0, **changes) -> Path:
    """An untrained SE-CNN, which answers in a millisecond."""
    settings = ModelSettings(
        architecture="se_cnn", attention="se", input_size=64, filters=(8, 16, 32), reduction=4,
        weights="scratch",
    )  # fmt: skip
    manifest = ModelManifest(**{
        "model": settings, "storage": StorageSettings(size=SIZE, crop="center"),
        "synthetic": True, "protocol": "subject-disjoint", "dataset_fingerprint": "0" * 64,
        "recipe": "small", "seed": seed, **changes,
    })  # fmt: skip
    torch.manual_seed(seed)
    model = build(settings, load_weights=True, num_classes=len(manifest.classes))
    write_bundle(path, manifest, model.eval())
    return path


def predictions(answers: Iterable[Prediction | Failure]) -> list[Prediction]:
    """Answers, none of which is a failure."""
    listed = list(answers)
    good = [one for one in listed if isinstance(one, Prediction)]
    assert len(good) == len(listed), listed
    return good


def models_of(client: TestClient) -> Models:
    """The models behind a client's application."""
    application: Any = client.app
    return application.state.models


def portal_of(client: TestClient) -> BlockingPortal:
    """Where to call what the event loop of a started application runs."""
    assert client.portal is not None
    return client.portal


def network_here(served: ServedModel) -> LocalBackend:
    """The network of a model that is in this process."""
    assert isinstance(served.network, LocalBackend)
    return served.network


def cells(num: int, seed: int = 7) -> list[np.ndarray]:
    """SYNTHETIC cells, (450, 450, 3) uint8."""
    drawn = draw_cells(SyntheticSpec(cells=max(num, 2), subjects=2, seed=seed))
    return [render(cell) for cell in drawn[:num]]


def turned(pixels: np.ndarray, degrees: float) -> np.ndarray:
    """Pixels with their hue turned, brightness kept: uint8 -> uint8."""
    luma = np.array([0.299, 0.587, 0.114])
    across = [np.array(colorsys.hsv_to_rgb(h / 3 + degrees / 360, 1, 1)) for h in range(3)]
    matrix = np.stack([a - luma * (a.sum() - 1) for a in across], axis=1)
    return np.clip(pixels @ matrix.T, 0, 255).astype(np.uint8)


def encode(pixels: np.ndarray, kind: str = "PNG") -> bytes:
    """An image file."""
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, kind)
    return out.getvalue()


def models_from(path: Path, **settings) -> Models:
    """What a replica answers with; see `ServeSettings`."""
    chosen = ServeSettings(bundle=str(path), anonymous=True, **settings)
    metrics = Metrics()
    return Models(chosen, metrics, local_runners(chosen, metrics))


def client_of(
    path: Path, limits: Limits | None = None, keys: ApiKeys | None = None, **settings
) -> TestClient:
    """The application, called in this process."""
    models = models_from(path, **settings)
    return TestClient(create_api(models, limits or Limits(), keys, Metrics()), LOOPBACK)


@contextmanager
def listening(path: Path, keys: Path | None = None, **settings) -> Generator[str]:
    """The application on a port of this machine; its address."""
    known = ApiKeys(keys) if keys else None
    api = create_api(models_from(path, **settings), Limits(), known, Metrics())
    server = uvicorn.Server(uvicorn.Config(api, port=0, log_level="warning"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.05)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    server.should_exit = True
    thread.join(timeout=10)
