"""A bundle records which cells made it, as hashes of their pixels, and so do all made from it."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from leuk_ray.bundles.bundle import (
    derive_bundle,
    lineage_of,
    load_bundle,
    open_bundle,
    write_bundle,
    write_ensemble,
)
from leuk_ray.bundles.lineage import LINEAGE_FILE, CellLineage, Role, cell_hashes
from leuk_ray.bundles.manifest import ModelManifest
from leuk_ray.recipes.recipe import load_recipe
from leuk_ray.training.record import bundle_lineage
from leuk_ray.utils.errors import DataError
from tests.support.serving_bundles import write_small_bundle
from tests.support.small_dataset import small_dataset

CELLS = small_dataset().cells
UIDS = CELLS["uid"].to_pylist()


def lineage(train: slice, validation: slice, test: slice) -> CellLineage:
    parts = {"train": UIDS[train], "validation": UIDS[validation], "test": UIDS[test]}
    uids = [uid for part in parts.values() for uid in part]
    roles = [role for role, part in parts.items() for _ in part]
    split = pa.table({"uid": uids, "role": roles})
    found = bundle_lineage(load_recipe("lite"), CELLS, split)
    assert found is not None
    return found


def bundle_with(path: Path, found: CellLineage | None, seed: int = 0) -> Path:
    opened = load_bundle(write_small_bundle(path, seed=seed))
    assert isinstance(opened.manifest, ModelManifest)
    write_bundle(path, opened.manifest, opened.model, found)
    return path


FIRST = lineage(slice(0, 20), slice(20, 24), slice(24, 40))
OTHER = lineage(slice(10, 30), slice(30, 32), slice(32, 40))


def test_what_a_split_trains_is_known_by_its_pixels(tmp_path: Path) -> None:
    written = open_bundle(bundle_with(tmp_path / "one", FIRST))
    found = lineage_of(written)
    assert found is not None
    own = cell_hashes(CELLS)
    assert len(np.unique(own)) == 40
    parts: list[tuple[Role, slice]] = [("train", slice(0, 20)), ("validation", slice(20, 24))]
    for role, rows in parts:
        assert np.array_equal(found[role], np.sort(own[rows]))
    assert np.array_equal(found.seen, np.sort(own[:24]))
    counts = {role: one.cells for role, one in written.manifest.lineage.items()}
    assert counts == {"train": 20, "validation": 4, "test": 16}
    renamed = CELLS.set_column(
        0, "uid", CELLS["uid"].combine_chunks().take(pa.array(range(39, -1, -1)))
    )
    assert np.array_equal(cell_hashes(renamed), own)  # of pixels, not of names


def test_copies_and_ensembles_keep_what_made_their_parts(tmp_path: Path) -> None:
    paths = [
        bundle_with(tmp_path / name, found, seed)
        for seed, (name, found) in enumerate((("a", FIRST), ("b", OTHER), ("old", None)))
    ]
    derive_bundle(open_bundle(paths[0]), tmp_path / "copy", changes={"threshold": 0.4})
    copied = lineage_of(open_bundle(tmp_path / "copy"))
    assert copied is not None
    assert copied.recorded == FIRST.recorded
    weights = paths[0] / "model.safetensors"
    before = weights.stat().st_ino
    derive_bundle(open_bundle(paths[0]), paths[0], changes={"threshold": 0.4})
    assert weights.stat().st_ino == before, "weights stay where they are"
    assert load_bundle(paths[0]).manifest == load_bundle(tmp_path / "copy").manifest
    write_ensemble(tmp_path / "voted", paths[:2], "soft")
    voted = lineage_of(open_bundle(tmp_path / "voted"))
    assert voted is not None
    own = cell_hashes(CELLS)
    assert np.array_equal(voted["train"], np.sort(own[:30]))
    assert np.array_equal(voted.seen, np.sort(own[:32]))
    write_ensemble(tmp_path / "half", [paths[0], paths[2]], "soft")
    assert lineage_of(open_bundle(tmp_path / "half")) is None  # one of them does not say


def test_weights_bring_the_cells_that_trained_them(tmp_path: Path) -> None:
    parent = bundle_with(tmp_path / "parent", FIRST)
    split = pa.table({"uid": UIDS[30:34], "role": ["train", "train", "validation", "test"]})
    recipe = load_recipe("lite", [f"model.weights={parent}"])
    found = bundle_lineage(recipe, CELLS, split)
    assert found is not None
    own = cell_hashes(CELLS)
    assert np.array_equal(found["train"], np.sort(np.concatenate([own[:20], own[30:32]])))
    unknown = bundle_with(tmp_path / "unknown", None)
    recipe = load_recipe("lite", [f"model.weights={unknown}"])
    assert bundle_lineage(recipe, CELLS, split) is None


@pytest.mark.parametrize("damage", ["other cells", "no such file"])
def test_a_lineage_that_is_not_what_the_manifest_names_is_refused(
    tmp_path: Path, damage: str
) -> None:
    path = bundle_with(tmp_path / "one", FIRST)
    values = json.loads((path / "bundle.json").read_text())
    if damage == "no such file":
        del values["files"][LINEAGE_FILE]
    else:
        values["lineage"]["train"]["sha256"] = "0" * 64
    (path / "bundle.json").write_text(json.dumps(values))
    with pytest.raises(DataError, match="lineage") as caught:
        lineage_of(open_bundle(path))
    assert "\n" not in str(caught.value)
