"""The models that a replica answers with: one bundle, or those of a registry."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from leuk_ray.inference.predictions import Prediction
from leuk_ray.io.locations import Location, parse
from leuk_ray.serving.decoding import Named
from leuk_ray.serving.errors import Problem, model_problem
from leuk_ray.serving.monitoring import Metrics
from leuk_ray.serving.routing import Canaries
from leuk_ray.serving.served_model import ServedModel
from leuk_ray.serving.settings import ServeSettings
from leuk_ray.serving.shadow import Shadows
from leuk_ray.serving.sources import Found, open_source
from leuk_ray.serving.traffic import Traffic
from leuk_ray.utils.errors import UnknownModelError, UserError

logger = logging.getLogger(__name__)

_RESOLVE_SECONDS = 1.0
_CHECK_SECONDS = 1.0
_BROKEN_SECONDS = (10.0, 600.0)  # before a version is loaded anew, from the first failure on
_READY_SECONDS = 2.0
_MAX_REFERENCES = 1000


@dataclass(frozen=True)
class _Broken:
    """Why a bundle was not loaded, and until when that is not tried again."""

    kind: type[BaseException]
    until: float
    waited: float


_WHOLE = _Broken(Exception, 0.0, 0.0)


class Models:
    """Bundles by name, loaded when asked for; the least used leave where too many are loaded.

    A promotion in the registry is followed without a pause and without a request: what is asked
    for by name is looked up every second, and the old champion answers until the new one is
    loaded. It goes on answering where the new one cannot be loaded, which is logged and counted.
    """

    def __init__(
        self,
        settings: ServeSettings,
        metrics: Metrics,
        make: Callable[[Found], Awaitable[ServedModel]],
    ) -> None:
        """Begin without any loaded.

        Args:
            settings: what to serve.
            metrics: where to count.
            make: a bundle's served; it may take its time, and raise UserError.
        """
        self.source = open_source(parse(settings.bundle), settings.trusted_keys)
        self.canaries = Canaries(settings.canaries)
        self.traffic = Traffic()
        self.shadows = Shadows(settings.shadows, self._load_shadow, self.traffic, metrics)
        self._make = make
        self._most = settings.max_models + len(settings.canaries)
        self._named = self.source.names()[: settings.max_models]
        self._loaded: OrderedDict[Location, ServedModel] = OrderedDict()
        self._loading: dict[Location, asyncio.Task[ServedModel]] = {}
        self._one_load = asyncio.Lock()
        self._checking: asyncio.Task[None] | None = None
        self._checked = -_CHECK_SECONDS
        self._answering: dict[str, Location] = {}
        self._resolved: dict[str, tuple[float, Found]] = {}
        self._broken: dict[Location, _Broken] = {}
        self._watching: asyncio.Task[None] | None = None
        self._metrics = metrics

    async def start(self) -> None:
        """Load what answers where no model is named, or the first few of a registry."""
        for name in self._named:
            await self._get(name)
            for canary in self.canaries.of(name):
                await self._get_or_none(f"{name}@{canary}")
        await self.shadows.start()

    async def check_ready(self) -> None:
        """Check that a request would be answered soon.

        Raises:
            Problem: 503, `check` fails or takes more than 2 seconds.
        """
        try:
            async with asyncio.timeout(_READY_SECONDS):
                await self.check()
        except (TimeoutError, RuntimeError) as error:
            logger.error("not ready: %s", error or f"no answer in {_READY_SECONDS:g} s")
            detail = f"no answer in {_READY_SECONDS:g} s, or none that is a number"
            raise Problem(503, "not_ready", detail, headers={"Retry-After": "1"}) from error

    async def check(self) -> None:
        """Decode and score with every loaded model; callers share a run, for a second its success.

        Raises:
            RuntimeError: the model output is not finite.
        """
        if time.monotonic() - self._checked < _CHECK_SECONDS:
            return
        if self._checking is None or self._checking.done():
            self._checking = asyncio.create_task(self._check())
        await asyncio.shield(self._checking)

    def loaded(self, found: Found) -> ServedModel | None:
        """Return the served of a bundle, if it is in memory."""
        return self._loaded.get(found.path)

    async def get(self, reference: str | None, request_id: str = "") -> ServedModel:
        """Return the served of NAME, NAME@VERSION or NAME@ALIAS.

        Args:
            reference: None for the only model there is.
            request_id: chooses between a model and its canaries, where no version is named.

        Raises:
            Problem: 404 for no such model, 422 where one must be named, 503 for a broken one.
        """
        wanted = reference or self.source.default()
        if wanted is None:
            names = ", ".join(self.source.names())
            raise Problem(422, "model", f"name a model, as ?model=NAME: there are {names}")
        canary = self.canaries.chosen(wanted, request_id)
        served = await self._get_or_none(canary) if canary else None
        return served or await self._get(wanted)

    def answered(
        self,
        reference: str | None,
        served: ServedModel,
        files: list[Named],
        answers: list[Prediction],
    ) -> None:
        """Offer what a champion or its canary answered to the shadows."""
        if (reference or self.source.default()) == served.info.name:
            self.shadows.offer(served, files, answers)

    async def _get_or_none(self, reference: str) -> ServedModel | None:
        """Return a canary; its failure costs nobody an answer."""
        try:
            return await self._get(reference)
        except Problem as problem:
            logger.error("canary %s does not answer: %s", reference, problem)
            return None

    async def _get(self, wanted: str) -> ServedModel:
        if self._watching is None or self._watching.done():
            self._watching = asyncio.create_task(self._watch())
        found = self._resolve(wanted)
        if found.path in self._loaded:
            self._loaded.move_to_end(found.path)
            self._answering[wanted] = found.path
            return self._loaded[found.path]
        loading = self._begin(found)
        previous = self._answering.get(wanted)
        if previous in self._loaded:
            return self._loaded[previous]
        if loading is None:
            raise _cannot_load(found, self._broken[found.path].kind)
        served = await asyncio.shield(loading)
        self._answering[wanted] = found.path
        return served

    def _begin(self, found: Found) -> asyncio.Task[ServedModel] | None:
        """Return the task that loads a bundle; None where that has failed a while ago."""
        if found.path not in self._loading:
            if time.monotonic() < self._broken.get(found.path, _WHOLE).until:
                return None
            task = asyncio.create_task(self._load(found))
            self._loading[found.path] = task
            task.add_done_callback(lambda _: self._loading.pop(found.path, None))
            task.add_done_callback(lambda done: done.cancelled() or done.exception())
        return self._loading[found.path]

    async def _watch(self) -> None:
        """Load what the references that are answered have come to mean."""
        while True:
            await asyncio.sleep(_RESOLVE_SECONDS)
            for reference, path in list(self._answering.items()):
                try:
                    found = await asyncio.to_thread(self.source.resolve, reference)
                except UserError:  # requests report it, and the log through them
                    continue
                if path in self._loaded and found.path not in self._loaded:
                    self._begin(found)

    def _resolve(self, reference: str) -> Found:
        now = time.monotonic()
        if reference in self._resolved and now - self._resolved[reference][0] < _RESOLVE_SECONDS:
            return self._resolved[reference][1]
        try:
            found = self.source.resolve(reference)
        except UnknownModelError as error:
            digest = hashlib.sha256(reference.encode(errors="replace")).hexdigest()
            logger.info("no model: %d characters, SHA-256 %s", len(reference), digest)
            raise model_problem(type(error), "no such model here; see /v1/models") from error
        except (UserError, OSError) as error:
            logger.error("%s", error)
            detail = f"{reference} cannot be read; see the service's log"
            raise model_problem(type(error), detail) from error
        if len(self._resolved) >= _MAX_REFERENCES:
            self._resolved.clear()
        self._resolved[reference] = (now, found)
        return found

    async def _load(self, found: Found) -> ServedModel:
        served = await self._made(found)
        self._loaded[found.path] = served
        while len(self._loaded) > self._most:
            self._loaded.popitem(last=False)
        return served

    async def _load_shadow(self, reference: str, before: ServedModel | None) -> ServedModel:
        """Apart from the others: its checks and its place in memory are no concern of theirs."""
        found = await asyncio.to_thread(self.source.resolve, reference)
        if before is not None and before.info.version == found.version:
            return before
        return await self._made(found)

    async def _made(self, found: Found) -> ServedModel:
        async with self._one_load:
            before = self._broken.get(found.path, _WHOLE)
            if time.monotonic() < before.until:
                raise _cannot_load(found, before.kind)
            try:
                served = await self._make(found)
            except Problem:  # a predictor elsewhere is full or lost
                raise
            except Exception as error:
                least, most = _BROKEN_SECONDS
                waited = min(max(least, 2 * before.waited), most)
                self._broken[found.path] = _Broken(type(error), time.monotonic() + waited, waited)
                self._metrics.broken(found.name, found.version, True)
                cause = error if isinstance(error, UserError) else type(error).__name__
                logger.error("%s@%s cannot be loaded: %s", found.name, found.version, cause)
                raise _cannot_load(found, type(error)) from error
            if self._broken.pop(found.path, None):
                self._metrics.broken(found.name, found.version, False)
            return served

    async def _check(self) -> None:
        for served in list(self._loaded.values()):
            await served.check()
        self._checked = time.monotonic()


def _cannot_load(found: Found, kind: type[BaseException]) -> Problem:
    return model_problem(kind, f"{found.name}@{found.version} cannot be loaded")
