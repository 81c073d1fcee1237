import hashlib
from collections import Counter
from typing import Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from leuk_ray.datasets.plan import ROWS_PER_BLOCK, Balance, Window, plan_epoch, uid_keys
from leuk_ray.recipes.training import TrainingSettings
from leuk_ray.training.cells import EpochPlanner, TrainingCells
from leuk_ray.utils.errors import UserError

plans = {
    "num_positive": st.integers(1, 40),
    "num_negative": st.integers(1, 40),
    "balance": st.one_of(st.just("none"), st.just("equal"), st.integers(1, 90)),
    "batch_size": st.integers(1, 20),
    "epoch": st.integers(0, 4),
}


def make(num_positive, num_negative, balance, batch_size, epoch, seed=0, window: Window = "all"):
    labels = np.r_[np.ones(num_positive, int), np.zeros(num_negative, int)]
    rows = 7 * np.arange(len(labels))
    plan = plan_epoch(
        rows, labels, seed=seed, epoch=epoch, balance=balance, batch_size=batch_size, window=window
    )
    return rows, labels, plan


@given(**plans)
@settings(max_examples=60, deadline=None)
def test_each_class_is_used_exactly_as_often_as_asked(**arguments):
    rows, labels, plan = make(**arguments)
    uses = Counter(plan.rows.tolist())
    for label in (0, 1):
        of_class = [uses[row] for row in rows[labels == label].tolist()]
        wanted = {
            "none": len(of_class),
            "equal": max(arguments["num_positive"], arguments["num_negative"]),
        }.get(arguments["balance"], arguments["balance"])
        assert sum(of_class) == wanted
        assert max(of_class) - min(of_class) <= 1


@given(
    sizes=st.lists(st.tuples(st.integers(0, 1), st.integers(1, 30)), min_size=2, max_size=9),
    balance=plans["balance"],
    epoch=plans["epoch"],
)
@settings(max_examples=60, deadline=None)
def test_subjects_are_used_as_often_as_each_other(sizes, balance, epoch):
    """Counts per subject, then per cell of a subject, differ by one at most; copies are new."""
    sizes = [(0, 3), (1, 2), *sizes]
    labels = np.concatenate([np.full(count, label) for label, count in sizes])
    groups = np.concatenate([np.full(count, n) for n, (_, count) in enumerate(sizes)])
    rows = 7 * np.arange(len(labels))
    asked = {"seed": 0, "epoch": epoch, "balance": balance, "batch_size": 4, "groups": groups}
    plan = plan_epoch(rows, labels, **asked)
    place = plan.rows // 7
    for label in (0, 1):
        wanted = {"none": (labels == label).sum(), "equal": np.bincount(labels).max()}
        assert (labels[place] == label).sum() == wanted.get(balance, balance)
        own = [n for n, (of, _) in enumerate(sizes) if of == label]
        uses = [int((groups[place] == n).sum()) for n in own]
        assert max(uses) - min(uses) <= 1
    for n in range(len(sizes)):
        cells = np.bincount(place, minlength=len(labels))[groups == n]
        assert cells.max() - cells.min() <= 1
    assert len(set(zip(place.tolist(), plan.copy_index.tolist(), strict=True))) == len(place)


@given(**plans, world_size=st.integers(1, 5))
@settings(max_examples=60, deadline=None)
def test_workers_share_every_batch_without_loss_or_overlap(world_size, **arguments):
    _, _, plan = make(**arguments)
    sizes = np.diff(plan.bounds)
    assert sizes.max() <= arguments["batch_size"]
    assert sizes.max() - sizes.min() <= 1
    for batch in range(len(plan)):
        shares = [plan.rows[plan.share(batch, rank, world_size)] for rank in range(world_size)]
        whole = plan.rows[plan.bounds[batch] : plan.bounds[batch + 1]]
        assert np.array_equal(np.concatenate(shares), whole)
        assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_no_two_uses_of_a_row_share_a_draw():
    seen = set()
    for epoch in range(5):
        _, _, plan = make(3, 20, "equal", 8, epoch)
        uses = set(zip(plan.rows.tolist(), plan.copy_index.tolist(), strict=True))
        assert len(uses) == len(plan.rows)
        assert not uses & seen
        seen |= uses


def test_a_plan_is_a_pure_function_of_seed_and_epoch():
    for seed, same in ((0, True), (1, False)):
        first, second = make(9, 9, "none", 4, 2)[2], make(9, 9, "none", 4, 2, seed)[2]
        assert np.array_equal(first.rows, second.rows) == same
    assert not np.array_equal(make(9, 9, "none", 4, 2)[2].rows, make(9, 9, "none", 4, 3)[2].rows)


def test_uid_keys_are_the_same_on_every_machine():
    assert uid_keys(["UID_1_1_1_all"]).tolist() == [6752325023103365350]
    assert len(set(uid_keys([f"c{n}" for n in range(10_000)]).tolist())) == 10_000


def test_batches_too_small_for_the_workers_are_refused():
    def check(rows: int, balance: Balance, batch_size: int, workers: int, accumulate: int):
        labels = np.r_[np.ones(10, int), np.zeros(10, int)]
        cells = TrainingCells([], labels, uid_keys([]), np.arange(rows), np.arange(0))
        settings = TrainingSettings(balance=balance, batch_size=batch_size, accumulate=accumulate)
        EpochPlanner(cells, settings, seed=0).check_batches(workers)

    check(20, "none", 10, 5, 1)
    with pytest.raises(UserError, match="2 workers need 4"):
        check(20, "none", 3, 2, 1)
    with pytest.raises(UserError, match=r"2 workers in 2 microbatches need 8.*lower accumulate"):
        check(20, "none", 7, 2, 2)
    with pytest.raises(UserError, match="no training cell"):
        check(0, "none", 3, 2, 1)
    with pytest.raises(UserError, match="a class has no training cell"):
        check(10, "equal", 3, 1, 1)


def test_plans_of_the_whole_set_have_not_changed():
    """To the last digit: resumed runs and published seeds stand on it."""
    labels = (np.arange(101) % 3 == 0).astype(int)
    digest = hashlib.sha256()
    for balance in ("none", "equal", 90):
        for epoch in (0, 3):
            plan = plan_epoch(
                7 * np.arange(101), labels, seed=5, epoch=epoch, balance=balance, batch_size=16
            )
            for part in (plan.rows, plan.copy_index, plan.bounds):
                digest.update(part.tobytes())
    assert digest.hexdigest() == "ad7ad63195c6bce423f67f21e4390d4bfba7ac17e1bd2032e85a8a4bd6240591"


@given(**plans, window=st.integers(1, 200), seed=st.integers(0, 2))
@settings(max_examples=60, deadline=None)
def test_a_window_changes_the_order_and_nothing_else(window, seed, **arguments):
    whole = make(**arguments, seed=seed)[2]
    plan = make(**arguments, seed=seed, window=window)[2]
    again = make(**arguments, seed=seed, window=window)[2]
    assert np.array_equal(plan.rows, again.rows)
    assert np.array_equal(plan.copy_index, again.copy_index)
    assert np.array_equal(plan.bounds, whole.bounds)
    uses = [sorted(zip(p.rows.tolist(), p.copy_index.tolist(), strict=True)) for p in (plan, whole)]
    assert uses[0] == uses[1]


def windowed(labels: np.ndarray, window: int, epoch: int = 0, balance: Balance = "none"):
    rows = np.arange(len(labels))
    return plan_epoch(
        rows, labels, seed=0, epoch=epoch, balance=balance, batch_size=16, window=window
    )


def test_a_window_reads_a_few_blocks_and_shuffles_blocks_and_rows():
    labels = np.arange(64 * 100) % 2
    plan, next_epoch = windowed(labels, 640), windowed(labels, 640, epoch=1)
    visited = []
    for start in range(0, 6400, 640):
        rows = plan.rows[start : start + 640]
        blocks, counts = np.unique(rows // ROWS_PER_BLOCK, return_counts=True)
        assert counts.tolist() == [64] * 10, "ten whole blocks"
        assert np.abs(np.diff(blocks)).max() > 1, "not neighbours"
        assert np.abs(np.diff(rows)).mean() > 640, "rows of all ten are mixed"
        visited.append(blocks)
    assert sorted(np.concatenate(visited).tolist()) == list(range(100))
    assert not np.array_equal(plan.rows, next_epoch.rows)
    assert set(plan.rows[:640].tolist()) != set(next_epoch.rows[:640].tolist())


def test_copies_of_a_row_are_spread_over_the_epoch():
    labels = (np.arange(64 * 60) < 64 * 10).astype(int)  # the first ten blocks, used five times
    plan = windowed(labels, 640, balance="equal")
    where = np.flatnonzero(plan.rows == 5)
    assert len(where) == 5
    assert np.ptp(where) > len(plan.rows) // 3


def test_what_a_window_costs_in_randomness_is_what_the_documentation_says():
    """Blocks of one class, the worst order there is; the bound ignores that none comes twice."""
    window, epochs = 4096, 8
    labels = (np.arange(64 * 2048) < 64 * 1024).astype(int)
    shares, batches = [], []
    for epoch in range(epochs):
        classes = labels[windowed(labels, window, epoch).rows]
        shares += classes.reshape(-1, window).mean(axis=1).tolist()
        batches += classes.reshape(-1, 16).mean(axis=1).tolist()
    expected = np.sqrt(0.25 * 64 / window)
    # 256 windows: the estimate of a standard deviation is good to 1 / sqrt(512), 4.4%.
    assert np.std(shares) == pytest.approx(expected, rel=0.15)
    assert round(expected, 2) == 0.06
    assert np.std(batches) == pytest.approx(0.14, abs=0.002)


@given(
    counts=st.lists(st.integers(1, 30), min_size=2, max_size=20),
    balance=st.one_of(st.just("equal"), st.integers(1, 60)),
)
@settings(max_examples=40, deadline=None)
def test_every_class_of_many_is_used_as_often_as_asked(
    counts: list[int], balance: Literal["equal"] | int
):
    labels = np.repeat(np.arange(len(counts)), counts)
    plan = plan_epoch(
        np.arange(len(labels)), labels, seed=0, epoch=1, balance=balance, batch_size=7,
        num_classes=len(counts),
    )  # fmt: skip
    wanted = max(counts) if balance == "equal" else balance
    assert np.bincount(labels[plan.rows]).tolist() == [wanted] * len(counts)
    times = np.bincount(plan.rows, minlength=len(labels))
    for label, number in enumerate(counts):  # no row of a class twice as often as another
        assert set(times[labels == label]) <= {wanted // number, -(-wanted // number)}
    with pytest.raises(UserError, match="a class has no training cell"):
        plan_epoch(
            np.arange(len(labels)), labels, seed=0, epoch=0, balance=balance, batch_size=7,
            num_classes=len(counts) + 1,
        )  # fmt: skip
