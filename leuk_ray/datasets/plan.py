"""The epoch plan: what an epoch trains on, in which order and in which batches.

A pure function of (seed, epoch, rows, balance, groups, batch size, window). Loaders only deliver
it, so a stream, a cache, one worker or three, a resumed run and an unbroken one see the same thing.

With a window, an epoch is shuffled in two steps, for sets that no memory holds: blocks of rows
that lie together are shuffled, then the samples inside each window. Storage is then read a block
at a time and a reader holds one window of pixels. The price is randomness: rows of different
windows never meet in a batch of that epoch, and where neighbours are alike (datasets are ordered
by uid, so a subject's cells are neighbours) a window is a sample of window / 64 blocks. The
share of a class in a window then strays by at most sqrt(p (1 - p) 64 / window): for p = 0.5
and 4,096 samples by 0.06, and in a batch of 16 by 0.14 instead of 0.125.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Literal

import numpy as np

from leuk_ray.utils.errors import DataError

Balance = Literal["none", "equal"] | int
Window = Literal["all"] | int
Cache = Literal["auto", "device", "host", "none"]  # of `loaders`; settings are read without torch

ROWS_PER_BLOCK = 64  # 8 row groups of Parquet: 5 MB of cells at 300 px, lz4
_COPIES_PER_EPOCH = 1 << 20


@dataclass(frozen=True)
class EpochPlan:
    """One epoch as global batches.

    rows: (N,) int64, rows of the dataset in training order.
    copy_index: (N,) uint64, which copy of its row each sample is, for augmentation; no two
        samples of a row share one in a whole run.
    bounds: (num_batches + 1,) int64, batch b is rows[bounds[b]:bounds[b + 1]].
    """

    rows: np.ndarray
    copy_index: np.ndarray
    bounds: np.ndarray

    def __len__(self) -> int:
        return len(self.bounds) - 1

    def share(self, batch: int, rank: int, world_size: int) -> slice:
        """Say where in `rows` worker `rank`'s part of a global batch lies.

        A batch that the workers do not divide is cut unevenly, never padded or trimmed.
        """
        start, stop = int(self.bounds[batch]), int(self.bounds[batch + 1])
        size = stop - start
        return slice(start + rank * size // world_size, start + (rank + 1) * size // world_size)

    def partners(self, batch: int, part: slice) -> np.ndarray:
        """(n,) where in `rows` the samples are that those of `part` are mixed with.

        The next of the global batch, which is in random order; the last takes the first.
        """
        start = int(self.bounds[batch])
        return start + (np.arange(part.start, part.stop) + 1 - start) % self.batch_size(batch)

    def batch_size(self, batch: int) -> int:
        """Rows in a global batch."""
        return int(self.bounds[batch + 1] - self.bounds[batch])


def plan_epoch(
    rows: np.ndarray,
    labels: np.ndarray,
    *,
    seed: int,
    epoch: int,
    balance: Balance,
    batch_size: int,
    window: Window = "all",
    copies: np.ndarray | None = None,
    num_classes: int = 2,
    groups: np.ndarray | None = None,
) -> EpochPlan:
    """Plan one epoch.

    Args:
        rows: (n,) int64, the training rows, in a fixed order.
        labels: (n,) int, their classes.
        seed: of the run.
        epoch: from 0.
        balance: samples of each class in an epoch: `none`, each row once; `equal`, as many of every
            class as the largest has; a number, that many of every class (saeed2022, augmentation:
            20,000). A row is used floor(number / n_class) times, and as many as are wanting, chosen
            anew each epoch, once more.
        batch_size: the largest global batch. The N samples are cut into ceil(N / batch_size)
            batches whose sizes differ by one at most, so there is no tiny last batch.
        window: how many samples are shuffled together, see above; `all` shuffles the epoch.
        copies: (n,) uint64, of `paper-literal`: each row's copy index, used once in every epoch;
            the copies are balanced already, so `balance` has no say.
        num_classes: labels are 0 to num_classes - 1.
        groups: (n,) int, of the rows: the samples of a class are shared out evenly among its
            groups, then those of a group among its rows, each time as evenly as whole numbers
            allow. None shares them out among the class's rows.

    Raises:
        UserError: no rows, or a class without rows to balance with.
    """
    if not len(rows):
        raise DataError("there is no training cell; check the split")
    generator = np.random.default_rng([seed, epoch])
    if copies is not None:
        balance, groups = "none", None
    sampled, copy = _samples(labels, groups, balance, num_classes, generator)
    if window == "all":
        order = generator.permutation(len(sampled))
    else:
        order = _windowed(rows[sampled] // ROWS_PER_BLOCK, copy, window, generator)
    sampled, copy = sampled[order], copy[order]
    num_batches = -(-len(sampled) // batch_size)
    bounds = np.arange(num_batches + 1, dtype=np.int64) * len(sampled) // num_batches
    copy_index = np.uint64(epoch * _COPIES_PER_EPOCH) + copy.astype(np.uint64)
    if copies is not None:
        copy_index = copies[sampled]
    return EpochPlan(rows[sampled], copy_index, bounds)


def uid_keys(uids: list[str]) -> np.ndarray:
    """Return (n,) uint64, a hash of each uid for counter-based numbers, alike on every machine."""
    return np.asarray(
        [int.from_bytes(hashlib.blake2b(uid.encode(), digest_size=8).digest()) for uid in uids],
        np.uint64,
    )


def _samples(
    labels: np.ndarray,
    groups: np.ndarray | None,
    balance: Balance,
    num_classes: int,
    generator: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:
    """Return each sample's position in the training rows, and its copy index within the epoch."""
    if balance == "none" and groups is None:
        return np.arange(len(labels)), np.zeros(len(labels), np.int64)
    classes = [np.flatnonzero(labels == label) for label in range(num_classes)]
    if balance == "none":
        classes = [members for members in classes if len(members)]
    if any(not len(members) for members in classes):
        raise DataError("balance: a class has no training cell; check the split or balance=none")
    parts: list[tuple[np.ndarray, np.ndarray]] = []
    for members in classes:
        wanted = balance if isinstance(balance, int) else len(members)
        if balance == "equal":
            wanted = max(map(len, classes))
        if groups is None:
            parts.append(_spread(members, wanted, generator))
            continue
        chosen, _ = _spread(np.unique(groups[members]), wanted, generator)
        for group, share in zip(*np.unique(chosen, return_counts=True), strict=True):
            parts.append(_spread(members[groups[members] == group], int(share), generator))
    sampled, copies = zip(*parts, strict=True)
    return np.concatenate(sampled), np.concatenate(copies)


def _spread(
    members: np.ndarray, wanted: int, generator: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Take members `wanted` times in all, equally often but for a rest that is chosen at random.

    Returns:
        (wanted,) members, and how often each was taken before.
    """
    whole, rest = divmod(wanted, len(members))
    return (
        np.concatenate([np.tile(members, whole), generator.permutation(members)[:rest]]),
        np.concatenate([np.repeat(np.arange(whole), len(members)), np.full(rest, whole)]),
    )


def _windowed(
    block: np.ndarray, copy: np.ndarray, window: int, generator: np.random.Generator
) -> np.ndarray:
    """Shuffle the blocks of the samples, then the samples inside each window.

    A row's copies lie in blocks of their own, so that they are spread over the epoch.
    """
    _, number = np.unique(copy * (block.max() + 1) + block, return_inverse=True)
    place = generator.permutation(number.max() + 1)
    order = np.argsort(place[number], kind="stable")
    for start in range(0, len(order), window):
        generator.shuffle(order[start : start + window])
    return order
