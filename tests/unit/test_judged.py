from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pytest

from leuk_ray.bundle import BundleFacts
from leuk_ray.images import StorageSettings
from leuk_ray.judged import Judged, run_facts
from leuk_ray.models.settings import ModelSettings

SPLITS = ["fold_0", "fold_1", "preliminary", "preliminary"]
COUNTS = ("files", "rejected", "rows", "ALL", "healthy", "unlabelled", "subjects", "groups")


def dataset(synthetic: bool = False, fingerprint: str = "a" * 64) -> Any:
    facts = {
        "layout": "c-nmc",
        "fingerprint": fingerprint,
        "counts": dict.fromkeys(COUNTS, 4) | {"roles": {"keep": 4}},
    }
    cells = pa.table({"uid": ["a", "b", "c", "d"], "label": [1, 0, 1, 0], "official_split": SPLITS})
    return SimpleNamespace(facts=facts, cells=cells, synthetic=synthetic)


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


def bundle(protocol: str = "official-folds") -> BundleFacts:
    return BundleFacts(
        model=ModelSettings(input_size=64, weights="scratch"),
        storage=StorageSettings(size=64, crop="center"),
        synthetic=False,
        protocol=protocol,
        dataset_fingerprint="a" * 64,
        recipe="lite",
        seed=0,
    )


@pytest.mark.parametrize(
    ("roles", "synthetic", "expected"),
    [("tvee", False, "c-nmc-preliminary"), ("tvee", True, ""), ("teee", False, "")],
)
def test_the_preliminary_set_is_named_where_nothing_else_is_tested(
    tmp_path, roles: str, synthetic: bool, expected: str
) -> None:
    facts = run_facts(Judged(tmp_path, None), bundle(), dataset(synthetic), split(roles))
    assert facts.test_set == expected


def test_cells_that_trained_the_bundle_are_told_and_others_are_external(tmp_path) -> None:
    own = run_facts(Judged(tmp_path, None), bundle("subject-disjoint"), dataset(), split("eeee"))
    assert own.leaky
    assert "This dataset trained the bundle: most of these cells trained it." in own.notes
    other = run_facts(
        Judged(tmp_path, None),
        bundle("subject-disjoint"),
        dataset(fingerprint="b" * 64),
        split("eeee"),
    )
    assert not other.leaky
    assert other.external == "dataset bbbbbbbbbbbb, other images than the training's"
    assert other.unit == "groups: a subject with all that share an image with it"
    assert other.pixels == "decoded to RGB, center crop, 64 px a side"
