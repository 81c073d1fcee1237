"""Shared by all tiers: where real data lie, and small synthetic datasets without Ray."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import settings

from leuk_ray.datasets.classes import BINARY
from leuk_ray.datasets.columns import as_column
from leuk_ray.datasets.images import StorageSettings
from leuk_ray.datasets.near_duplicates import NEAR_SCHEMA
from leuk_ray.datasets.prepared import (
    METADATA_SCHEMA,
    ROWS_PER_GROUP,
    SCHEMA_VERSION,
    PreparedDataset,
    image_schema,
)
from leuk_ray.datasets.slides import SLIDES_SCHEMA
from leuk_ray.io.storage import write_json

ROWS_PER_PART = 50

# How long an example takes depends on what else the machine does.
settings.register_profile("unhurried", deadline=None)
settings.load_profile("unhurried")


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("gpu"):
        import torch

        if not torch.cuda.is_available():
            pytest.skip("needs a CUDA device")


@pytest.fixture(scope="session")
def real_data() -> Path:
    folder = os.environ.get("LEUK_RAY_REAL_DATA")
    if not folder:
        pytest.skip("LEUK_RAY_REAL_DATA is unset: real cells are not part of the repository")
    return Path(folder)


def write_dataset(folder: Path, pixels: np.ndarray, **columns: list) -> PreparedDataset:
    """What `prepare` leaves of (N, size, size, 3) uint8 pixels that no file holds; a group each.

    columns: of METADATA_SCHEMA, or `group`.
    """
    size = pixels.shape[1]
    (folder / "images").mkdir(parents=True)
    uids = [f"c{row:06d}" for row in range(len(pixels))]
    known = {"uid": uids, "pixels_sha256": uids}
    group = columns.pop("group", uids)
    known |= columns
    table = pa.table(dict.fromkeys(METADATA_SCHEMA.names, [None] * len(pixels)) | known)
    table = table.cast(METADATA_SCHEMA)
    table = table.add_column(1, "image", as_column(pixels)).cast(image_schema(size))
    for start in range(0, len(table), ROWS_PER_PART):
        part = folder / "images" / f"part-{start // ROWS_PER_PART:05d}.parquet"
        pq.write_table(table.slice(start, ROWS_PER_PART), part, row_group_size=ROWS_PER_GROUP)
    manifest = {
        "schema_version": SCHEMA_VERSION,
        "storage": StorageSettings(size=size).model_dump(),
        "fingerprint": "0" * 64,
        "synthetic": True,
        "classes": BINARY.names,
        "positive": BINARY.positive,
        "ordered": False,
        "layout": "folders",
        "counts": {},
    }
    write_json(folder / "dataset.json", manifest)
    groups = {"uid": uids, "group": group, "status": ["keep"] * len(uids), "duplicate_id": uids}
    pq.write_table(pa.table(groups), folder / "groups.parquet")
    pq.write_table(NEAR_SCHEMA.empty_table(), folder / "near_duplicates.parquet")
    pq.write_table(SLIDES_SCHEMA.empty_table(), folder / "slides.parquet")
    return PreparedDataset.open(str(folder))


@pytest.fixture(scope="session")
def store_pixels() -> Callable[[Path, np.ndarray], PreparedDataset]:
    return write_dataset


@pytest.fixture
def numbered_dataset(tmp_path: Path) -> PreparedDataset:
    """123 cells of 16 px whose first pixel is their row; the rest is noise. SYNTHETIC."""
    pixels = np.random.default_rng(0).integers(0, 256, (123, 16, 16, 3), np.uint8)
    pixels[:, 0, 0, 0] = np.arange(123)
    return write_dataset(tmp_path / "dataset", pixels)
