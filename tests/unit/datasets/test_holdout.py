"""Whole groups in roles and folds: every class in each, near the asked shares, at any sizes."""

import itertools
import time

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from leuk_ray.cli.data_messages import split_text
from leuk_ray.datasets.classes import BINARY
from leuk_ray.datasets.holdout import (
    MIN_GROUPS,
    ROLES,
    WORTH,
    UnsuitableError,
    check_groups,
    fold_roles,
    holdout_roles,
)
from leuk_ray.datasets.split_summary import count_test_groups, largest_gap
from leuk_ray.datasets.splits import SplitSettings

SHARES = (0.8, 0.1, 0.1)
NAMES = ("normal", "ALL", "AML", "CML")

sizes = st.one_of(st.integers(1, 60), st.integers(1, 60), st.integers(200, 900))
classes = st.integers(2, 4).flatmap(
    lambda number: st.lists(
        st.lists(sizes, min_size=3, max_size=10), min_size=number, max_size=number
    )
)


def cells_of(counts: list[list[int]]) -> tuple[np.ndarray, np.ndarray]:
    """Label and group of cells: counts[label][n] cells in group n of that class."""
    pairs = [
        (label, f"{label}-{n}", size)
        for label, own in enumerate(counts)
        for n, size in enumerate(own)
    ]
    repeats = [size for _, _, size in pairs]
    return (
        np.repeat([label for label, _, _ in pairs], repeats),
        np.repeat(np.asarray([name for _, name, _ in pairs], object), repeats),
    )


def shares(labels: np.ndarray, roles: np.ndarray) -> np.ndarray:
    """(3, K) share of each class in each role."""
    return np.stack([
        [(roles[labels == label] == role).mean() for label in np.unique(labels)] for role in ROLES
    ])  # fmt: skip


def best_error(own: list[int]) -> float:
    """The smallest largest error that any assignment of one class's groups has."""
    counts = np.asarray(own)
    least = min(MIN_GROUPS, len(own) // 3)
    role = np.asarray(list(itertools.product(range(3), repeat=len(own))))
    error = np.zeros(len(role))
    for number, share in enumerate(SHARES):
        mine = role == number
        gap = np.abs(mine @ counts / counts.sum() - share)
        error = np.maximum(error, np.where(mine.sum(axis=1) >= least, gap, np.inf))
    return float(error.min())


@given(classes, st.integers(0, 9))
@settings(max_examples=25, deadline=None)
def test_every_role_holds_groups_of_every_class_at_any_sizes(
    counts: list[list[int]], seed: int
) -> None:
    labels, groups = cells_of(counts)
    names = NAMES[: len(counts)]
    roles = holdout_roles(labels, groups, SHARES, seed, names)
    assert (roles == holdout_roles(labels, groups, SHARES, seed, names)).all()
    role_of = dict(zip(groups.tolist(), roles.tolist(), strict=True))
    assert [role_of[group] for group in groups] == roles.tolist()
    for label, own in enumerate(counts):
        held = [role_of[f"{label}-{n}"] for n in range(len(own))]
        for role in ROLES:
            assert held.count(role) >= min(MIN_GROUPS, len(own) // 3)


@given(st.lists(st.lists(sizes, min_size=3, max_size=9), min_size=2, max_size=2), st.integers(0, 9))
@settings(max_examples=15, deadline=None)
def test_the_split_is_within_the_bound_of_the_best_one(counts: list[list[int]], seed: int) -> None:
    labels, groups = cells_of(counts)
    found = np.abs(shares(labels, holdout_roles(labels, groups, SHARES, seed)).T - SHARES).max()
    assert found <= max(best_error(own) for own in counts) + WORTH + 1e-9


def test_a_large_patient_trains_and_does_not_empty_the_training_set() -> None:
    """It landed in validation: training held 0 of 2,060 ALL cells, and nothing was said."""
    labels, groups = cells_of([[30] * 13, [2000] + [5] * 12])
    found = shares(labels, holdout_roles(labels, groups, SHARES, 0))
    assert found[0, 1] > 0.95
    assert (found > 0).all()
    for fold in range(3):
        assert (shares(labels, fold_roles(labels, groups, SHARES, 0, 3, fold)) > 0).all()


@given(classes, st.integers(2, 3), st.integers(0, 9))
@settings(max_examples=15, deadline=None)
def test_every_fold_tests_every_class_once_or_is_refused(
    counts: list[list[int]], folds: int, seed: int
) -> None:
    labels, groups = cells_of(counts)
    tested = np.zeros(len(labels), int)
    try:
        for fold in range(folds):
            roles = fold_roles(labels, groups, SHARES, seed, folds, fold, NAMES[: len(counts)])
            assert (shares(labels, roles) > 0).all()
            tested += roles == "test"
    except UnsuitableError as error:
        assert folds == 2
        assert min(len(own) for own in counts) == 3
        assert "groups stay whole" in str(error)  # noqa: PT017
        return
    assert (tested == 1).all()


def test_too_few_groups_are_refused_with_those_there_are() -> None:
    labels, groups = cells_of([[30] * 13, [40, 2]])
    with pytest.raises(UnsuitableError, match="2 groups with ALL cells, 13 with healthy cells;"):
        check_groups(labels, groups, "subject-disjoint")
    mixed = np.repeat(np.asarray(["a", "b", "c"], object), 3)  # every class in one group alone
    with pytest.raises(UnsuitableError, match="1 group with AML cells, 1 with ALL cells, 1 with n"):
        holdout_roles(np.repeat([0, 1, 2], 3), mixed, SHARES, 0, NAMES[:3])


def test_thousands_of_groups_take_seconds() -> None:
    sizes = [200_000, *np.random.default_rng(0).integers(1, 40, 1000).tolist()]
    start = time.process_time()
    holdout_roles(*cells_of([sizes, [20] * 1000]), SHARES, 0)
    assert time.process_time() - start < 20


def test_a_split_says_how_far_it_is_from_what_was_asked_and_that_its_test_set_is_small() -> None:
    labels, groups = cells_of([[10] * 4, [10] * 20])
    roles = holdout_roles(labels, groups, SHARES, 0)
    split = pa.table({"label": labels, "group": groups.tolist(), "role": roles.tolist()})
    gap = largest_gap(split, SplitSettings(), BINARY)
    assert gap == {"role": "train", "class": "healthy", "share": 0.5, "asked": 0.8}
    assert count_test_groups(split, BINARY)["healthy"] == 1
    text = split_text(
        {"out": "s.parquet", "protocol": "subject-disjoint", "leakage": "", "roles": {},
         "left_out": 0, "crossings": {}, "largest_gap": gap, "intervals": True,
         "test_groups": count_test_groups(split, BINARY)}
    )  # fmt: skip
    assert "train holds 50.0% of the healthy cells, asked 80.0%" in text
    assert "ALL + 1 healthy groups, too few for an interval (5 of each class)" in text
