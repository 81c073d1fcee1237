"""Batches of what comes one by one."""

from __future__ import annotations

import asyncio

import pytest

from leuk_ray.serving.batching import Batches


def test_what_waits_is_scored_together_and_each_gets_its_own():
    async def run() -> list[list[int]]:
        seen: list[list[int]] = []
        go = asyncio.Event()
        running = 0

        async def score(items: list[int]) -> list[int]:
            nonlocal running
            running += 1
            assert running <= 2, "at once"
            seen.append(items)
            await go.wait()
            running -= 1
            if 13 in items:
                raise RuntimeError("not finite")
            return [10 * item for item in items]

        batches = Batches(score, size=4, at_once=2)
        asked = [asyncio.create_task(batches(n)) for n in range(3)]
        await asyncio.sleep(0.01)
        asked += [asyncio.create_task(batches(n)) for n in range(3, 14)]
        await asyncio.sleep(0.01)
        asked[8].cancel()  # while it waits: it is not scored
        asked[4].cancel()  # while it is scored: the others are
        await asyncio.sleep(0.01)
        go.set()
        answers = await asyncio.gather(*asked, return_exceptions=True)
        for number, answer in enumerate(answers):
            if number in (4, 8):
                assert isinstance(answer, asyncio.CancelledError)
            elif number >= 12:
                assert isinstance(answer, RuntimeError)
            else:
                assert answer == 10 * number
        assert await batches(99) == 990, "and it goes on"
        return seen

    assert asyncio.run(run()) == [[0, 1, 2], [3, 4, 5, 6], [7, 9, 10, 11], [12, 13], [99]]


@pytest.mark.parametrize(("wait", "sizes"), [(0.0, [1, 1]), (0.1, [2])])
def test_a_batch_may_wait_for_others(wait: float, sizes: list[int]):
    async def run() -> list[int]:
        seen: list[int] = []

        async def score(items: list[int]) -> list[int]:
            seen.append(len(items))
            return items

        batches = Batches(score, size=8, at_once=1, wait_seconds=wait)
        first = asyncio.create_task(batches(1))
        await asyncio.sleep(0.02)
        assert await asyncio.gather(first, batches(2)) == [1, 2]
        return seen

    assert asyncio.run(run()) == sizes
