"""A dataset of forty cells without pixels, for what needs its table alone."""

from pathlib import Path
from typing import Any

import pyarrow as pa

from leuk_ray.datasets.classes import BINARY
from leuk_ray.datasets.images import StorageSettings
from leuk_ray.datasets.prepared import PreparedDataset

STORED = StorageSettings(size=96, crop="center")


def small_dataset() -> PreparedDataset:
    """Forty cells of twenty subjects, without pixels."""
    subject = [f"{'H' * (n % 2)}{n // 2}" for n in range(40)]
    columns: dict[str, Any] = {
        "uid": [f"c{n:02}" for n in range(40)],
        "label": [1 - n % 2 for n in range(40)],
        "subject": subject,
        "group": subject,
        "status": ["keep"] * 40,
        "source": ["lab"] * 40,
        "source_image": pa.nulls(40, pa.string()),
        "duplicate_id": [f"c{n:02}" for n in range(40)],
        "pixels_sha256": [f"{n:064x}" for n in range(40)],
        "official_split": pa.nulls(40, pa.string()),
    }
    manifest = {
        "storage": STORED.model_dump(),
        "layout": "folders",
        "synthetic": True,
        "counts": {},
        "classes": BINARY.names,
        "positive": BINARY.positive,
        "ordered": False,
    }
    opened = PreparedDataset(Path("/data"), manifest)
    opened.__dict__["cells"] = pa.table(columns)
    return opened
