"""Classical baselines on SYNTHETIC cells."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from sklearn.metrics import roc_auc_score

from leuk_ray.datasets.prepared import PreparedDataset
from leuk_ray.datasets.splits import SPLIT_SCHEMA
from leuk_ray.datasets.synthetic import SyntheticSpec, draw_cells, render
from leuk_ray.evaluation import baselines
from leuk_ray.evaluation.baselines import (
    BaselineName,
    BaselineScores,
    area_features,
    measure,
    score_baseline,
    texture_features,
)
from leuk_ray.utils.errors import UserError

SIDE, NUM_CELLS, NUM_SUBJECTS = 96, 360, 24


def store(folder: Path, pixels: np.ndarray, labels: np.ndarray, groups: np.ndarray, write):
    """A dataset of 96 px with labels and groups."""
    dataset = write(folder, pixels)
    start = 0
    for path in sorted((folder / "images").iterdir()):
        table = pq.read_table(path)
        own = slice(start, start + len(table))
        start += len(table)
        for name, values in (("label", labels[own]), ("subject", groups[own])):
            place = table.column_names.index(name)
            field = table.schema.field(name)
            table = table.set_column(place, field, pa.array(values).cast(field.type))
        pq.write_table(table, path, row_group_size=8)
    columns = {
        "uid": [f"c{row:06d}" for row in range(len(pixels))],
        "group": groups.tolist(),
        "status": ["keep"] * len(pixels),
        "duplicate_id": [str(row) for row in range(len(pixels))],
    }
    pq.write_table(pa.table(columns), folder / "groups.parquet")
    return PreparedDataset.open(str(dataset.location))


def split_of(dataset: PreparedDataset) -> pa.Table:
    """Subjects 0-11 train, 12-15 validate, 16-23 test; both classes in each."""
    order = [int(name) for name in dataset.cells["group"].to_pylist()]
    roles = ["train" if n < 12 else "validation" if n < 16 else "test" for n in order]
    columns = dataset.cells.select(["uid", "label", "subject", "group"])
    return columns.append_column("role", pa.array(roles)).cast(SPLIT_SCHEMA)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory, store_pixels: Callable) -> PreparedDataset:
    """Rendered cells whose best AUC is 0.95 and whose area says nothing."""
    drawn = draw_cells(SyntheticSpec(NUM_CELLS, NUM_SUBJECTS, seed=1, best_auc=0.95))
    pixels = np.stack(
        [np.asarray(Image.fromarray(render(cell)).resize((SIDE, SIDE))) for cell in drawn]
    )
    labels = np.asarray([cell.label for cell in drawn])
    groups = np.asarray([str(cell.key[0]) for cell in drawn], object)
    return store(tmp_path_factory.mktemp("cells") / "d", pixels, labels, groups, store_pixels)


@pytest.fixture(scope="module")
def texture(dataset: PreparedDataset) -> BaselineScores:
    return scored("texture-svm", dataset, split_of(dataset))


def scored(name: BaselineName, dataset: PreparedDataset, split: pa.Table) -> BaselineScores:
    (features,) = measure([name], dataset.reader(), np.arange(len(dataset.cells)))
    return score_baseline(name, dataset.cells, split, 0, features)


def auc(dataset: PreparedDataset, scores: BaselineScores) -> float:
    """Of the test cells."""
    split = split_of(dataset)
    roles = np.asarray(split["role"].to_pylist(), object)[scores.rows]
    labels = dataset.cells["label"].to_numpy()[scores.rows]
    test = roles == "test"
    assert sorted(set(roles)) == ["test", "validation"]
    assert len(scores.rows) == (np.asarray(split["role"].to_pylist()) != "train").sum()
    return float(roc_auc_score(labels[test], scores.logits[test]))


def test_texture_tells_cells_apart_and_area_does_not(
    dataset: PreparedDataset, texture: BaselineScores
) -> None:
    """120 test cells of 8 subjects: the standard error of an AUC of 0.5 is about 0.05."""
    assert auc(dataset, texture) > 0.7
    assert 0.3 < auc(dataset, scored("area", dataset, split_of(dataset))) < 0.7


def test_area_is_seen_where_it_tells(tmp_path: Path, store_pixels: Callable) -> None:
    generator = np.random.default_rng(0)
    labels = np.repeat(np.arange(24) % 2, 5)
    groups = np.repeat(np.arange(24), 5).astype(str).astype(object)
    radius = 20 + 6 * labels + 3 * generator.standard_normal(len(labels))
    y, x = np.mgrid[-48:48, -48:48]
    inside = (y**2 + x**2)[None] < radius[:, None, None] ** 2
    pixels = np.where(inside[..., None], 120, 0).repeat(3, axis=3).astype(np.uint8)
    dataset = store(tmp_path / "d", pixels, labels, groups, store_pixels)
    scores = scored("area", dataset, split_of(dataset))
    assert auc(dataset, scores) > 0.85


@pytest.mark.parametrize("name", ["area", "texture-svm"])
def test_labels_of_validation_and_test_are_never_read(
    dataset: PreparedDataset, name: BaselineName, texture: BaselineScores
) -> None:
    split = split_of(dataset)
    before = texture
    if name == "area":
        before = scored(name, dataset, split)
    kept = np.asarray(split["role"].to_pylist()) == "train"
    labels = dataset.cells["label"].to_numpy().copy()
    labels[~kept] = 1 - labels[~kept]
    other = replace(dataset)
    place = dataset.cells.column_names.index("label")
    other.__dict__["cells"] = dataset.cells.set_column(place, "label", pa.array(labels))
    after = scored(name, other, split)
    assert np.array_equal(before.logits, after.logits)
    assert np.array_equal(before.rows, after.rows)


def test_texture_ignores_brightness_and_an_empty_picture_has_features() -> None:
    (cell, *_) = draw_cells(SyntheticSpec(2, 2, seed=0))
    image = render(cell)[::4, ::4]
    dim = np.where(image.max(axis=2, keepdims=True) > 16, 20 + image // 4, 0).astype(np.uint8)
    features = texture_features(dim)
    assert features.shape == (77,)
    assert np.isfinite(features).all()
    # Mean and spread of the channels double, all that follows stays.
    assert texture_features(2 * dim)[6:] == pytest.approx(features[6:])
    assert texture_features(2 * dim)[:6] == pytest.approx(2 * features[:6])
    assert not texture_features(np.zeros_like(image)).any()
    assert area_features(image) == pytest.approx((image.max(axis=2) > 16).mean())


def test_co_occurrence_equals_a_count_by_hand() -> None:
    levels = np.array([[0, 1, 1], [2, 1, 0]])
    mask = np.array([[True, True, False], [True, True, True]])
    right = baselines._co_occurrence(levels, mask, 0, 1)
    # Pairs to the right within the mask: 0-1, 2-1, 1-0; each counted in both directions.
    assert right[0, 1] == right[1, 0] == pytest.approx(2 / 6)
    assert right[1, 2] == right[2, 1] == pytest.approx(1 / 6)
    down_left = baselines._co_occurrence(levels, mask, 1, -1)
    assert down_left[1, 2] == down_left[2, 1] == pytest.approx(1 / 2)


def test_what_cannot_be_fitted_is_told(dataset: PreparedDataset) -> None:
    split = split_of(dataset)
    copies = split.append_column("copy", pa.array(np.zeros(len(split), np.int64)))
    with pytest.raises(UserError, match="augmented copies"):
        scored("area", dataset, copies)
    few = np.asarray([int(name) < 3 for name in split["group"].to_pylist()])
    roles = np.where(few, "train", "test")
    lonely = split.set_column(4, "role", pa.array(roles.tolist()))
    with pytest.raises(UserError, match="1 group among the training cells"):
        scored("area", dataset, lonely)
