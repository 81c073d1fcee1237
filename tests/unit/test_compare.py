from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pytest

from leuk_ray.compare import Trained, comparable_rows
from leuk_ray.errors import UserError


def dataset(groups: str, labelled: bool = True) -> Any:
    """One cell a letter: its group; each is its own picture."""
    names = list(groups)
    cells = pa.table(
        {
            "uid": [f"c{n}" for n in range(len(names))],
            "label": [int(labelled)] * len(names),
            "group": names,
            "picture": [f"p{n}" for n in range(len(names))],
            "role": ["keep"] * len(names),
            "official_split": pa.nulls(len(names), pa.string()),
        }
    )
    return SimpleNamespace(cells=cells, location="d")


def trained(roles: str, protocol: str = "subject-disjoint") -> Trained:
    """One letter a cell: t train, v validation, e test."""
    words = {"t": "train", "v": "validation", "e": "test"}
    rows = [(f"c{n}", words[role]) for n, role in enumerate(roles)]
    uid, role = zip(*rows, strict=True)
    return Trained(pa.table({"uid": uid, "role": role}), protocol)


def test_a_dataset_that_trained_neither_is_compared_whole() -> None:
    assert comparable_rows(dataset("aabb"), {}).tolist() == [0, 1, 2, 3]


def test_only_what_all_runs_test_on_is_compared() -> None:
    runs = {"one": trained("ttveee"), "two": trained("ttvvee")}
    assert comparable_rows(dataset("aabcdd"), runs).tolist() == [4, 5]
    runs["three"] = trained("tteevv")
    with pytest.raises(UserError, match="one and two and three: d has no cell to compare on"):
        comparable_rows(dataset("aabcdd"), runs)


@pytest.mark.parametrize("role", ["t", "v"])
def test_groups_that_trained_or_chose_the_epoch_are_refused(role: str) -> None:
    runs = {"one": trained("teee"), "two": trained(f"t{role}ee", "image-random")}
    with pytest.raises(UserError, match="two: 1 of the 1 groups to compare on trained it"):
        comparable_rows(dataset("abbb"), runs)


def test_official_folds_keep_pictures_whole() -> None:
    runs = {"one": trained("tveee", "official-folds")}
    assert comparable_rows(dataset("aabbb"), runs).tolist() == [2, 3, 4]
    assert comparable_rows(dataset("aaaab"), runs).tolist() == [2, 3, 4]


def test_nothing_labelled_is_told() -> None:
    empty = dataset("ab")
    place = empty.cells.column_names.index("label")
    empty.cells = empty.cells.set_column(place, "label", pa.nulls(2, pa.int8()))
    with pytest.raises(UserError, match="no cell to compare on"):
        comparable_rows(empty, {})
