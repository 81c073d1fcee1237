"""Roles for cells whose groups stay whole, near the wanted fractions in every class."""

from __future__ import annotations

import numpy as np

from leuk_ray.utils.errors import DataError
from leuk_ray.utils.wording import counted, natural

ROLES = ("train", "validation", "test")
MIN_GROUPS = 3  # of each class in validation and in test, where the data allow
_TRIES = 500


class UnsuitableError(DataError):
    """The data lack what a protocol needs; another protocol may do."""


def check_groups(labels: np.ndarray, groups: np.ndarray, protocol: str) -> None:
    """Each role needs a group of each class.

    Raises:
        UnsuitableError: there are fewer than three of a class.
    """
    for label, name in ((1, "ALL"), (0, "healthy")):
        count = len(set(groups[labels == label]))
        if count < len(ROLES):
            raise UnsuitableError(
                f"protocol {protocol}: {counted(count, 'group')} with {name} cells, at least 3 are "
                "needed (train, validation, test); add subjects"
            )


def fold_roles(
    labels: np.ndarray,
    groups: np.ndarray,
    fractions: tuple[float, float, float],
    seed: int,
    folds: int,
    fold: int,
) -> np.ndarray:
    """Test is one fold; validation comes from the rest, by group, as in the hold-out.

    Raises:
        UserError: a class has fewer groups than folds.
    """
    for label, name in ((1, "ALL"), (0, "healthy")):
        count = len(set(groups[labels == label]))
        if count < folds:
            raise DataError(
                f"folds {folds}: only {counted(count, 'group')} with {name} cells; ask for fewer"
            )
    from sklearn.model_selection import StratifiedGroupKFold

    splitter = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
    rest, test = list(splitter.split(np.zeros(len(labels)), labels, groups))[fold]
    train, validation, _ = fractions
    share = validation / (train + validation)
    roles = np.empty(len(labels), object)
    roles[test] = "test"
    roles[rest] = holdout_roles(labels[rest], groups[rest], (1 - share, share, 0), seed)
    return roles


def holdout_roles(
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
