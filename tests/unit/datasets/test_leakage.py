"""Leakage against its definition, and on data sets as people have them."""

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from leuk_ray.datasets.classes import BINARY
from leuk_ray.datasets.groups import assign_groups
from leuk_ray.datasets.leakage import crossings, find_leakage
from leuk_ray.datasets.protocols import PROTOCOLS
from leuk_ray.datasets.split_summary import count_left_out, default_split, describe
from leuk_ray.datasets.splits import SplitSettings, split_cells
from leuk_ray.utils.errors import UserError
from leuk_ray.utils.wording import counted, counted_subjects, overlap_label, worst

ROLES = ("train", "validation", "test")
CELLS = st.lists(
    st.tuples(
        st.sampled_from(["1", "2", "3", "4", "5", "6", None]),  # subject
        st.sampled_from("abcdefghijkl"),  # image
        st.sampled_from([None, None, "f1", "f2"]),  # field it is, or came from
        st.sampled_from(ROLES),
    ),
    min_size=3,
    max_size=12,
)


def cells_of(
    subject: list, image: list, field: list, label: list | None = None, source: str = "lab"
) -> pa.Table:
    """Cells c00, c01, ...; those of one field are joined as `slides` would join them."""
    num = len(subject)
    uid = [f"c{n:02}" for n in range(num)]
    cells = pa.table(
        {
            "uid": uid,
            "subject": pa.array(subject, pa.string()),
            "label": pa.array(label or [n % 2 for n in range(num)], pa.int8()),
            "pixels_sha256": image,
            "official_split": pa.nulls(num, pa.string()),
            "source": [source] * num,
            "source_image": pa.array(field, pa.string()),
        }
    )
    first = {}
    slides = [(first.setdefault(name, u), u) for u, name in zip(uid, field, strict=True) if name]
    groups = assign_groups(cells, slides=slides)
    for name in ("group", "status", "duplicate_id"):
        cells = cells.append_column(name, groups[name])
    return cells


def split_of(cells: pa.Table, roles: list[str]) -> pa.Table:
    return cells.select(["uid", "subject", "group"]).append_column("role", pa.array(roles))


@given(CELLS)
@settings(max_examples=300, deadline=None)
def test_leakage_is_what_its_definition_says(rows: list) -> None:
    subject, image, field, roles = (list(column) for column in zip(*rows, strict=True))
    cells = cells_of(subject, image, field)
    split = split_of(cells, roles)
    placed = list(zip(cells.to_pylist(), roles, strict=True))
    test = [cell for cell, role in placed if role == "test"]
    rest = [cell for cell, role in placed if role != "test"]
    with_field = {cell["group"] for cell, _ in placed if cell["source_image"]}
    nameless = [c for c, _ in placed if c["subject"] is None and c["group"] not in with_field]

    def shared(column: str) -> list:
        own = {cell[column] for cell in rest} - {None}
        return [cell for cell in test if cell[column] in own]

    crosses = shared("subject") or shared("duplicate_id")
    crosses = crosses or [cell for cell in shared("group") if cell["subject"] is None]
    unknown = nameless or shared("group")
    found = find_leakage(split, cells)
    assert found.leaky is (True if crosses else (None if unknown else False))
    assert found.text.startswith(found.label or "not leaky")
    assert bool(found.no_intervals) == any(cell in nameless for cell in test)
    if found.leaky is False:
        counts = crossings(split, cells)
        assert all(counts[unit]["test_cells"] == 0 for unit in counts)


def test_crops_without_their_fields_are_unknown_and_with_them_apart() -> None:
    """ALL-IDB2 alone: crops of one field look like strangers; beside ALL-IDB1 they do not."""
    field = [f"f{n // 4}" for n in range(80)]
    label = [(n // 4) % 2 for n in range(80)]
    image = [f"i{n}" for n in range(80)]
    nobody = [None] * 80
    wanted = SplitSettings(protocol="slide-group-disjoint")
    alone = cells_of(nobody, image, nobody, label, source="all-idb2")
    found = find_leakage(split_cells(alone, wanted), alone)
    assert found.leaky is None
    assert found.origin == "image"
    assert "ALL-IDB1" in found.reason
    assert found.no_intervals
    planned = default_split(alone, BINARY)
    assert planned["unknown_patients"].startswith("80 of 80 cells name neither a subject nor")
    assert "no subject" in planned["error"]
    beside = cells_of(nobody, image, field, label)
    found = find_leakage(split_cells(beside, wanted), beside)
    assert found.leaky is False
    assert found.origin == "field"
    assert not default_split(beside, BINARY)["unknown_patients"]
    assert not found.no_intervals
    mixed = find_leakage(split_cells(beside, SplitSettings(protocol="image-random")), beside)
    assert mixed.leaky
    assert "field of view" in mixed.reason


def test_a_subject_of_training_in_the_preliminary_set_leaks_under_the_official_folds() -> None:
    """By its name the protocol keeps patients apart; the split says otherwise."""
    place = [*("fold_0", "fold_1", "fold_2") * 4, "preliminary", "preliminary"]
    image = [f"i{n}" for n in range(14)]
    for tested, leaky in (("13", False), ("3", True)):
        subject = [str(n) for n in range(12)] + ["12", tested]
        cells = cells_of(subject, image, [None] * 14)
        official = cells.column_names.index("official_split")
        cells = cells.set_column(official, "official_split", pa.array(place))
        found = find_leakage(split_cells(cells, SplitSettings(protocol="official-folds")), cells)
        assert found.leaky is leaky
        assert ("1 of 2 test cells share a subject" in found.reason) == leaky


def test_a_subject_that_shares_an_image_with_training_is_not_called_apart() -> None:
    cells = cells_of(
        ["1", "2", "1", "2", "H1"], ["x", "x", "y", "z", "w"], [None] * 5, [1] * 4 + [0]
    )
    chosen = cells.filter(pa.array([True, False, True, True, True]))  # the copy is dropped
    found = find_leakage(split_of(chosen, ["train", "train", "test", "train"]), cells)
    assert found.leaky is None
    assert "may mean one patient" in found.reason
    assert found.origin == "subject"
    assert not found.no_intervals


@given(
    CELLS.filter(lambda rows: len(rows) > 3),
    st.sampled_from(sorted(PROTOCOLS)),
    st.integers(0, 9),
)
@settings(max_examples=200, deadline=None)
def test_counts_of_a_split_add_up(rows: list, protocol: str, seed: int) -> None:
    subject, image, field, _ = (list(column) for column in zip(*rows, strict=True))
    cells = cells_of(subject * 4, [f"{i}{n}" for n in range(4) for i in image], field * 4)
    try:
        wanted = SplitSettings.model_validate({"protocol": protocol, "seed": seed, "copies": 60})
        split = split_cells(cells, wanted)
    except UserError:
        return
    counts = describe(split, cells, BINARY)
    assert sum(role["cells"] for role in counts.values()) == len(split)
    left_out = count_left_out(split, cells)
    assert 0 <= left_out <= len(cells)
    if protocol != "paper-literal":  # where a cell's copies may have several roles
        distinct = sum(role["distinct_cells"] for role in counts.values())
        assert distinct + left_out == len(cells)
    of = dict(zip(cells["uid"].to_pylist(), cells["subject"].to_pylist(), strict=True))
    for name, role in counts.items():
        uids = set(split.filter(pc.field("role") == name)["uid"].to_pylist())
        assert (
            role["classes"]["ALL"] + role["classes"]["healthy"]
            == role["cells"]
            >= role["distinct_cells"]
            == len(uids)
        )
        assert role["subjects"] == len({of[uid] for uid in uids} - {None})
        assert role["without_subject"] == sum(of[uid] is None for uid in uids)
        assert role["groups"] <= role["distinct_cells"]


@pytest.mark.parametrize(
    ("subjects", "nameless", "text"),
    [(0, 12, "0 subjects (unknown)"), (1, 0, "1 subject"), (3, 1, "3 subjects and 1 cell of")],
)
def test_unknown_subjects_are_no_subject(subjects: int, nameless: int, text: str) -> None:
    assert counted_subjects(subjects, nameless).startswith(text)


def test_words() -> None:
    assert [counted(n, "layer") for n in (0, 1, 2000)] == ["0 layers", "1 layer", "2,000 layers"]
    assert [overlap_label(leaky) for leaky in (True, False)] == ["LEAKY", ""]
    assert worst([False, None]) is None
    assert worst([None, True]) is True
    assert worst([False]) is worst([]) is False


@pytest.mark.parametrize("protocol", ["subject-disjoint", "official-folds"])
def test_a_protocol_that_fails_names_those_that_work(protocol: str) -> None:
    num = 24
    cells = cells_of([None] * num, [f"i{n}" for n in range(num)], [None] * num)
    with pytest.raises(UserError, match=r"that work on these cells: slide-group-disjoint, image-r"):
        split_cells(cells, SplitSettings.model_validate({"protocol": protocol}))
