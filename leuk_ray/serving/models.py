"""The models that a replica answers with: one bundle, or those of a registry."""

from __future__ import annotations

import asyncio
import base64
import io
import logging
import os
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import ParamSpec, TypeVar

import numpy as np
from PIL import Image

from leuk_ray.errors import UserError
from leuk_ray.images import BadImageError
from leuk_ray.inference.classifier import Cell, Classifier, Prediction, Scores
from leuk_ray.inference.explain import explain_pixels, overlay
from leuk_ray.locations import Location, parse
from leuk_ray.serving.drift import Drift, Shift
from leuk_ray.serving.monitoring import Metrics
from leuk_ray.serving.problems import Problem
from leuk_ray.serving.schemas import ModelInfo
from leuk_ray.serving.settings import ServeSettings
from leuk_ray.serving.sources import Found, fingerprint, open_source

Named = tuple[str, bytes]
P = ParamSpec("P")
T = TypeVar("T")

Scored = tuple[Scores, int]
# Turns a function of many images into one of one image, whose calls share forward passes.
Batched = Callable[
    [Callable[[list[np.ndarray]], Awaitable[list[Scored]]]],
    Callable[[np.ndarray], Awaitable[Scored]],
]

logger = logging.getLogger(__name__)

_RESOLVE_SECONDS = 1.0
_CHECK_SECONDS = 1.0
_MAX_REFERENCES = 1000


class _Pool:
    """A few threads of their own, awaited from the event loop."""

    def __init__(self, num_threads: int, name: str) -> None:
        self._threads = ThreadPoolExecutor(num_threads, name)

    async def run(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        call = partial(function, *args, **kwargs)
        return await asyncio.get_running_loop().run_in_executor(self._threads, call)


class Runner:
    """A loaded bundle: decoding in threads, one forward pass at a time in another."""

    def __init__(
        self, found: Found, settings: ServeSettings, metrics: Metrics, batched: Batched
    ) -> None:
        self.classifier = Classifier.load(found.path, settings.device, settings.engine)
        self.info = ModelInfo(
            name=found.name,
            version=found.version,
            fingerprint=fingerprint(found.path),
            engine=self.classifier.engine.name,
        )
        self.max_batch_size = settings.max_batch_size
        self.metrics = metrics
        self._decoding = _Pool(os.cpu_count() or 1, "decode")
        self._forward = _Pool(1, "forward")
        self._score = batched(self._score_batch)
        scope = self.classifier.facts.scope
        self._drift = Drift(scope.typical if scope else {})
        self._alarmed = False

    @property
    def shift(self) -> Shift | None:
        """How far the latest pictures have strayed from the training cells."""
        return self._drift.shift()

    def warm_up(self) -> None:
        """Run the network at every batch size."""
        size = self.classifier.facts.storage.size
        for num in range(1, self.max_batch_size + 1):
            self.classifier.score(np.zeros((num, size, size, 3), np.uint8))

    async def check(self) -> None:
        """Run the network once; raises RuntimeError if it gives no number."""
        size = self.classifier.facts.storage.size
        black = np.zeros((1, size, size, 3), np.uint8)
        scores = await self._forward.run(self.classifier.score, black)
        if not np.isfinite(scores.probability).all():
            raise RuntimeError(f"{self.info.name}: the network gives no number")

    async def read(self, files: Sequence[Named]) -> list[Cell | BadImageError]:
        """Decode named files; a bad one is an item."""
        return await asyncio.gather(*(self._decoding.run(self._read, file) for file in files))

    async def answer(self, cells: Sequence[Cell]) -> list[Prediction]:
        """Score decoded cells, in one batch with those of other requests."""
        scored = await asyncio.gather(*(self._score(cell.pixels) for cell in cells))
        answers = [
            self.classifier.answer(cell, scores, index)
            for cell, (scores, index) in zip(cells, scored, strict=True)
        ]
        for cell, answer, (scores, index) in zip(cells, answers, scored, strict=True):
            self.metrics.answer(self.info.name, answer)
            far = {} if scores.distance is None else {"distance": float(scores.distance[index])}
            self._watch(cell.features | far)
        return answers

    async def explain(self, cells: Sequence[Cell]) -> list[str]:
        """Each cell with its Grad-CAM heat, a PNG as a data URL.

        It takes turns with the scoring passes, whose features its hook would replace.

        Raises:
            UserError: the network has no map.
        """
        pictures: list[str] = []
        for start in range(0, len(cells), self.max_batch_size):
            pixels = np.stack([cell.pixels for cell in cells[start : start + self.max_batch_size]])
            explained = await self._forward.run(explain_pixels, self.classifier, pixels, "gradcam")
            drawn = (
                self._decoding.run(_picture, *pair)
                for pair in zip(pixels, (e.heat for e in explained), strict=True)
            )
            pictures += await asyncio.gather(*drawn)
        return pictures

    def _watch(self, features: dict[str, float]) -> None:
        self._drift.add(features)
        shift = self.shift
        if shift is None:
            return
        self.metrics.drift(self.info.name, shift)
        if shift.alarm and not self._alarmed:
            logger.warning(
                "%s: drift: %s of the latest pictures is %.1f deviations off the training cells'",
                self.info.name, shift.name, shift.effect,
            )  # fmt: skip
        self._alarmed = shift.alarm

    async def _score_batch(self, pixels: list[np.ndarray]) -> list[Scored]:
        self.metrics.batch(len(pixels))
        scores = await self._forward.run(self.classifier.score, np.stack(pixels))
        return [(scores, index) for index in range(len(pixels))]

    def _read(self, file: Named) -> Cell | BadImageError:
        try:
            return self.classifier.read(*file)
        except BadImageError as error:
            self.metrics.rejected(error.reason)
            return error


def _picture(pixels: np.ndarray, heat: np.ndarray) -> str:
    """A cell with its heat, a PNG as a data URL."""
    out = io.BytesIO()
    Image.fromarray(overlay(pixels, heat)).save(out, "PNG")
    return "data:image/png;base64," + base64.b64encode(out.getvalue()).decode()


class Models:
    """Bundles by name, loaded when asked for; the least used leave where too many are loaded.

    A promotion in the registry is followed without a pause: as long as the new champion
    loads, the old one answers.
    """

    def __init__(self, settings: ServeSettings, metrics: Metrics, batched: Batched) -> None:
        self.settings, self.metrics, self.batched = settings, metrics, batched
        self.source = open_source(parse(settings.bundle))
        self._loaded: OrderedDict[Location, Runner] = OrderedDict()
        self._loading: dict[Location, asyncio.Task[Runner]] = {}
        self._one_load = asyncio.Lock()
        self._checking: asyncio.Task[None] | None = None
        self._checked = -_CHECK_SECONDS
        self._answering: dict[str, Location] = {}
        self._resolved: dict[str, tuple[float, Found]] = {}

    async def start(self) -> None:
        """Load what answers where no model is named, or the first few of a registry."""
        for name in self.source.names()[: self.settings.max_models]:
            await self.get(name)

    async def check(self) -> None:
        """Run every loaded network once; callers share a run, and for a second its success.

        Raises:
            RuntimeError: a network gives no number.
        """
        if time.monotonic() - self._checked < _CHECK_SECONDS:
            return
        if self._checking is None or self._checking.done():
            self._checking = asyncio.create_task(self._check())
        await asyncio.shield(self._checking)

    def loaded(self, found: Found) -> Runner | None:
        """The runner of a bundle, if it is in memory."""
        return self._loaded.get(found.path)

    async def get(self, reference: str | None) -> Runner:
        """The runner of NAME, NAME@VERSION or NAME@ALIAS.

        Args:
            reference: None for the only model there is.

        Raises:
            Problem: 404 for no such model, 422 where one must be named, 503 for a broken one.
        """
        wanted = reference or self.source.default()
        if wanted is None:
            names = ", ".join(self.source.names())
            raise Problem(422, "model", f"name a model, as ?model=NAME: there are {names}")
        found = self._resolve(wanted)
        if found.path in self._loaded:
            self._loaded.move_to_end(found.path)
            self._answering[wanted] = found.path
            return self._loaded[found.path]
        if found.path not in self._loading:
            task = asyncio.create_task(self._load(found))
            self._loading[found.path] = task
            task.add_done_callback(lambda _: self._loading.pop(found.path, None))
        previous = self._answering.get(wanted)
        if previous in self._loaded:
            return self._loaded[previous]
        return await asyncio.shield(self._loading[found.path])

    def _resolve(self, reference: str) -> Found:
        now = time.monotonic()
        if reference in self._resolved and now - self._resolved[reference][0] < _RESOLVE_SECONDS:
            return self._resolved[reference][1]
        try:
            found = self.source.resolve(reference)
        except UserError as error:
            logger.info("no model: %r", str(error))
            raise Problem(404, "no_model", "no such model here; see /v1/models") from error
        if len(self._resolved) >= _MAX_REFERENCES:
            self._resolved.clear()
        self._resolved[reference] = (now, found)
        return found

    async def _load(self, found: Found) -> Runner:
        def load() -> Runner:
            runner = Runner(found, self.settings, self.metrics, self.batched)
            runner.warm_up()
            return runner

        reference = f"{found.name}@{found.version}"
        async with self._one_load:
            try:
                runner = await asyncio.to_thread(load)
            except UserError as error:
                logger.error("%s: %s", reference, error)
                raise Problem(503, "broken_model", f"{reference} cannot be loaded") from error
            self._loaded[found.path] = runner
            while len(self._loaded) > self.settings.max_models:
                self._loaded.popitem(last=False)
        return runner

    async def _check(self) -> None:
        for runner in list(self._loaded.values()):
            await runner.check()
        self._checked = time.monotonic()
