import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from scipy.special import expit

from leuk_ray.bundles.manifest import ModelManifest
from leuk_ray.datasets.classes import BINARY
from leuk_ray.datasets.identity import DatasetIdentity
from leuk_ray.datasets.images import StorageSettings
from leuk_ray.io.storage import write_json
from leuk_ray.models.settings import ModelSettings
from leuk_ray.runs.report import predictions_table
from leuk_ray.runs.target import EvaluationTarget, report_context

STORED = StorageSettings(size=64, crop="center")
SPLITS = ["fold_0", "fold_1", "preliminary", "preliminary"]
COUNTS = ("files", "rejected", "rows", "ALL", "healthy", "unlabelled", "subjects", "groups")


def identity(images: str = "a" * 64) -> DatasetIdentity:
    parts = dict.fromkeys(("names", "labels", "subjects", "status"), "0" * 64)
    return DatasetIdentity(rows=4, images=images, storage=STORED, **parts)


def dataset(synthetic: bool = False, images: str = "a" * 64) -> Any:
    manifest = {
        "layout": "c-nmc",
        "counts": dict.fromkeys(COUNTS, 4) | {"statuses": {"keep": 4}},
    }
    subjects = ["1", "H1", "2", "H2"]
    cells = pa.table(
        {
            "uid": ["a", "b", "c", "d"],
            "label": [1, 0, 1, 0],
            "official_split": SPLITS,
            "subject": subjects,
            "group": subjects,
            "source": ["c-nmc"] * 4,
            "source_image": pa.nulls(4, pa.string()),
        }
    )
    return SimpleNamespace(
        manifest=manifest,
        cells=cells,
        classes=BINARY,
        synthetic=synthetic,
        identity=identity(images),
    )


def split(roles: str) -> pa.Table:
    words = {"t": "train", "v": "validation", "e": "test"}
    return pa.table(
        {
            "uid": ["a", "b", "c", "d"],
            "subject": ["1", "H1", "2", "H2"],
            "group": ["1", "H1", "2", "H2"],
            "role": [words[role] for role in roles],
        }
    )


def target(folder: Path, protocol: str) -> EvaluationTarget:
    manifest = ModelManifest(
        model=ModelSettings(input_size=64, weights="scratch"),
        storage=STORED,
        synthetic=False,
        protocol=protocol,
        dataset_fingerprint="a" * 64,
        datasets=(identity(),),
        recipe="lite",
        seed=0,
    )
    write_json(folder / "bundle.json", manifest.model_dump(mode="json"))
    return EvaluationTarget(folder, None)


@pytest.mark.parametrize(
    ("roles", "synthetic", "expected"),
    [("tvee", False, "c-nmc-preliminary"), ("tvee", True, ""), ("teee", False, "")],
)
def test_the_preliminary_set_is_named_where_nothing_else_is_tested(
    tmp_path, roles: str, synthetic: bool, expected: str
) -> None:
    context = report_context(target(tmp_path, "official-folds"), dataset(synthetic), split(roles))
    assert context.test_set == expected


def test_cells_that_trained_the_bundle_are_told_and_others_are_external(tmp_path) -> None:
    own = report_context(target(tmp_path, "subject-disjoint"), dataset(), split("eeee"))
    assert own.leaky is True
    assert own.leakage.startswith("LEAKY: This dataset trained the bundle")
    other = report_context(
        target(tmp_path, "subject-disjoint"),
        dataset(images="b" * 64),
        split("eeee"),
    )
    assert other.leaky is None
    assert other.leakage.startswith("PATIENT OVERLAP UNKNOWN: These cells are not from the dataset")
    assert not other.no_intervals  # which patients they are of is known
    assert other.unit == ""
    assert "not the training's set of images" in other.external
    assert other.pixels == "decoded to RGB, center crop, 64 px a side"


def test_cells_of_a_split_of_copies_have_the_role_of_the_part_that_is_asked_for() -> None:
    """As `calibrate` asks: validation copies, each cell scored as it is."""
    data = dataset()
    copies = pa.concat_tables([split("tvvt"), split("vvtt")])
    copies = copies.append_column("copy", pa.array([0] * 4 + [1] * 4))
    held = copies.filter(pc.field("role") == "validation")
    rows = np.asarray([0, 1, 1, 2])
    table = predictions_table(data, held, rows, np.arange(4.0)[:, None], temperature=2.0)
    assert table["role"].to_pylist() == ["validation"] * 4
    assert table["uid"].to_pylist() == ["a", "b", "b", "c"]
    assert table["probability"].to_numpy() == pytest.approx(expit(np.arange(4) / 2))


def test_files_of_a_run_are_read_once(tmp_path: Path) -> None:
    bundle = tmp_path / "bundle"
    bundle.mkdir()
    asked = EvaluationTarget(target(bundle, "subject-disjoint").bundle, tmp_path)
    (tmp_path / "config.yaml").write_text("name: lite\n")
    (tmp_path / "metrics.jsonl").write_text('{"epoch": 1}\n{"epoch": 2}\n')
    first = asked.manifest, asked.config, asked.history
    assert first[1:] == ({"name": "lite"}, [{"epoch": 1}, {"epoch": 2}])
    shutil.rmtree(bundle)
    (tmp_path / "config.yaml").unlink()
    (tmp_path / "metrics.jsonl").unlink()
    assert (asked.manifest, asked.config, asked.history) == first
