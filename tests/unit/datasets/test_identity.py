"""What makes two datasets the same, and that every pairing of one with a run or bundle asks."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from leuk_ray.bundles.manifest import ModelManifest
from leuk_ray.datasets.classes import BINARY
from leuk_ray.datasets.images import StorageSettings
from leuk_ray.datasets.prepared import PreparedDataset
from leuk_ray.datasets.splits import SPLIT_SCHEMA
from leuk_ray.io.storage import write_json
from leuk_ray.recipes.recipe import load_recipe
from leuk_ray.runs.root import RunsRoot
from leuk_ray.runs.target import EvaluationTarget, report_context
from leuk_ray.training.record import bundle_manifest, check_same_run, start_record
from leuk_ray.utils.errors import UserError
from leuk_ray.workflows.calibrate import _larger, calibrate
from leuk_ray.workflows.compare import compare
from leuk_ray.workflows.evaluate import evaluate
from tests.support.serving_bundles import write_small_bundle

STORED = StorageSettings(size=32, crop="center")


def dataset(storage: StorageSettings = STORED, **changes: Any) -> PreparedDataset:
    """Six cells of three subjects; `changes` replace columns."""
    columns: dict[str, Any] = {
        "uid": [f"c{n}" for n in range(6)],
        "label": [1, 1, 0, 0, 1, 0],
        "subject": ["1", "1", "H1", "H1", "2", None],
        "group": ["1", "1", "H1", "H1", "2", "uid:c5"],
        "status": ["keep"] * 6,
        "pixels_sha256": [f"{n:064x}" for n in range(6)],
        "official_split": [None] * 6,
        "source": ["folders"] * 6,
        "source_image": pa.nulls(6, pa.string()),
    }
    columns |= changes
    manifest = {
        "storage": storage.model_dump(),
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


TURNED = dataset(label=[0, 0, 1, 1, 0, 1])
CHANGES: dict[str, Callable[[], PreparedDataset]] = {
    "other labels (of 6 of the run's 6 cells)": lambda: TURNED,
    "other subjects (of 1 of the run's 6 cells)": lambda: dataset(
        subject=["1", "1", "H1", "H1", "2", "3"]
    ),
    "other status": lambda: dataset(status=["duplicate", *["keep"] * 5]),
    "crop tight instead of center": lambda: dataset(StorageSettings(size=32, crop="tight")),
    "size 64 instead of 32": lambda: dataset(StorageSettings(size=64, crop="center")),
    "other names of the images": lambda: dataset(uid=[f"d{n}" for n in range(6)]),
    "other images (6 cells instead of 6)": lambda: dataset(
        pixels_sha256=[f"{n + 1:064x}" for n in range(6)]
    ),
}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """The record and the bundle of a run on `dataset()`; cells 0 to 2 trained it."""
    own, folder = dataset(), tmp_path / "run"
    roles = pa.array(["train"] * 3 + ["validation", "test", "test"])
    split = own.cells.select(["uid", "label", "subject", "group"]).append_column("role", roles)
    recipe = load_recipe("lite")
    start_record(recipe, own, folder, split)
    manifest = bundle_manifest(recipe, own, {"epoch": 1, "selection": 0.5}, "")
    write_small_bundle(folder / "bundle")
    written = json.loads((folder / "bundle" / "bundle.json").read_text())
    recorded = manifest.model_dump(
        mode="json", include={"datasets", "dataset_fingerprint", "storage"}
    )
    write_json(folder / "bundle" / "bundle.json", written | recorded)
    return folder


def test_too_few_cells_to_calibrate_on_say_what_to_enlarge(run: Path, tmp_path: Path):
    judged = EvaluationTarget(run / "bundle", run)
    with pytest.raises(
        UserError, match=r"1 validation cell .* split has 6 cells, too few for that"
    ):
        calibrate(judged, dataset(), tmp_path / "calibrated")
    rows = {"uid": [f"c{n}" for n in range(127)], "role": ["test"] * 12 + ["train"] * 115}
    advice = _larger(judged, pa.table(rows))
    assert (
        advice == "train again with a larger validation share, as split.fractions=[0.66,0.25,0.09]"
    )
    assert (
        _larger(EvaluationTarget(run / "bundle", None), pa.table(rows))
        == "give a dataset with more"
    )


def test_cells_without_a_label_are_nothing_to_evaluate(run: Path, tmp_path: Path):
    unlabelled = dataset(label=[None] * 6)
    with pytest.raises(UserError, match=r"no labelled cell has the role test.*leuk-ray predict"):
        evaluate(EvaluationTarget(run / "bundle", None), unlabelled, tmp_path / "report")
    assert not (tmp_path / "report").exists()


@pytest.mark.parametrize("what", CHANGES)
def test_a_run_meets_no_other_dataset(run: Path, tmp_path: Path, what: str):
    """The error names what differs, whichever command asks."""
    other, recipe = CHANGES[what](), load_recipe("lite")
    judged = EvaluationTarget(run / "bundle", run)
    asked: list[Callable[[], object]] = [
        lambda: evaluate(judged, other, tmp_path / "report"),
        lambda: calibrate(judged, other, tmp_path / "calibrated"),
        lambda: check_same_run(recipe, other, run),
    ]
    for ask in asked:
        with pytest.raises(UserError) as told:
            ask()
        assert what in str(told.value), told.value
    check_same_run(recipe, dataset(), run)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run"]


def test_a_sweep_goes_on_with_its_dataset_alone(tmp_path: Path):
    """So does an experiment: both ask `RunsRoot`."""
    wanted = load_recipe("lite")
    RunsRoot(tmp_path / "sweep", "sweep", wanted, dataset()).start()
    assert RunsRoot(tmp_path / "sweep", "sweep", wanted, dataset()).check(resume=True)
    for what, other in CHANGES.items():
        with pytest.raises(UserError) as told:
            RunsRoot(tmp_path / "sweep", "sweep", wanted, other()).check(resume=True)
        assert what.partition(" (of")[0] in str(told.value)


def test_a_comparison_needs_the_labels_that_trained(run: Path):
    """The same images with other labels are neither another dataset nor the run's."""
    with pytest.raises(UserError, match=r"other labels \(of 6 of the run's 6 cells\)"):
        compare((run, run / "bundle"), TURNED)


def test_a_bundle_alone_knows_the_images_that_trained_it_whatever_their_labels(run: Path):
    """Else turned labels would make a test on training cells an external one."""
    manifest = ModelManifest(**json.loads((run / "bundle" / "bundle.json").read_text()))
    split = SPLIT_SCHEMA.empty_table()
    counts = dict.fromkeys(
        ("files", "rejected", "rows", "ALL", "healthy", "unlabelled", "subjects", "groups")
    )

    def told(other: PreparedDataset, own: ModelManifest = manifest) -> Any:
        other.manifest["counts"] = counts
        write_json(run / "bundle" / "bundle.json", own.model_dump(mode="json"))
        return report_context(EvaluationTarget(run / "bundle", None), other, split)

    turned = told(TURNED)
    assert turned.leaky is True
    assert "This dataset trained the bundle" in turned.leakage
    other = told(CHANGES["other images (6 cells instead of 6)"]())
    assert other.leaky is None
    assert "not the training's set of images" in other.external
    old = told(dataset(), manifest.model_copy(update={"datasets": ()}))
    assert old.external.startswith("not known")
    assert old.leaky is None
    assert "is not known" in old.leakage


def test_what_older_versions_wrote_is_refused_in_one_line(run: Path):
    """They recorded the files' hashes alone; a comparison cannot know what trained the bundle."""
    told = json.loads((run / "environment.json").read_text())
    write_json(run / "environment.json", told | {"dataset": "a" * 64})
    with pytest.raises(UserError, match="written by an older leuk_ray"):
        check_same_run(load_recipe("lite"), dataset(), run)
    written = json.loads((run / "bundle" / "bundle.json").read_text())
    del written["datasets"]
    write_json(run / "bundle" / "bundle.json", written)
    with pytest.raises(UserError, match="written by an older leuk_ray"):
        compare((run, run / "bundle"), dataset())


def test_a_run_keeps_the_labels_beside_the_roles(run: Path):
    assert pq.read_table(run / "split.parquet")["label"].to_pylist() == [1, 1, 0, 0, 1, 0]


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(["label", "subject", "status", "pixels_sha256", "uid"]),
    st.integers(0, 5),
)
def test_any_single_value_is_part_of_the_identity(column: str, row: int):
    own = dataset()
    values = own.cells[column].to_pylist()
    values[row] = {"label": None, "status": "conflict"}.get(column, f"{values[row]}x")
    other = dataset(**{column: values})
    part = {"uid": "names", "label": "labels", "subject": "subjects", "status": "status"}
    (told,) = own.identity.differences(other.identity)
    assert told.startswith(f"other {part.get(column, 'images')}")
    assert own.identity.fingerprint != other.identity.fingerprint
    assert dataset().identity == own.identity
