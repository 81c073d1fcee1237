import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from leuk_ray import images
from leuk_ray.datasets.cropping import crop_field
from leuk_ray.datasets.layouts import read_layout
from leuk_ray.datasets.layouts.all_idb import read_centroids
from leuk_ray.datasets.slides import best_overlap, find_slides, match_template
from leuk_ray.datasets.synthetic import SyntheticSpec
from leuk_ray.datasets.synthetic_fields import CROP, write_all_idb
from leuk_ray.errors import UserError
from leuk_ray.images import StorageSettings, cut_cell

SPEC = SyntheticSpec(cells=20, subjects=4, seed=2)


@pytest.fixture(scope="module")
def fields_folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("fields") / "ALL_IDB"
    write_all_idb(folder, SPEC)
    return folder


class Pixels:
    def __init__(self, stored: list[np.ndarray]) -> None:
        self.stored = np.stack(stored)

    def read(self, rows: np.ndarray) -> np.ndarray:
        return self.stored[rows]


def test_every_crop_repeat_and_overlap_is_found_and_nothing_else(fields_folder: Path):
    truth = json.loads((fields_folder / "SYNTHETIC.json").read_text())
    rows = read_layout("all-idb", fields_folder).table()
    decoded = {r["uid"]: images.decode(Path(r["path"]).read_bytes()) for r in rows.to_pylist()}
    pictures = [decoded[uid] for uid in rows["uid"].to_pylist()]
    cells = rows.append_column("height", pa.array([p.shape[0] for p in pictures]))
    cells = cells.append_column("width", pa.array([p.shape[1] for p in pictures]))
    storage = StorageSettings(crop="full")
    reader = Pixels([images.to_storage(picture, storage) for picture in pictures])
    found = find_slides(cells, reader, decoded.__getitem__).to_pylist()  # pyright: ignore[reportArgumentType]
    joined = {(p["uid_a"], p["uid_b"]) for p in found if p["kind"] == "overlap"}
    planted = [tuple(f"all-idb1_{f}" for f in p) for p in truth["repeated"] + truth["overlapping"]]
    assert joined == set(planted)
    twin = dict(planted) | {b: a for a, b in planted}
    owner = {p["uid_b"]: p["uid_a"] for p in found if p["kind"] == "crop"}
    assert len(truth["fields"]) == 20
    for crop, field in truth["fields"].items():
        cut_from = f"all-idb1_{field}"
        assert owner[f"all-idb2_{crop}"] in (cut_from, twin.get(cut_from))


def test_fields_carry_their_centroids_and_crops_their_pixels(fields_folder: Path):
    truth = json.loads((fields_folder / "SYNTHETIC.json").read_text())
    crop, name = next((c, f) for c, f in truth["fields"].items() if f.endswith("_1"))
    centers = read_centroids(fields_folder / "ALL_IDB1" / "xyc" / f"{name}.xyc")
    assert len(centers) == 5
    field = np.asarray(Image.open(fields_folder / "ALL_IDB1" / "im" / f"{name}.jpg"))
    stored = np.asarray(Image.open(fields_folder / "ALL_IDB2" / "img" / f"{crop}.tif"))
    assert stored.shape == (CROP, CROP, 3)
    assert any(np.array_equal(cut_cell(field, center, CROP), stored) for center in centers)
    healthy = next(f for f in truth["fields"].values() if f.endswith("_0"))
    assert read_centroids(fields_folder / "ALL_IDB1" / "xyc" / f"{healthy}.xyc") == []


def test_template_and_overlap_are_found_where_they_lie():
    image = np.random.default_rng(0).normal(size=(80, 80))
    value, top, left = match_template(image, image[13:40, 30:61])
    assert (round(value, 6), top, left) == (1, 13, 30)
    value, down, right = best_overlap(image[:60, :60], image[20:, 10:70])
    assert (round(value, 6), down, right) == (1, 20, 10)
    value, down, right = best_overlap(image[20:, 10:70], image[:60, :60])
    assert (round(value, 6), down, right) == (1, -20, -10)


def test_too_many_cells_for_the_fields_are_refused(tmp_path: Path):
    with pytest.raises(UserError, match="ask for more --subjects"):
        write_all_idb(tmp_path / "x", SyntheticSpec(cells=100, subjects=4))
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("center", [(0, 0), (999, 999), (50, 40)])
def test_a_cut_stays_inside_its_field(center: tuple[int, int]):
    field = np.zeros((100, 120, 3), np.uint8)
    assert cut_cell(field, center, 31).shape == (31, 31, 3)


def test_cells_are_cut_from_a_field_by_its_centroids(fields_folder: Path, tmp_path: Path):
    field = fields_folder / "ALL_IDB1" / "im" / "Im001_1.jpg"
    centroids = fields_folder / "ALL_IDB1" / "xyc" / "Im001_1.xyc"
    written = crop_field(field, centroids, tmp_path / "out", side=100)
    assert [path.name for path in written] == [f"Im001_1_{n}.png" for n in range(1, 6)]
    x, y = read_centroids(centroids)[0]
    cut = np.asarray(Image.open(written[0]))
    assert np.array_equal(cut, cut_cell(np.asarray(Image.open(field)), (x, y), 100))


@pytest.mark.parametrize(
    ("centroids", "message"),
    [("", "lists no centroid"), ("1 2 3", "line 1"), ("5000 10", "outside")],
)
def test_centroids_that_do_not_fit_are_told(fields_folder, tmp_path, centroids, message):
    (tmp_path / "a.xyc").write_text(centroids)
    field = fields_folder / "ALL_IDB1" / "im" / "Im001_1.jpg"
    with pytest.raises(UserError, match=message):
        crop_field(field, tmp_path / "a.xyc", tmp_path / "out")
    assert not (tmp_path / "out").exists()
    (tmp_path / "a.jpg").write_text("text")
    with pytest.raises(UserError, match=r"a\.jpg"):
        crop_field(tmp_path / "a.jpg", tmp_path / "a.xyc", tmp_path / "out")
