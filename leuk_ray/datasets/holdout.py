"""Assign whole groups to roles or folds, near the wanted share of every class."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from leuk_ray.datasets.classes import BINARY
from leuk_ray.utils.errors import DataError
from leuk_ray.utils.wording import counted, natural

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

ROLES = ("train", "validation", "test")
MIN_GROUPS = 3  # of each class in each role, where the data allow
WORTH = 0.05  # a split is replaced by the search where that gains more than this share of a class
_DEALS = 500
_STARTS = 8
_STEPS = 100
_CHANGES = 3000  # looked at in one step, of each kind


class UnsuitableError(DataError):
    """The data lack what a protocol needs; another protocol may do."""


def check_groups(
    labels: IntArray,
    groups: npt.NDArray[np.object_] | IntArray,
    protocol: str,
    classes: Sequence[str] = BINARY.names,
) -> None:
    """Check that there is a group of each class for each role.

    Raises:
        UnsuitableError: there are fewer than three of a class.
    """
    number = [len(set(groups[labels == label])) for label in range(len(classes))]
    if min(number) < len(ROLES):
        raise UnsuitableError(
            f"protocol {protocol}: {_by_class(number, classes)}; at least 3 are needed of "
            f"each class ({', '.join(ROLES)}): add subjects"
        )


def _by_class(number: Sequence[int], classes: Sequence[str]) -> str:
    """`13 groups with ALL cells, 1 with healthy cells`."""
    (most, name), *rest = [*zip(number, classes, strict=True)][::-1]
    said = [f"{most} with {name} cells" for most, name in rest]
    return ", ".join([f"{counted(most, 'group')} with {name} cells", *said])


@dataclass(frozen=True)
class GroupTable:
    """How many cells of each class each group holds.

    counts: (K, G) cells. member: (N,) the group of each cell, 0..G-1. classes: K names.
    """

    counts: IntArray
    member: IntArray
    classes: Sequence[str]

    @classmethod
    def of(
        cls, labels: IntArray, groups: npt.NDArray[np.object_], classes: Sequence[str]
    ) -> GroupTable:
        """Count cells; groups are numbered in natural order of their names."""
        index = {name: number for number, name in enumerate(sorted(set(groups), key=natural))}
        member = np.asarray([index[group] for group in groups], np.int64)
        counts = [
            np.bincount(member[labels == label], minlength=len(index))
            for label in range(len(classes))
        ]
        return cls(np.stack(counts), member, classes)

    @property
    def num_groups(self) -> list[int]:
        """Groups that hold cells of each class, K of them."""
        return (self.counts > 0).sum(axis=1).tolist()

    def shares(self, part: IntArray, num_parts: int) -> FloatArray:
        """(P, K) the share of each class's cells that each part holds.

        Args:
            part: (G,) of each group, 0..P-1.
            num_parts: P.
        """
        cells = np.stack([np.bincount(part, own, num_parts) for own in self.counts], axis=1)
        return cells / np.maximum(self.counts.sum(axis=1), 1)


def holdout_roles(
    labels: IntArray,
    groups: npt.NDArray[np.object_],
    fractions: tuple[float, float, float],
    seed: int,
    classes: Sequence[str] = BINARY.names,
) -> npt.NDArray[np.object_]:
    """Assign each cell's group to training, validation or test.

    The best of many random deals. Where a deal leaves a class out of a role, or a search finds an
    assignment that is closer to the wanted shares by more than WORTH, the search's is taken.

    Args:
        labels: (N,) class of each cell, 0..K-1.
        groups: (N,) its group.
        fractions: share of each class in each of ROLES; a role of share 0 stays empty.
        seed: the same seed gives the same roles.
        classes: their K names.

    Returns:
        (N,) names of ROLES.

    Raises:
        UnsuitableError: no assignment gives every role cells of every class.
    """
    table = GroupTable.of(labels, groups, classes)
    target = np.asarray(fractions)
    generator = np.random.default_rng(seed)
    role = _best_deal(table, target, generator)
    role = _search(table, role, target, generator)
    return np.asarray(ROLES, object)[role][table.member]


def fold_roles(
    labels: IntArray,
    groups: npt.NDArray[np.object_],
    fractions: tuple[float, float, float],
    seed: int,
    folds: int,
    fold: int,
    classes: Sequence[str] = BINARY.names,
) -> npt.NDArray[np.object_]:
    """Test is one fold; validation comes from the rest, by group, as in the hold-out.

    Raises:
        DataError: a class has fewer groups than folds.
        UnsuitableError: a fold or a role would lack a class.
    """
    table = GroupTable.of(labels, groups, classes)
    if min(table.num_groups) < folds:
        by_class = _by_class(table.num_groups, classes)
        raise DataError(f"folds {folds}: only {by_class}; ask for fewer folds")
    from sklearn.model_selection import StratifiedGroupKFold

    splitter = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
    place = np.empty(table.counts.shape[1], np.int64)
    for number, (_, test) in enumerate(splitter.split(np.zeros(len(labels)), labels, groups)):
        place[table.member[test]] = number
    equal = np.full(folds, 1 / folds)
    least = 2 if folds == 2 else 1  # what is left of a fold is parted once more
    place = _search(table, place, equal, np.random.default_rng(seed), least)
    tested = place[table.member] == fold
    train, validation, _ = fractions
    share = validation / (train + validation)
    roles = np.full(len(labels), "test", object)
    rest = (1 - share, share, 0)
    roles[~tested] = holdout_roles(labels[~tested], groups[~tested], rest, seed, classes)
    return roles


def _best_deal(table: GroupTable, target: FloatArray, generator: np.random.Generator) -> IntArray:
    """Of many deals the one with the smallest largest error of any role's share of any class."""
    stratum = table.counts.argmax(axis=0)
    best, best_error = np.zeros(len(stratum), np.int64), np.inf
    for _ in range(_DEALS):
        role = np.zeros(len(stratum), np.int64)
        for label, own in enumerate(table.counts):
            members = generator.permutation(np.flatnonzero(stratum == label))
            _deal(role, members, own, target)
        error = np.abs(table.shares(role, len(target)) - target[:, None]).max()
        if error < best_error:
            best, best_error = role, error
    return best


def _deal(role: IntArray, members: IntArray, counts: IntArray, target: FloatArray) -> None:
    """Fill test (2), then validation (1); what is left trains (0)."""
    total = counts[members].sum()
    position = 0
    wanted = [number for number in (2, 1) if target[number] > 0]
    # Train keeps at least as many groups as each of the others must have.
    minimum = min(MIN_GROUPS, len(members) // (len(wanted) + 1))
    for later, number in zip(range(len(wanted), 0, -1), wanted, strict=True):
        filled, taken = 0, 0
        while position < len(members) - minimum * later:
            size = counts[members[position]]
            enough = filled + size / 2 > target[number] * total
            if taken >= minimum and enough:
                break
            role[members[position]] = number
            filled, taken, position = filled + size, taken + 1, position + 1


def _search(
    table: GroupTable,
    start: IntArray,
    target: FloatArray,
    generator: np.random.Generator,
    least: int = 1,
) -> IntArray:
    """Search for an assignment closer to the wanted shares; (G,) the start's or a better one.

    Descends from the start, and from copies of it in which some groups have moved, by the best
    move of a group or exchange of two. Parts of share 0 stay empty, each other one gets at least
    `least` groups of every class.

    Raises:
        UnsuitableError: no such assignment was found.
    """
    asked = np.flatnonzero(target > 0)
    part = np.searchsorted(asked, start)
    cost = _Cost(table, target[asked], least)
    lacking, error = cost.lacking(part), cost.error(part)
    if not lacking and error <= WORTH:
        return start  # nothing can gain more than that
    found = part
    for attempt in range(_STARTS):
        moved = generator.random(len(part)) < 0.3 * (attempt > 0)
        tried = np.where(moved, generator.integers(len(asked), size=len(part)), part)
        tried = _descend(cost, tried, generator)
        if cost(cost.sums(tried)) < cost(cost.sums(found)):
            found = tried
    if cost.lacking(found):
        by_class = _by_class(table.num_groups, table.classes)
        raise UnsuitableError(
            f"no split into {len(asked)} parts was found that gives each part cells of every "
            f"class while groups stay whole: {by_class}; add subjects"
        )
    return asked[found] if lacking or error - cost.error(found) > WORTH else start


class _Cost:
    """How far an assignment is from what is wanted, from sums over each part's groups.

    First comes the number of groups that parts lack of a class, then the largest error of a
    part's share of a class, then the squares of all of them.
    """

    def __init__(self, table: GroupTable, target: FloatArray, least: int) -> None:
        total = np.maximum(table.counts.sum(axis=1), 1)
        self.classes = len(total)
        holds = table.counts > 0
        self.values = np.concatenate([table.counts / total[:, None], holds]).T  # (G, 2K)
        self.target, self.least = target[:, None], least
        self.minimum = np.minimum(MIN_GROUPS, holds.sum(axis=1) // len(target))

    def sums(self, part: IntArray) -> FloatArray:
        """(P, 2K) shares, then groups, of each class in each part."""
        return np.stack([self.values[part == p].sum(axis=0) for p in range(len(self.target))])

    def __call__(self, sums: FloatArray) -> FloatArray:
        """Return the cost of (..., P, 2K) sums, (...)."""
        gap = np.abs(sums[..., : self.classes] - self.target)
        short = np.maximum(0, self.minimum - sums[..., self.classes :]).sum(axis=(-1, -2))
        return 100 * short + gap.max(axis=(-1, -2)) + 0.01 * (gap**2).sum(axis=(-1, -2))

    def error(self, part: IntArray) -> float:
        """Return the largest error of a part's share of a class."""
        return float(np.abs(self.sums(part)[:, : self.classes] - self.target).max())

    def lacking(self, part: IntArray) -> int:
        """In how many parts a class has fewer groups than it must have."""
        return int((self.sums(part)[:, self.classes :] < self.least).sum())


def _descend(cost: _Cost, part: IntArray, generator: np.random.Generator) -> IntArray:
    """Make the best change until none helps: one group moves, or two change places."""
    part, sums = part.copy(), cost.sums(part)
    num_parts, num_groups = len(sums), len(part)
    for _ in range(_STEPS):
        moves = _some(num_groups * num_parts, generator)
        pairs = _some(num_groups * num_groups, generator)
        first = np.concatenate([moves // num_parts, pairs // num_groups])
        second = np.concatenate([np.full(len(moves), -1), pairs % num_groups])
        to = np.concatenate([moves % num_parts, part[second[len(moves) :]]])
        useful = part[first] != to
        first, second, to = first[useful], second[useful], to[useful]
        given = cost.values[first] - np.where(second[:, None] < 0, 0, cost.values[second])
        changed = np.repeat(sums[None], len(first), axis=0)
        rows = np.arange(len(first))
        changed[rows, part[first]] -= given
        changed[rows, to] += given
        value = cost(changed)
        best = int(value.argmin()) if len(value) else -1
        if best < 0 or value[best] >= cost(sums) - 1e-9:
            break
        if second[best] >= 0:
            part[second[best]] = part[first[best]]
        part[first[best]] = to[best]
        sums = cost.sums(part)
    return part


def _some(number: int, generator: np.random.Generator) -> IntArray:
    """All of 0..number-1, or _CHANGES of them by chance."""
    if number <= _CHANGES:
        return np.arange(number)
    return generator.integers(number, size=_CHANGES)
