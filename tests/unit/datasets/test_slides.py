import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from leuk_ray.datasets import images
from leuk_ray.datasets.correlation import Shiftable, TemplateBank, best_overlaps
from leuk_ray.datasets.cropping import crop_field
from leuk_ray.datasets.decoding import reduced_grey
from leuk_ray.datasets.images import cut_cell
from leuk_ray.datasets.layouts import read_layout
from leuk_ray.datasets.layouts.all_idb import read_centroids
from leuk_ray.datasets.slides import SLIDES_SCHEMA, find_slides
from leuk_ray.datasets.synthetic import SyntheticSpec
from leuk_ray.datasets.synthetic_fields import CROP, write_all_idb
from leuk_ray.utils.errors import UserError

SPEC = SyntheticSpec(cells=20, subjects=4, seed=2)


@pytest.fixture(scope="module")
def fields_folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("fields") / "ALL_IDB"
    write_all_idb(folder, SPEC)
    return folder


def as_cells(files: list[tuple[str, str, np.ndarray]]) -> pa.Table:
    """uid, source and decoded pixels of files as `find_slides` takes them."""
    rows = [
        {
            "uid": uid, "source": source, "height": pixels.shape[0], "width": pixels.shape[1],
            "reduced": reduced_grey(pixels).tobytes(),
        }
        for uid, source, pixels in files
    ]  # fmt: skip
    return pa.Table.from_pylist(rows)


def test_every_crop_repeat_and_overlap_is_found_and_nothing_else(fields_folder: Path):
    truth = json.loads((fields_folder / "SYNTHETIC.json").read_text())
    rows = read_layout("all-idb", fields_folder).table()
    decoded = {r["uid"]: images.decode(Path(r["path"]).read_bytes()) for r in rows.to_pylist()}
    cells = as_cells([(r["uid"], r["source"], decoded[r["uid"]]) for r in rows.to_pylist()])
    steps: list[tuple[int, int]] = []
    found = find_slides(
        cells, decoded.__getitem__, lambda done, total: steps.append((done, total))
    ).to_pylist()
    total = 2 * (6 + 20)  # fields and cells
    assert steps == [(done, total) for done in range(1, total + 1)]
    joined = {(p["uid_a"], p["uid_b"]) for p in found if p["kind"] == "overlap"}
    planted = [
        (f"all-idb1_{a}", f"all-idb1_{b}") for a, b in truth["repeated"] + truth["overlapping"]
    ]
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


def test_templates_and_overlaps_are_found_where_they_lie():
    image = np.random.default_rng(0).normal(100, 20, size=(80, 90))
    bank = TemplateBank([image[13:40, 30:61], image[50:77, 0:31], image[:5, :5], np.zeros((99, 5))])
    for _ in range(2):  # the second time with transforms at hand
        values, corners = bank.search(image)
        assert values == pytest.approx([1, 1, 1, -1], abs=1e-5)
        assert corners[:3].tolist() == [[13, 30], [50, 0], [0, 0]]
    first, second = Shiftable.of(image[:60, :70]), Shiftable.of(image[20:, 10:80])
    for one, two, sign in ((first, second, 1), (second, first, -1)):
        values, shifts = best_overlaps(one, [two, one])
        assert values == pytest.approx([1, 1], abs=1e-5)
        assert shifts.tolist() == [[20 * sign, 10 * sign], [0, 0]]


def test_flat_pictures_are_like_nothing():
    flat = np.full((80, 90), 255, np.uint8)
    noise = np.random.default_rng(0).integers(0, 255, (80, 90))
    values, _ = TemplateBank([flat[:20, :20], noise[:20, :20]]).search(flat)
    assert np.abs(values).max() < 0.1
    values, _ = best_overlaps(Shiftable.of(flat), [Shiftable.of(flat), Shiftable.of(noise)])
    assert np.abs(values).max() < 0.1


@pytest.mark.parametrize("side", [60, 100, 257])
def test_crops_of_any_size_are_found_in_fields_of_two_sizes(fields_folder: Path, side: int):
    """Two of each field, where it is not empty smear."""
    truth = json.loads((fields_folder / "SYNTHETIC.json").read_text())
    files, owner = [], {}
    for number, name in enumerate(sorted(set(truth["fields"].values()))):
        path = fields_folder / "ALL_IDB1" / "im" / f"{name}.jpg"
        field = images.decode(path.read_bytes())
        field = field[:800, :1000] if number % 2 else field
        files.append((name, "all-idb1", field))
        cuts = [cut_cell(field, (x, y), side) for x in range(53, 950, 97) for y in (71, 333, 707)]
        for place, cut in enumerate(sorted(cuts, key=np.std)[-2:]):
            files.append((f"{name}_{place}", "all-idb2", cut))
            owner[f"{name}_{place}"] = name
    pixels = {uid: picture for uid, _, picture in files}
    found = find_slides(as_cells(files), pixels.__getitem__).to_pylist()
    assert {pair["uid_b"]: pair["uid_a"] for pair in found if pair["kind"] == "crop"} == owner
    assert min(pair["correlation"] for pair in found) > 0.98
    assert not [pair for pair in found if pair["kind"] == "overlap"]


def test_without_fields_there_are_no_slides():
    crop = np.zeros((30, 30, 3), np.uint8)
    assert find_slides(as_cells([("a", "all-idb2", crop)]), {}.__getitem__).schema == SLIDES_SCHEMA


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
