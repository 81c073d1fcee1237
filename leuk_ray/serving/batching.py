"""Batches of images that come one by one, formed while a forward pass runs."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

T = TypeVar("T")
R = TypeVar("R")


class Batches(Generic[T, R]):
    """Scores what waits, up to `size` at once, as soon as one of `at_once` batches is free.

    In place of `serve.batch`, whose wrappers and metrics take more time of the event loop
    (benchmarks/results/serve.json).
    """

    def __init__(
        self,
        score: Callable[[list[T]], Awaitable[list[R]]],
        *,
        size: int,
        at_once: int,
        wait_seconds: float = 0.0,
    ) -> None:
        """Begin with none waiting.

        Args:
            score: answers for a batch, in its order.
            size: largest batch.
            at_once: batches that are scored side by side.
            wait_seconds: that a batch waits for others before it begins, unless it is full.
        """
        self._score, self._size, self._free = score, size, at_once
        self._wait_seconds = wait_seconds
        self._waiting: deque[tuple[T, asyncio.Future[R]]] = deque()
        self._running: set[asyncio.Task[None]] = set()

    async def __call__(self, item: T) -> R:
        """Score one; raises what scoring its batch raised."""
        result: asyncio.Future[R] = asyncio.get_running_loop().create_future()
        self._waiting.append((item, result))
        self._begin()
        return await result

    def _begin(self) -> None:
        if self._free and self._waiting:
            self._free -= 1
            task = asyncio.create_task(self._run())
            self._running.add(task)
            task.add_done_callback(self._running.discard)

    async def _run(self) -> None:
        if self._wait_seconds and len(self._waiting) < self._size:
            await asyncio.sleep(self._wait_seconds)
        batch: list[tuple[T, asyncio.Future[R]]] = []
        while self._waiting and len(batch) < self._size:
            item, result = self._waiting.popleft()
            if not result.done():  # else its request has been given up
                batch.append((item, result))
        try:
            scores = await self._score([item for item, _ in batch]) if batch else []
            for (_, result), score in zip(batch, scores, strict=True):
                if not result.done():
                    result.set_result(score)
        except Exception as error:
            for _, result in batch:
                if not result.done():
                    result.set_exception(error)
        finally:
            self._free += 1
            self._begin()
