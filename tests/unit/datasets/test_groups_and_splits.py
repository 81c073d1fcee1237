import csv
import re
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from leuk_ray.datasets.classes import BINARY
from leuk_ray.datasets.groups import assign_groups, natural
from leuk_ray.datasets.layouts import parse_c_nmc
from leuk_ray.datasets.leakage import crossings, find_leakage
from leuk_ray.datasets.protocols import PROTOCOLS
from leuk_ray.datasets.split_summary import count_left_out, describe
from leuk_ray.datasets.splits import (
    SplitSettings,
    assert_disjoint,
    assert_whole,
    eligible,
    split_cells,
    write_split,
)
from leuk_ray.utils.errors import UserError


def grouped(cells: pa.Table, near: list[tuple[str, str]] | None = None) -> pa.Table:
    groups = assign_groups(cells, near or [])
    for name in ("group", "status", "duplicate_id"):
        cells = cells.append_column(name, groups[name])
    return cells


def table(rows: Sequence[tuple[str, str | None, int | None, str]]) -> pa.Table:
    """(uid, subject, label, image) -> cells with groups."""
    uid, subject, label, image = zip(*rows, strict=True)
    cells = pa.table(
        {
            "uid": list(uid),
            "subject": pa.array(subject, pa.string()),
            "label": pa.array(label, pa.int8()),
            "pixels_sha256": list(image),
            "official_split": pa.array([None] * len(rows), pa.string()),
            "source": ["lab"] * len(rows),
            "source_image": pa.nulls(len(rows), pa.string()),
        }
    ).sort_by("uid")
    return grouped(cells)


def test_an_image_under_two_subjects_joins_them():
    cells = table(
        [("a", "20", 1, "x"), ("b", "21", 1, "x"), ("c", "21", 1, "y"), ("d", "3", 1, "z")]
    )
    assert cells["group"].to_pylist() == ["20", "20", "20", "3"]
    assert cells["status"].to_pylist() == ["keep", "duplicate", "keep", "keep"]


def test_identical_images_with_both_labels_are_conflicts():
    cells = table([("a", "1", 1, "x"), ("b", "H1", 0, "x"), ("c", "1", 1, "y")])
    assert cells["status"].to_pylist() == ["conflict", "conflict", "keep"]


def test_a_labelled_copy_is_kept_before_an_unlabelled_one():
    cells = table([("a", None, None, "x"), ("b", "1", 1, "x")])
    assert cells["status"].to_pylist() == ["duplicate", "keep"]


def test_cells_without_subject_are_groups_of_their_own():
    cells = table([("a", None, 1, "x"), ("b", None, 1, "y")])
    assert cells["group"].to_pylist() == ["uid:a", "uid:b"]


def test_pairs_join_groups_and_keep_their_roles():
    cells = table([("a", "1", 1, "x"), ("b", "2", 1, "y"), ("c", None, 1, "z")])
    for near, slides in (([("c", "b")], []), ([], [("c", "b")])):
        groups = assign_groups(cells, near, slides)
        assert groups["group"].to_pylist() == ["1", "2", "2"]
        assert groups["status"].to_pylist() == ["keep"] * 3
        assert groups["duplicate_id"].to_pylist() == (["a", "b", "b"] if near else ["a", "b", "c"])


def _joined(num: int, alike: Callable[[int, int], bool]) -> list[set[int]]:
    """For each row all rows that a chain of `alike` leads to, by the plain definition."""
    found = []
    for row in range(num):
        seen, open_rows = {row}, [row]
        while open_rows:
            first = open_rows.pop()
            new = [other for other in range(num) if other not in seen and alike(first, other)]
            seen.update(new)
            open_rows += new
        found.append(seen)
    return found


@given(
    rows=st.lists(
        st.tuples(
            st.sampled_from([None, "2", "02", "10", "H2", "H10"]),
            st.sampled_from([None, 0, 1]),
            st.sampled_from("vwxyz"),
        ),
        min_size=1,
        max_size=12,
    ),
    pairs=st.lists(st.tuples(st.integers(0, 11), st.integers(0, 11), st.booleans()), max_size=3),
)
@settings(max_examples=200, deadline=None)
def test_groups_pictures_and_roles_are_those_of_the_definition(rows, pairs):
    uids = [f"c{row}" for row in range(len(rows))]
    cells = pa.table(
        {
            "uid": uids,
            "subject": pa.array([subject for subject, _, _ in rows], pa.string()),
            "label": pa.array([label for _, label, _ in rows], pa.int8()),
            "pixels_sha256": [image for _, _, image in rows],
        }
    )
    pairs = [(a % len(rows), b % len(rows), near) for a, b, near in pairs]
    near = {frozenset((a, b)) for a, b, is_near in pairs if is_near}
    slide = {frozenset((a, b)) for a, b, is_near in pairs if not is_near}

    def same_picture(a: int, b: int) -> bool:
        return rows[a][2] == rows[b][2] or frozenset((a, b)) in near

    def same_group(a: int, b: int) -> bool:
        same_subject = rows[a][0] is not None and rows[a][0] == rows[b][0]
        return same_subject or same_picture(a, b) or frozenset((a, b)) in slide

    named = [(uids[a], uids[b], is_near) for a, b, is_near in pairs]
    groups = assign_groups(
        cells, [(a, b) for a, b, n in named if n], [(a, b) for a, b, n in named if not n]
    )
    subjects = [subject if subject is not None else f"uid:{uid}"
                for uid, (subject, _, _) in zip(uids, rows, strict=True)]  # fmt: skip
    for row, members in enumerate(_joined(len(rows), same_group)):
        first = min((subjects[m] for m in sorted(members)), key=natural)
        assert natural(groups["group"][row].as_py()) == natural(first)
    for row, members in enumerate(_joined(len(rows), same_picture)):
        assert groups["duplicate_id"][row].as_py() == min((uids[m] for m in members), key=natural)
    for row, (_, _, image) in enumerate(rows):
        same = [other for other in range(len(rows)) if rows[other][2] == image]
        labels = {rows[other][1] for other in same} - {None}
        kept = min(same, key=lambda other: (rows[other][1] is None, other))
        expected = "conflict" if len(labels) > 1 else "keep" if row == kept else "duplicate"
        assert groups["status"][row].as_py() == expected


cell_rows = st.lists(
    st.tuples(st.integers(0, 11), st.integers(0, 25)), min_size=40, max_size=120
).map(
    lambda pairs: [
        (f"c{n:03}", f"{'' if s % 2 else 'H'}{s}", s % 2, f"{s % 2}-{image}-{s // 4}")
        for n, (s, image) in enumerate(pairs)
    ]
)


@given(rows=cell_rows, seed=st.integers(0, 5))
@settings(max_examples=30, deadline=None)
def test_any_split_keeps_groups_whole_and_covers_every_kept_cell_once(rows, seed):
    cells = table(rows)
    try:
        split = split_cells(cells, SplitSettings(seed=seed))
    except UserError as error:
        assert re.search("at least 3 are needed of|none of|no cell is", str(error))  # noqa: PT017
        return
    assert_disjoint(split)
    kept = [
        u
        for u, r in zip(cells["uid"].to_pylist(), cells["status"].to_pylist(), strict=True)
        if r == "keep"
    ]
    assert split["uid"].to_pylist() == kept
    assert split.equals(split_cells(cells, SplitSettings(seed=seed)))


@given(rows=cell_rows, seed=st.integers(0, 5), fold=st.integers(0, 2), data=st.data())
@settings(max_examples=60, deadline=None)
def test_any_protocol_keeps_its_unit_whole_and_uses_an_image_once(rows, seed, fold, data):
    protocol = data.draw(st.sampled_from(sorted(PROTOCOLS.keys() - {"paper-literal"})))
    folds = data.draw(st.sampled_from([0, 3])) if protocol != "official-folds" else 0
    uids = [row[0] for row in rows]
    near = data.draw(st.lists(st.tuples(st.sampled_from(uids), st.sampled_from(uids)), max_size=5))
    bare = table(rows).drop_columns(["group", "status", "duplicate_id"])
    place = data.draw(
        st.lists(st.sampled_from(["fold_0", "fold_1", "fold_2", "preliminary", "final", None]),
                 min_size=len(rows), max_size=len(rows))
    )  # fmt: skip
    bare = bare.set_column(
        bare.schema.get_field_index("official_split"),
        "official_split",
        pa.array(place, pa.string()),
    )
    cells = grouped(bare, near)
    fold = fold if folds or protocol == "official-folds" else 0
    wanted = SplitSettings(protocol=protocol, seed=seed, folds=folds, fold=fold)
    try:
        split = split_cells(cells, wanted)
    except UserError as error:
        assert protocol in str(error) or "folds" in str(error)  # noqa: PT017
        return
    assert split.equals(split_cells(cells, wanted))
    assert split["uid"].to_pylist() == sorted(set(split["uid"].to_pylist()))
    by_uid = {row["uid"]: row for row in cells.to_pylist()}
    chosen = [by_uid[uid] for uid in split["uid"].to_pylist()]
    images = [row["pixels_sha256"] for row in chosen]
    assert len(images) == len(set(images))
    unit = PROTOCOLS[protocol].unit
    assert_whole(pa.chunked_array([[row[unit] for row in chosen]]), split["role"])
    crossed = crossings(split, cells)
    if unit in crossed:
        assert crossed[unit] == {"units": 0, "test_cells": 0}
    if protocol != "official-folds":
        outer = ("preliminary", "final")
        kept = [
            uid for uid, row in by_uid.items()
            if row["status"] == "keep" and row["official_split"] not in outer
        ]  # fmt: skip
        assert split["uid"].to_pylist() == sorted(kept)


@given(rows=cell_rows, seed=st.integers(0, 5), copies=st.integers(1, 60))
@settings(max_examples=40, deadline=None)
def test_copies_are_parted_each_once_and_as_many_of_each_class(rows, seed, copies):
    cells = table(rows)
    wanted = SplitSettings(protocol="paper-literal", seed=seed, copies=copies)
    try:
        split = split_cells(cells, wanted)
    except UserError as error:
        assert "paper-literal" in str(error) or "split.copies" in str(error)  # noqa: PT017
        return
    assert split.equals(split_cells(cells, wanted))
    pairs = list(zip(split["uid"].to_pylist(), split["copy"].to_pylist(), strict=True))
    assert pairs == sorted(set(pairs))
    assert {uid for uid, _ in pairs} == set(eligible(cells)["uid"].to_pylist())
    counts = describe(split, cells, BINARY)
    assert sum(role["classes"]["ALL"] for role in counts.values()) == copies
    assert sum(role["classes"]["healthy"] for role in counts.values()) == copies
    assert count_left_out(split, cells) == len(cells) - len(eligible(cells))


def test_copies_of_one_image_train_and_test():
    """Balanced by copies before the split: nearly every test copy has its image in training."""
    rows = [(f"c{n:03}", f"{'' if n % 2 else 'H'}{n % 8}", n % 2, f"i{n}") for n in range(200)]
    cells = table(rows)
    split = split_cells(cells, SplitSettings(protocol="paper-literal", copies=400))
    crossed = crossings(split, cells)["duplicate_id"]
    assert describe(split, cells, BINARY)["test"]["cells"] == 80
    assert crossed["test_cells"] > 70
    assert find_leakage(split, cells).leaky


def test_image_random_folds_test_every_cell_once_and_leak():
    rows = [(f"c{n:03}", f"{'' if n % 2 else 'H'}{n % 8}", n % 2, f"i{n}") for n in range(200)]
    cells = table(rows)
    tested: list[str] = []
    for fold in range(5):
        split = split_cells(cells, SplitSettings(protocol="image-random", folds=5, fold=fold))
        tested += [r["uid"] for r in split.to_pylist() if r["role"] == "test"]
        assert crossings(split, cells)["subject"] == {"units": 8, "test_cells": 40}
        assert find_leakage(split, cells).leaky
    assert sorted(tested) == cells["uid"].to_pylist()


def official(rows: list[tuple[str, str, int, str, str]]) -> pa.Table:
    cells = table([row[:4] for row in rows]).drop_columns(["group", "status", "duplicate_id"])
    place = pa.array([row[4] for row in sorted(rows)])
    index = cells.schema.get_field_index("official_split")
    return cells.set_column(index, "official_split", place)


def test_official_folds_drop_training_copies_of_validation_and_test():
    rows = [
        ("a", "1", 1, "x", "fold_0"), ("b", "2", 1, "x", "fold_1"),  # a copy in validation
        ("c", "1", 1, "y", "fold_0"), ("d", "9", 1, "y", "preliminary"),  # a copy in test
        ("e", "1", 1, "z", "fold_0"), ("f", "3", 1, "w", "fold_1"),  # near duplicates
        ("g", "1", 1, "v", "fold_0"), ("h", "1", 1, "v", "fold_2"),  # a copy within training
        ("i", "H1", 0, "u", "final"),
    ]  # fmt: skip
    cells = grouped(official(rows), [("e", "f")])
    split = split_cells(cells, SplitSettings(protocol="official-folds", fold=1))
    assert {row["uid"]: row["role"] for row in split.to_pylist()} == {
        "b": "validation",
        "d": "test",
        "f": "validation",
        "g": "train",
    }
    assert crossings(split, cells)["group"] == {"units": 1, "test_cells": 1}


def test_official_folds_need_folds():
    cells = table([("a", "1", 1, "x"), ("b", "H1", 0, "y")])
    with pytest.raises(UserError, match="three folds"):
        split_cells(cells, SplitSettings(protocol="official-folds"))
    with pytest.raises(UserError, match="three of its own"):
        split_cells(cells, SplitSettings(protocol="official-folds", folds=5))


def test_slides_stand_for_unknown_subjects():
    rows = [(f"c{n:02}", None, n % 2, f"i{n}") for n in range(40)]
    cells = table(rows)
    split = split_cells(cells, SplitSettings(protocol="slide-group-disjoint"))
    assert len(split) == 40


def full_cells(real_data: Path) -> pa.Table:
    with (real_data / "cnmc2019" / "full_index.csv").open() as stream:
        index = {row["path"]: row["sha256"] for row in csv.DictReader(stream)}
    paths = [path for path in index if "/training_data/" in path]
    rows = parse_c_nmc(paths, {}, "c-nmc-2019").table()
    cells = rows.append_column(
        "pixels_sha256", pa.array([index[path] for path in rows["path"].to_pylist()])
    )
    return grouped(cells)


def test_real_duplicates_join_73_subjects_into_66_groups(real_data: Path):
    cells = full_cells(real_data)
    rows = cells.to_pylist()
    members: dict[str, list[dict]] = {}
    for row in rows:
        members.setdefault(row["pixels_sha256"], []).append(row)
    pairs = [m for m in members.values() if len(m) > 1]
    assert len(pairs) == 104
    assert all(len(m) == 2 for m in pairs)
    assert sum(m[0]["subject"] != m[1]["subject"] for m in pairs) == 99
    assert sum(m[0]["official_split"] != m[1]["official_split"] for m in pairs) == 94
    groups = {(row["group"], row["label"]) for row in rows}
    assert Counter(label for _, label in groups) == {1: 44, 0: 22}
    assert len({group for group, _ in groups}) == 66


def test_real_split_is_close_to_8_1_1_and_to_the_class_ratio(real_data: Path):
    cells = full_cells(real_data)
    for seed in range(3):
        counts = describe(split_cells(cells, SplitSettings(seed=seed)), cells, BINARY)
        total = sum(role["cells"] for role in counts.values())
        ratio = sum(role["classes"]["ALL"] for role in counts.values()) / total
        for role, share in zip(counts.values(), (0.8, 0.1, 0.1), strict=True):
            assert role["cells"] / total == pytest.approx(share, abs=0.03)
            assert role["classes"]["ALL"] / role["cells"] == pytest.approx(ratio, abs=0.03)
            assert role["groups"] >= 6


def test_real_official_folds_lose_94_training_copies(real_data: Path):
    cells = full_cells(real_data)
    lost = 0
    for fold in range(3):
        split = split_cells(cells, SplitSettings(protocol="official-folds", fold=fold))
        assert crossings(split, cells)["duplicate_id"] == {"units": 0, "test_cells": 0}
        assert len(split) == 10_661 - 104
        tested = [row for row in split.to_pylist() if row["role"] == "test"]
        in_fold = {"fold_0": 3_527, "fold_1": 3_581, "fold_2": 3_553}[f"fold_{fold}"]
        lost += in_fold - len(tested)
    assert lost == 104 - 94  # only copies within a fold are lost to its test


def test_a_split_of_one_source_takes_its_cells_alone_and_an_unknown_source_is_named():
    cells = table([(f"c{n:02}", None, n % 2, f"x{n}") for n in range(24)])
    place = cells.column_names.index("source")
    names = pa.array(["all-idb1"] * 12 + ["all-idb2"] * 12)
    cells = cells.set_column(place, "source", names)
    split = split_cells(cells, SplitSettings(protocol="image-random", source="all-idb2"))
    assert sorted(split["uid"].to_pylist()) == [f"c{n}" for n in range(12, 24)]
    with pytest.raises(UserError, match="no cell comes from it; there are: all-idb1, all-idb2"):
        split_cells(cells, SplitSettings(protocol="image-random", source="c-nmc"))


def test_folds_test_every_cell_once():
    generator = np.random.default_rng(0)
    rows = [
        (f"c{n:03}", f"{'' if s % 2 else 'H'}{s}", s % 2, f"i{n}")
        for n, s in enumerate(generator.integers(0, 30, 300).tolist())
    ]
    cells = table(rows)
    tested: list[str] = []
    for fold in range(5):
        split = split_cells(cells, SplitSettings(folds=5, fold=fold))
        assert_disjoint(split)
        assert set(split["role"].to_pylist()) == {"train", "validation", "test"}
        tested += [r["uid"] for r in split.to_pylist() if r["role"] == "test"]
    assert sorted(tested) == cells["uid"].to_pylist()


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([(f"c{n}", None, n % 2, f"i{n}") for n in range(20)], "no subject"),
        (
            [(f"c{n}", f"H{n}", 0, f"i{n}") for n in range(20)],
            "none of 20 cells to split is ALL; pre",
        ),
        ([(f"c{n}", None, 1, f"i{n}") for n in range(9)], "none of 9 cells to split is healthy; p"),
        ([(f"c{n}", f"H{n}", None, f"i{n}") for n in range(9)], "no cell is labelled, kept"),
        ([(f"c{n}", str(n % 2), n % 2, f"i{n}") for n in range(20)], "1 group with"),
    ],
)
def test_data_that_cannot_be_split_are_refused(rows, message: str):
    with pytest.raises(UserError, match=message):
        split_cells(table(rows), SplitSettings())


@pytest.mark.parametrize(
    ("folds", "fold", "words"),
    [(1, 0, "folds 1: give 2 or more"), (-3, 0, "folds -3"), (0, 2, "fold 2: without folds")],
)
def test_folds_that_are_none_are_refused(folds: int, fold: int, words: str):
    """They made a hold-out, silently."""
    cells = table([("a", "1", 1, "p"), ("b", "H1", 0, "q")])
    with pytest.raises(UserError, match=words):
        split_cells(cells, SplitSettings(folds=folds, fold=fold))


def test_a_split_is_written_as_parquet_alone(tmp_path: Path):
    with pytest.raises(
        UserError, match=r"split\.csv: a split is a Parquet table; name it .parquet"
    ):
        write_split(pa.table({"uid": ["a"]}), tmp_path / "split.csv")
    assert not list(tmp_path.iterdir())


def test_sites_stay_whole_with_those_that_share_a_patient() -> None:
    site = [f"hospital {n // 8}" for n in range(64)]
    group = [f"g{n // 2}" for n in range(64)]
    group[15] = group[16]  # a patient of hospital 1 and of hospital 2
    cells = pa.table(
        {
            "uid": [f"c{n:02}" for n in range(64)],
            "subject": group,
            "group": group,
            "site": site,
            "label": [n // 2 % 2 for n in range(64)],
            "status": ["keep"] * 64,
            "official_split": pa.nulls(64, pa.string()),
        }
    )
    settings = SplitSettings(protocol="site-disjoint", folds=3)
    tested = []
    for fold in range(3):
        split = split_cells(cells, settings.model_copy(update={"fold": fold}))
        role = dict(zip(split["uid"].to_pylist(), split["role"].to_pylist(), strict=True))
        roles = {name: {role[f"c{n:02}"] for n in range(64) if site[n] == name} for name in site}
        assert all(len(found) == 1 for found in roles.values()), "a site has one role"
        assert roles["hospital 1"] == roles["hospital 2"]
        assert {one for found in roles.values() for one in found} == {"train", "validation", "test"}
        tested += [uid for uid, one in role.items() if one == "test"]
    assert sorted(tested) == cells["uid"].to_pylist()
    two = cells.filter(pa.array([name in ("hospital 1", "hospital 4") for name in site]))
    with pytest.raises(UserError, match=r"2 sites, of which 2 share no .*; at least 3 are needed"):
        split_cells(two, settings)
    nameless = cells.set_column(3, "site", pa.nulls(64, pa.string()))
    with pytest.raises(UserError, match="64 of 64 cells name no site; give it in a column site"):
        split_cells(nameless, settings)
