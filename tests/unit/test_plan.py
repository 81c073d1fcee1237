from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from leuk_ray.datasets.plan import check_batches, plan_epoch, uid_keys
from leuk_ray.errors import UserError

plans = {
    "num_positive": st.integers(1, 40),
    "num_negative": st.integers(1, 40),
    "balance": st.one_of(st.just("none"), st.just("equal"), st.integers(1, 90)),
    "batch_size": st.integers(1, 20),
    "epoch": st.integers(0, 4),
}


def make(num_positive, num_negative, balance, batch_size, epoch, seed=0):
    labels = np.r_[np.ones(num_positive, int), np.zeros(num_negative, int)]
    rows = 7 * np.arange(len(labels))
    plan = plan_epoch(rows, labels, seed=seed, epoch=epoch, balance=balance, batch_size=batch_size)
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
        uses = set(zip(plan.rows.tolist(), plan.draws.tolist(), strict=True))
        assert len(uses) == len(plan.rows)
        assert not uses & seen
        seen |= uses


def test_a_plan_is_a_pure_function_of_seed_and_epoch():
    for other, same in (({"seed": 0}, True), ({"seed": 1}, False)):
        first, second = make(9, 9, "none", 4, 2)[2], make(9, 9, "none", 4, 2, **other)[2]
        assert np.array_equal(first.rows, second.rows) == same
    assert not np.array_equal(make(9, 9, "none", 4, 2)[2].rows, make(9, 9, "none", 4, 3)[2].rows)


def test_uid_keys_are_the_same_on_every_machine():
    assert uid_keys(["UID_1_1_1_all"]).tolist() == [6752325023103365350]
    assert len(set(uid_keys([f"c{n}" for n in range(10_000)]).tolist())) == 10_000


def test_batches_too_small_for_the_workers_are_refused():
    labels = np.r_[np.ones(10, int), np.zeros(10, int)]
    check_batches(20, labels, "none", 10, 5, 1)
    with pytest.raises(UserError, match="2 workers need 4"):
        check_batches(20, labels, "none", 3, 2, 1)
    with pytest.raises(UserError, match=r"2 workers in 2 passes need 8.*lower accumulate"):
        check_batches(20, labels, "none", 7, 2, 2)
    with pytest.raises(UserError, match="no training cell"):
        check_batches(0, labels[:0], "none", 3, 2, 1)
    with pytest.raises(UserError, match="a class has no training cell"):
        check_batches(10, labels[:10], "equal", 3, 1, 1)
