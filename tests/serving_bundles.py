"""Small bundles and images for the tests of the service."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from leuk_ray.bundle import BundleFacts, write_bundle
from leuk_ray.datasets.synthetic import SyntheticSpec, draw_cells, render
from leuk_ray.images import StorageSettings
from leuk_ray.models.settings import ModelSettings
from leuk_ray.models.zoo import build

SIZE = 96


def write_small_bundle(path: Path, seed: int = 0, **changes) -> Path:
    """An untrained SE-CNN, which answers in a millisecond."""
    settings = ModelSettings(
        architecture="se_cnn", attention="se", input_size=64, filters=(8, 16, 32), reduction=4,
        weights="scratch",
    )  # fmt: skip
    facts = BundleFacts(**{
        "model": settings, "storage": StorageSettings(size=SIZE, crop="center"),
        "synthetic": True, "protocol": "subject-disjoint", "dataset_fingerprint": "0" * 64,
        "recipe": "small", "seed": seed, **changes,
    })  # fmt: skip
    torch.manual_seed(seed)
    write_bundle(path, facts, build(settings, load_weights=True).eval())
    return path


def cells(num: int, seed: int = 7) -> list[np.ndarray]:
    """SYNTHETIC cells, (450, 450, 3) uint8."""
    drawn = draw_cells(SyntheticSpec(cells=max(num, 2), subjects=2, seed=seed))
    return [render(cell) for cell in drawn[:num]]


def encode(pixels: np.ndarray, kind: str = "PNG") -> bytes:
    """An image file."""
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, kind)
    return out.getvalue()


def alone(score):
    """A forward pass for each image; batches need Ray Serve."""

    async def one(pixels: np.ndarray):
        return (await score([pixels]))[0]

    return one
