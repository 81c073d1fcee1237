"""Protocols: which cells train, validate and test.

A protocol declares the unit it keeps whole and asserts it. `subject-disjoint` keeps groups
(see `groups`) whole, so neither a patient nor an image crosses from training to test.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from leuk_ray.datasets.groups import natural
from leuk_ray.errors import UserError
from leuk_ray.settings import Settings
from leuk_ray.storage import refuse_existing

ROLES = ("train", "validation", "test")
MIN_GROUPS = 3  # of each class in validation and in test, where the data allow
_TRIES = 500

SPLIT_SCHEMA = pa.schema(
    [("uid", pa.string()), ("subject", pa.string()), ("group", pa.string()), ("role", pa.string())]
)


class SplitSettings(Settings):
    """How cells are parted.

    protocol: the unit kept whole.
    fractions: share of cells in train, validation and test (A06: 8:1:1).
    folds, fold: with folds > 1, test is fold `fold` (from 0) of that many.
    seed: of the assignment of groups.
    """

    protocol: Literal["subject-disjoint"] = "subject-disjoint"
    fractions: tuple[float, float, float] = (0.8, 0.1, 0.1)
    folds: int = 0
    fold: int = 0
    seed: int = 0


def split_cells(cells: pa.Table, settings: SplitSettings) -> pa.Table:
    """Give every labelled cell that is kept a role.

    Args:
        cells: `PreparedDataset.cells`. Duplicates, conflicts, unlabelled rows and C-NMC's
            preliminary and final sets take no part.
        settings: protocol, fractions, folds and seed.

    Returns:
        SPLIT_SCHEMA ordered by uid; no group in two roles.

    Raises:
        UserError: no subjects, or too few groups of a class to fill the three roles.
    """
    cells = eligible(cells)
    labels = np.asarray(cells["label"].to_pylist(), np.int64)
    groups = np.asarray(cells["group"].to_pylist(), object)
    if not len(cells) or cells["subject"].null_count:
        raise UserError(
            "protocol subject-disjoint: "
            f"{cells['subject'].null_count if len(cells) else 'all'} cells have no subject; "
            "prepare with a layout or a manifest that names them"
        )
    _check_groups(labels, groups)
    if settings.folds > 1:
        roles = _fold_roles(labels, groups, settings)
    else:
        roles = _holdout_roles(labels, groups, settings.fractions, settings.seed)
    split = cells.select(["uid", "subject", "group"]).append_column("role", pa.array(list(roles)))
    assert_disjoint(split)
    return split.cast(SPLIT_SCHEMA)


def eligible(cells: pa.Table) -> pa.Table:
    """The labelled cells with role `keep` that belong to no official outer test set."""
    official = cells["official_split"].to_pylist()
    mask = [
        role == "keep" and label is not None and split not in ("preliminary", "final")
        for role, label, split in zip(
            cells["role"].to_pylist(), cells["label"].to_pylist(), official, strict=True
        )
    ]
    return cells.filter(pa.array(mask, pa.bool_()))


def assert_disjoint(split: pa.Table) -> None:
    """No group and no subject has two roles."""
    for column in ("group", "subject"):
        seen: dict[str, str] = {}
        for unit, role in zip(split[column].to_pylist(), split["role"].to_pylist(), strict=True):
            assert seen.setdefault(unit, role) == role, f"{column} {unit} is in two roles"


def _check_groups(labels: np.ndarray, groups: np.ndarray) -> None:
    for label, name in ((1, "ALL"), (0, "healthy")):
        count = len(set(groups[labels == label]))
        if count < len(ROLES):
            raise UserError(
                f"protocol subject-disjoint: {count} groups with {name} cells, at least 3 are "
                "needed (train, validation, test); add subjects"
            )


def _fold_roles(labels: np.ndarray, groups: np.ndarray, settings: SplitSettings) -> np.ndarray:
    """Test is one fold; validation comes from the rest, by group, as in the hold-out."""
    if not 0 <= settings.fold < settings.folds:
        raise UserError(f"fold {settings.fold}: give 0 to {settings.folds - 1}")
    smallest = min(len(set(groups[labels == label])) for label in (0, 1))
    if smallest < settings.folds:
        raise UserError(
            f"folds {settings.folds}: a class has only {smallest} groups; ask for fewer"
        )
    from sklearn.model_selection import StratifiedGroupKFold

    splitter = StratifiedGroupKFold(settings.folds, shuffle=True, random_state=settings.seed)
    folds = list(splitter.split(np.zeros(len(labels)), labels, groups))
    rest, test = folds[settings.fold]
    train, validation, _ = settings.fractions
    share = validation / (train + validation)
    roles = np.empty(len(labels), object)
    roles[test] = "test"
    roles[rest] = _holdout_roles(labels[rest], groups[rest], (1 - share, share, 0), settings.seed)
    return roles


def _holdout_roles(
    labels: np.ndarray, groups: np.ndarray, fractions: tuple[float, float, float], seed: int
) -> np.ndarray:
    """The best of many random assignments of whole groups.

    Groups are shuffled within their class and dealt to test, validation and train until each
    holds its share of the class's cells. Best is the smallest largest error of any role's
    share of any class.
    """
    names = sorted(set(groups), key=natural)
    index = {name: number for number, name in enumerate(names)}
    of_cell = np.asarray([index[group] for group in groups])
    counts = np.stack([np.bincount(of_cell[labels == c], minlength=len(names)) for c in (0, 1)])
    stratum = counts[1] > counts[0]
    target = np.asarray(fractions)
    generator = np.random.default_rng(seed)
    best, best_error = None, np.inf
    for _ in range(_TRIES):
        role = np.zeros(len(names), np.int64)
        for side in (False, True):
            members = generator.permutation(np.flatnonzero(stratum == side))
            _deal(role, members, counts[int(side)], target)
        share = np.stack(
            [np.bincount(role, counts[c], 3) / max(counts[c].sum(), 1) for c in (0, 1)]
        )
        error = np.abs(share - target).max()
        if error < best_error:
            best, best_error = role, error
    assert best is not None
    return np.asarray(ROLES, object)[best][of_cell]


def _deal(role: np.ndarray, members: np.ndarray, counts: np.ndarray, target: np.ndarray) -> None:
    """Fill test (2), then validation (1); what is left trains (0)."""
    total = counts[members].sum()
    position = 0
    wanted = [number for number in (2, 1) if target[number] > 0]
    # Train keeps at least as many groups as each of the others must have.
    minimum = min(MIN_GROUPS, len(members) // (len(wanted) + 1))
    for number in wanted:
        filled, taken = 0, 0
        while position < len(members):
            size = counts[members[position]]
            enough = filled + size / 2 > target[number] * total
            if taken >= minimum and enough:
                break
            role[members[position]] = number
            filled, taken, position = filled + size, taken + 1, position + 1


def rows_with_role(cells: pa.Table, split: pa.Table, roles: tuple[str, ...]) -> np.ndarray:
    """Positions in `cells` of a split's roles, (N,) int64, ascending."""
    wanted = split.filter(pc.field("role").isin(roles))["uid"].to_pylist()
    return np.flatnonzero(np.isin(cells["uid"].to_pylist(), wanted))


def write_split(split: pa.Table, path: Path) -> None:
    """Write a split as Parquet, by rename.

    Raises:
        UserError: the file exists.
    """
    refuse_existing(path, "split")
    partial = path.with_name(path.name + ".partial")
    pq.write_table(split, partial)
    partial.replace(path)


def describe(split: pa.Table, cells: pa.Table) -> dict[str, dict[str, int]]:
    """Cells, subjects, groups and classes of each role."""
    label = dict(zip(cells["uid"].to_pylist(), cells["label"].to_pylist(), strict=True))
    out = {}
    for role in ROLES:
        rows = split.filter(pc.field("role") == role)
        labels = [label[uid] for uid in rows["uid"].to_pylist()]
        out[role] = {
            "cells": len(rows),
            "ALL": labels.count(1),
            "healthy": labels.count(0),
            "subjects": len(set(rows["subject"].to_pylist())),
            "groups": len(set(rows["group"].to_pylist())),
        }
    return out
