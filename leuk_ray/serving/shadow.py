"""Shadows: versions that answer for nobody, compared with those that do.

A finished request is offered and never waits: its files go to a bounded queue, and what finds
that full is dropped and counted. They are scored only while the replica has nothing else to do.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict, dataclass, field

from leuk_ray.inference.classifier import Cell
from leuk_ray.inference.predictions import Prediction
from leuk_ray.serving.decoding import Named
from leuk_ray.serving.errors import without_texts
from leuk_ray.serving.monitoring import Metrics
from leuk_ray.serving.served_model import ServedModel
from leuk_ray.serving.traffic import QUIET_SECONDS, Traffic

_WAITING = 256  # requests
_WAITING_BYTES = 64 * 2**20
_LOG_SECONDS = 10.0

shadow_log = logging.getLogger("leuk_ray.shadow")
logger = logging.getLogger(__name__)


@dataclass
class Compared:
    """Of one shadow with one version that answered, since the replica began.

    compared: images. label_changes: of these, with another label. max_difference,
    sum_difference: of |difference of probability|. failed: images that the shadow gave no
    answer for. dropped: requests that were not compared because too many waited.
    """

    compared: int = 0
    label_changes: int = 0
    max_difference: float = 0.0
    sum_difference: float = 0.0
    failed: int = 0
    dropped: int = 0


@dataclass(frozen=True)
class _Offer:
    shadow: str
    compared: Compared
    files: list[Named]
    answers: list[Prediction]
    num_bytes: int = field(default=0)


class Shadows:
    """The shadows of a replica."""

    def __init__(
        self,
        references: Sequence[str],
        load: Callable[[str, ServedModel | None], Awaitable[ServedModel]],
        traffic: Traffic,
        metrics: Metrics,
    ) -> None:
        """Begin without any loaded.

        Args:
            references: NAME@VERSION or NAME@ALIAS of each.
            load: the served that a reference means now; given the one it meant before.
            traffic: of the replica.
            metrics: where to count.
        """
        self._references = references
        self._load = load
        self._traffic, self._metrics = traffic, metrics
        self._runners: dict[str, ServedModel] = {}
        self._waiting: deque[_Offer] = deque()
        self._bytes = 0
        self._working: asyncio.Task[None] | None = None
        self._logged = -_LOG_SECONDS
        self.seen: dict[tuple[str, str, str], Compared] = {}

    def of(self, name: str) -> list[str]:
        """Say what follows the @ of a model's shadows."""
        found = (reference.partition("@") for reference in self._references)
        return [version for of, _, version in found if of == name]

    async def start(self) -> None:
        """Load the shadows; one that cannot be loaded is logged and retried later."""
        for reference in self._references:
            try:
                await self._served(reference)
            except Exception as error:
                logger.error("shadow %s is not compared:\n%s", reference, without_texts(error))

    def offer(self, served: ServedModel, files: list[Named], answers: list[Prediction]) -> None:
        """Files that `served` answered, for each shadow of its model; returns at once."""
        for reference in self._references:
            name, _, version = reference.partition("@")
            if name != served.info.name:
                continue
            key = (name, served.info.version, version)
            compared = self.seen.setdefault(key, Compared())
            num_bytes = sum(len(data) for _, data in files)
            if len(self._waiting) >= _WAITING or self._bytes + num_bytes > _WAITING_BYTES:
                compared.dropped += 1
                self._metrics.shadow_dropped(name)
                continue
            self._bytes += num_bytes
            self._waiting.append(_Offer(reference, compared, files, answers, num_bytes))
        if self._waiting and (self._working is None or self._working.done()):
            self._working = asyncio.create_task(self._work())

    async def _work(self) -> None:
        while self._waiting:
            while not self._traffic.quiet:
                await asyncio.sleep(QUIET_SECONDS)
            offer = self._waiting.popleft()
            self._bytes -= offer.num_bytes
            try:
                await self._compare(offer)
            except Exception as error:  # whatever a shadow does, nobody waits for it
                offer.compared.failed += len(offer.files)
                logger.error("shadow %s gave no answer:\n%s", offer.shadow, without_texts(error))
            if not self._waiting:  # what comes until the next line is in it
                await asyncio.sleep(max(0.0, self._logged + _LOG_SECONDS - time.monotonic()))
            if time.monotonic() - self._logged >= _LOG_SECONDS:
                self._log()

    async def _compare(self, offer: _Offer) -> None:
        served = await self._served(offer.shadow)
        read = await served.read(offer.files, "shadow")
        cells = [item for item in read if isinstance(item, Cell)]
        theirs = iter((await served.classify(cells))[0])
        compared = offer.compared
        for answer, item in zip(offer.answers, read, strict=True):
            shadow = next(theirs) if isinstance(item, Cell) else item
            if not isinstance(shadow, Prediction):
                compared.failed += 1
                continue
            stated = shadow.probabilities
            difference = max(
                abs(stated.get(name, 0.0) - value) for name, value in answer.probabilities.items()
            )
            changed = shadow.label != answer.label
            compared.compared += 1
            compared.label_changes += changed
            compared.sum_difference += difference
            compared.max_difference = max(compared.max_difference, difference)
            self._metrics.shadow(served.info.name, difference, changed)

    async def _served(self, reference: str) -> ServedModel:
        self._runners[reference] = await self._load(reference, self._runners.get(reference))
        return self._runners[reference]

    def _log(self) -> None:
        self._logged = time.monotonic()
        for (name, version, shadow), compared in self.seen.items():
            line = {"model": name, "version": version, "shadow": shadow, **asdict(compared)}
            shadow_log.info(json.dumps(line))
