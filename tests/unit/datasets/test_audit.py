"""What audits find, on tables and arrays; the page on a dataset is tested with preparation."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from leuk_ray.datasets.audit import _shortcut_warnings, audit_cells
from leuk_ray.datasets.classes import BINARY
from leuk_ray.datasets.groups import assign_groups
from leuk_ray.datasets.shortcuts import CHANCE, measure_shortcut, shortcut_baselines


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
        "source_image": pa.nulls(num, pa.string()),
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
    for name in ("group", "status", "duplicate_id"):
        table = table.append_column(name, groups[name])
    return table


def pictures(num: int = 120, seed: int = 0) -> np.ndarray:
    """Discs on black whose size and colour say nothing of the label."""
    generator = np.random.default_rng(seed)
    y, x = np.mgrid[:32, :32] - 15.5
    radius = generator.uniform(8, 14, (num, 1, 1))
    color = generator.integers(60, 200, (num, 1, 1, 3))
    return ((y**2 + x**2 < radius**2)[..., None] * color).astype(np.uint8)


def measured(table: pa.Table, images: np.ndarray) -> dict:
    return shortcut_baselines(table, BINARY, Pixels(images))[0]  # pyright: ignore[reportArgumentType]


def best(found: dict) -> float:
    return found["auc"]


def test_without_a_shortcut_the_baselines_stay_near_chance():
    found = measured(cells(), pictures())
    assert set(found) == {"cell area", "image resolution", "file format and size", "mean colour"}
    varying = found.keys() - {"image resolution"}  # all are of one
    for name in varying:
        # The standard error of an AUC of 60 + 60 cells without signal is 0.053.
        assert best(found[name]) < 0.5 + 3 * 0.053, name
        assert found[name]["p"] > 0.05, name


@pytest.mark.parametrize(
    ("planted", "name"),
    [
        ({"width": [300 + 100 * (n % 2) for n in range(120)]}, "image resolution"),
        ({"format": ["JPEG" if n % 2 else "TIFF" for n in range(120)]}, "file format and size"),
        ({"file_bytes": [1000 + 500 * (n % 2) for n in range(120)]}, "file format and size"),
    ],
    ids=["resolution", "format", "bytes"],
)
def test_a_planted_file_shortcut_shows(planted: dict, name: str):
    found = measured(cells(**planted), pictures())
    assert best(found[name]) > 0.99
    assert best(found["cell area"]) < 0.66


def test_planted_size_and_colour_show():
    images = pictures()
    images[1::2, 16:] = 0  # every ALL cell loses its lower half
    found = measured(cells(), images)
    assert best(found["cell area"]) > 0.85
    images = pictures()
    images[1::2] //= 2
    assert best(measured(cells(), images)["mean colour"]) > 0.8


def test_features_that_differ_by_subject_alone_are_warned_of_as_rarely_as_promised():
    """The bound of 0.70 warned of more of them the fewer subjects there were."""
    generator, warned, above = np.random.default_rng(0), 0, 0
    group = np.repeat(np.arange(10), 6)
    for _ in range(60):
        feature = generator.normal(size=10)[group] + 0.3 * generator.normal(size=60)
        found = measure_shortcut(feature[:, None], group % 2, group.astype(str).astype(object))
        warned += float(found["p"] or 0) <= CHANCE
        above += float(found["auc"] or 0) >= 0.7
    assert warned <= 8  # of 60 at 5%, 9 or more occur in 0.2% of trials
    assert above >= 10


def test_a_few_subjects_are_warned_of_with_what_chance_does():
    table = cells(subjects=6, width=[300 + 100 * (n % 2) for n in range(120)])
    shortcuts = measured(table, pictures())
    assert shortcuts["image resolution"]["few"]
    (warning,) = [
        text for text in _shortcut_warnings(shortcuts, {}, BINARY) if "resolution" in text
    ]
    assert "area under ROC 1.00 (cross-validated by group; with so few subjects" in warning
    assert measured(table, pictures()) == shortcuts


def test_what_cannot_be_measured_says_why():
    table = cells(file_bytes=[5] * 120)
    found = measured(table, pictures())["file format and size"]
    assert (found["auc"], found["note"]) == (None, "the same for every cell")
    found = measured(cells(subjects=2), pictures())["cell area"]
    assert "1 group, 2 are needed" in found["note"]


def test_near_duplicates_identical_images_and_balance_are_named():
    table = cells(20, 6, source=["a"] * 15 + ["b"] * 5, pixels_sha256=["same", *(
        "same" if n == 6 else f"i{n}" for n in range(1, 20))])  # fmt: skip
    table = grouped(table.drop_columns(["group", "status", "duplicate_id"]), [("c003", "c005")])
    audit = audit_cells(table, BINARY)
    assert [item["uids"] for item in audit["identical"]] == [["c000", "c006"]]
    assert [item["uids"] for item in audit["near_duplicates"]] == [["c003", "c005"]]
    assert audit["near_duplicates"][0]["across_subjects"]
    assert audit["balance"]["source"] == {
        "a": {"ALL": 7, "healthy": 8},
        "b": {"ALL": 3, "healthy": 2},
    }
    assert any("1 set of near-duplicate images under" in warning for warning in audit["warnings"])


def test_a_source_whose_sizes_tell_the_class_is_found_although_another_hides_it():
    """As in ALL-IDB: every field of one size is ALL, while the cells cut from fields are alike."""
    num = 120
    source = ["all-idb1" if n < 40 else "all-idb2" for n in range(num)]
    width = [(1712 if n % 2 and n < 33 else 2592) if n < 40 else 257 for n in range(num)]
    table = cells(num, source=source, width=width, height=width)
    found, of_source = shortcut_baselines(table, BINARY, Pixels(pictures()))  # pyright: ignore
    assert best(found["image resolution"]) < 0.85 < best(of_source["all-idb1"]["image resolution"])
    assert of_source["all-idb2"]["image resolution"]["note"] == "the same for every cell"
    audit = audit_cells(table, BINARY)
    (warning,) = [text for text in audit["warnings"] if "1712" in text]
    assert warning.startswith("all 16 images of 1712 x 1712 pixels (PNG, all-idb1) are ALL")
    sizes = audit["image_sizes"]
    assert sum(size["classes"][name] for size in sizes for name in audit["classes"]) == num
    assert [size["width"] for size in sizes] == [257, 2592, 1712]
    assert sum(counts["cells"] for counts in audit["classes"].values()) == audit["cells"]


def test_cells_of_unknown_patients_are_warned_of():
    audit = audit_cells(cells(subject=pa.nulls(120, pa.string())), BINARY)
    assert audit["warnings"][0].startswith("120 of 120 cells name neither a subject nor the field")
    assert not audit_cells(cells(), BINARY)["warnings"]


@given(
    st.lists(
        st.tuples(
            st.sampled_from([None, "1", "2", "H1"]),
            st.sampled_from([None, 0, 1]),
            st.sampled_from("abcdefgh"),
            st.sampled_from([None, "all-idb1", "all-idb2"]),
            st.sampled_from([257, 1712, 2592]),
            st.sampled_from(["TIFF", "JPEG"]),
        ),
        min_size=1,
        max_size=40,
    )
)
@settings(max_examples=100, deadline=None)
def test_counts_of_an_audit_add_up(rows: list):
    subject, label, image, source, width, format_ = zip(*rows, strict=True)
    table = cells(
        len(rows),
        subject=pa.array(subject, pa.string()),
        label=pa.array(label, pa.int8()),
        pixels_sha256=list(image),
        source=pa.array(source, pa.string()),
        width=list(width),
        format=list(format_),
    )
    audit = audit_cells(table, BINARY)
    names = list(audit["classes"])
    assert sum(own["cells"] for own in audit["classes"].values()) == audit["cells"] == len(rows)
    assert sum(audit["statuses"].values()) == len(rows)
    assert audit["largest_group"]["cells"] <= len(rows)
    for column, values in audit["balance"].items():
        assert sum(sum(counts.values()) for counts in values.values()) == len(rows), column
    for name in names:
        own = audit["classes"][name]["cells"]
        assert sum(size["classes"][name] for size in audit["image_sizes"]) == own
        for column, values in audit["balance"].items():
            assert sum(counts.get(name, 0) for counts in values.values()) == own, column
    known = set(subject) - {None}
    assert max(own["subjects"] for own in audit["classes"].values()) <= len(known)
    several = [item["uids"] for item in audit["identical"]]
    assert audit["identical_images"] == len(several)
    assert sum(map(len, several)) + len(set(image)) - len(several) == len(rows)
