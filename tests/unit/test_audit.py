"""What audits find, on tables and arrays; the page on a dataset is tested with preparation."""

import numpy as np
import pyarrow as pa
import pytest

from leuk_ray.datasets.audit import audit_cells
from leuk_ray.datasets.groups import assign_groups
from leuk_ray.datasets.shortcuts import shortcut_baselines


class Pixels:
    def __init__(self, stored: np.ndarray) -> None:
        self.stored = stored

    def read(self, rows: np.ndarray) -> np.ndarray:
        return self.stored[rows]


def cells(num: int = 120, subjects: int = 12, **columns) -> pa.Table:
    subject = [f"{'' if n % 2 else 'H'}{n % subjects}" for n in range(num)]
    bare = {
        "uid": [f"c{n:03}" for n in range(num)],
        "label": pa.array([n % 2 for n in range(num)], pa.int8()),
        "subject": subject,
        "source": ["lab"] * num,
        "official_split": pa.nulls(num, pa.string()),
        "site": pa.nulls(num, pa.string()),
        "stain": pa.nulls(num, pa.string()),
        "pixels_sha256": [f"i{n}" for n in range(num)],
        "format": ["PNG"] * num,
        "width": [450] * num,
        "height": [450] * num,
        "file_bytes": np.random.default_rng(0).integers(1000, 2000, num),
    }
    return grouped(pa.table({**bare, **columns}))


def grouped(table: pa.Table, near: list[tuple[str, str]] | None = None) -> pa.Table:
    groups = assign_groups(table, near or [])
    for name in ("group", "role", "picture"):
        table = table.append_column(name, groups[name])
    return table


def pictures(num: int = 120, seed: int = 0) -> np.ndarray:
    """Discs on black whose size and colour say nothing of the label."""
    generator = np.random.default_rng(seed)
    y, x = np.mgrid[:32, :32] - 15.5
    radius = generator.uniform(8, 14, (num, 1, 1))
    color = generator.integers(60, 200, (num, 1, 1, 3))
    return ((y**2 + x**2 < radius**2)[..., None] * color).astype(np.uint8)


def best(found: dict) -> float:
    return max(found["logistic_regression"], found["gradient_boosting"])


def test_without_a_shortcut_the_baselines_stay_near_chance():
    found = shortcut_baselines(cells(), Pixels(pictures()))
    assert set(found) == {"cell area", "file", "mean colour"}
    for name in found:
        # The standard error of an AUC of 60 + 60 cells without signal is 0.053.
        assert best(found[name]) < 0.5 + 3 * 0.053, name
        assert found[name]["folds"] == 5


@pytest.mark.parametrize(
    ("planted", "name"),
    [
        ({"width": [300 + 100 * (n % 2) for n in range(120)]}, "file"),
        ({"format": ["JPEG" if n % 2 else "TIFF" for n in range(120)]}, "file"),
        ({"file_bytes": [1000 + 500 * (n % 2) for n in range(120)]}, "file"),
    ],
    ids=["resolution", "format", "bytes"],
)
def test_a_planted_file_shortcut_shows(planted: dict, name: str):
    found = shortcut_baselines(cells(**planted), Pixels(pictures()))
    assert best(found[name]) > 0.99
    assert best(found["cell area"]) < 0.66


def test_planted_size_and_colour_show():
    images = pictures()
    images[1::2, 16:] = 0  # every ALL cell loses its lower half
    found = shortcut_baselines(cells(), Pixels(images))
    assert best(found["cell area"]) > 0.85
    images = pictures()
    images[1::2] //= 2
    assert best(shortcut_baselines(cells(), Pixels(images))["mean colour"]) > 0.8


def test_what_cannot_be_measured_says_why():
    table = cells(file_bytes=[5] * 120)
    found = shortcut_baselines(table, Pixels(pictures()))["file"]
    assert (found["logistic_regression"], found["note"]) == (None, "is the same for every cell")
    found = shortcut_baselines(cells(subjects=2), Pixels(pictures()))["cell area"]
    assert "cross-validation needs 2" in found["note"]


def test_near_duplicates_identical_images_and_balance_are_named():
    table = cells(20, 6, source=["a"] * 15 + ["b"] * 5, pixels_sha256=["same", *(
        "same" if n == 6 else f"i{n}" for n in range(1, 20))])  # fmt: skip
    table = grouped(table.drop_columns(["group", "role", "picture"]), [("c003", "c005")])
    audit = audit_cells(table)
    assert [item["uids"] for item in audit["identical"]] == [["c000", "c006"]]
    assert [item["uids"] for item in audit["near_duplicates"]] == [["c003", "c005"]]
    assert audit["near_duplicates"][0]["across_subjects"]
    assert audit["balance"]["source"] == {
        "a": {"ALL": 7, "healthy": 8},
        "b": {"ALL": 3, "healthy": 2},
    }
    assert any("near duplicates" in warning for warning in audit["warnings"])
