"""A loaded bundle in a replica: decoding in threads, and a network here or in another process."""

from __future__ import annotations

import asyncio
import base64
import io
import logging
import struct
from collections.abc import Awaitable, Sequence
from typing import Any, Protocol

import numpy as np
from PIL import Image

from leuk_ray.bundles.manifest import BundleManifest
from leuk_ray.datasets.images import BadImageError
from leuk_ray.fields.field import FieldSettings
from leuk_ray.inference.classifier import (
    FIELD_BATCH,
    Cell,
    Classifier,
    PrePostProcessor,
    Scores,
)
from leuk_ray.inference.explain import Explanation, explain_pixels, overlay
from leuk_ray.inference.predictions import Failure, Prediction
from leuk_ray.serving.batching import Batches
from leuk_ray.serving.decoding import CroppedField, Decoding, Named, Threads
from leuk_ray.serving.drift import Drift, Shift
from leuk_ray.serving.monitoring import Metrics
from leuk_ray.serving.schemas import GuaranteeOut, ModelInfo
from leuk_ray.serving.settings import ServeSettings
from leuk_ray.serving.sources import Found, fingerprint
from leuk_ray.utils.errors import DataError

Scored = tuple[Scores, int]

_HEAD = struct.pack("<IHHIIiiHHIIiiII", 58, 0, 0, 54, 40, 1, 1, 1, 24, 0, 4, 0, 0, 0, 0)
_PICTURE = b"BM" + _HEAD + bytes(4)  # of one black pixel

logger = logging.getLogger(__name__)


class ModelBackend(Protocol):
    """What scores storage pixels, wherever it runs."""

    engine: str

    def score(self, pixels: np.ndarray, /) -> Awaitable[Scored]:
        """Score one cell, (S, S, 3) uint8; the scores may hold other cells too."""
        ...

    async def score_field(self, pixels: np.ndarray) -> Scores:
        """See `Classifier.score_field`."""
        ...

    async def explain(self, pixels: np.ndarray) -> list[Explanation]:
        """Explain answers for cells, (N, S, S, 3) uint8; UserError for a network without map."""
        ...

    async def check(self) -> None:
        """Run once; raises RuntimeError if the model output is not finite."""
        ...


class LocalBackend:
    """A network of this process, scoring in threads of its own."""

    def __init__(self, found: Found, settings: ServeSettings, metrics: Metrics) -> None:
        """Load it, and run it at every batch size; raises UserError if it cannot answer."""
        self.classifier = Classifier.load(
            found.path, settings.device, settings.engine, settings.trusted_keys
        )
        self.engine = self.classifier.engine.name
        self.name = found.name
        self.max_batch_size = settings.max_batch_size
        self.metrics = metrics
        at_once = self.classifier.engine.batches_at_once
        self._forward = Threads(at_once, "forward")
        # An explanation hooks into the PyTorch network: none beside another, nor beside a pass.
        self._explain = self._forward if at_once == 1 else Threads(1, "explain")
        self.score = Batches(
            self._score_batch,
            size=settings.max_batch_size,
            at_once=at_once,
            wait_seconds=settings.batch_wait_seconds,
        )
        for num in range(1, self.max_batch_size + 1):
            scores = self.classifier.score(self._black(num))
            if not np.isfinite(scores.probabilities).all():
                raise DataError("the model output is not finite")

    async def score_field(self, pixels: np.ndarray) -> Scores:
        """See `Classifier.score_field`; no other cells are in the batch."""
        self.metrics.batch(len(pixels))
        return await self._forward.run(self.classifier.score_field, pixels)

    async def explain(self, pixels: np.ndarray) -> list[Explanation]:
        """Explain answers for cells, a batch at a time."""
        explained: list[Explanation] = []
        for start in range(0, len(pixels), self.max_batch_size):
            part = pixels[start : start + self.max_batch_size]
            explained += await self._explain.run(explain_pixels, self.classifier, part)
        return explained

    async def check(self) -> None:
        """Run the network once; raises RuntimeError if the model output is not finite."""
        scores = await self._forward.run(self.classifier.score, self._black(1))
        if not np.isfinite(scores.probabilities).all():
            raise RuntimeError(f"{self.name}: the model output is not finite")

    def _black(self, num: int) -> np.ndarray:
        size = self.classifier.manifest.storage.size
        return np.zeros((num, size, size, 3), np.uint8)

    async def _score_batch(self, pixels: list[np.ndarray]) -> list[Scored]:
        self.metrics.batch(len(pixels))
        scores = await self._forward.run(self.classifier.score, np.stack(pixels))
        return [(scores, index) for index in range(len(pixels))]


class ServedModel:
    """A model that answers: what reads and decides, in threads, and its network."""

    def __init__(
        self,
        found: Found,
        processor: PrePostProcessor,
        network: ModelBackend,
        metrics: Metrics,
        decoding: Decoding,
    ) -> None:
        self.processor = processor
        self.network = network
        self.info = ModelInfo(
            name=found.name,
            version=found.version,
            fingerprint=fingerprint(found.path),
            engine=network.engine,
        )
        self.metrics = metrics
        self._decoding = decoding
        scope = processor.manifest.scope
        self._drift = Drift(scope.typical if scope else {})
        self._alarmed = False

    @property
    def shift(self) -> Shift | None:
        """How far the latest pictures have strayed from the training cells."""
        return self._drift.shift()

    @property
    def guarantee(self) -> GuaranteeOut | None:
        """What the prediction sets promise now; None without such sets."""
        return guarantee_of(self.processor.manifest, self.shift)

    async def read(self, files: Sequence[Named], holder: str) -> list[Cell | BadImageError]:
        """`Decoding.read`, with bad files counted."""
        read = await self._decoding.read(self.processor, files, holder)
        self._count_bad(read)
        return read

    async def read_fields(
        self, settings: FieldSettings, files: Sequence[Named], holder: str
    ) -> list[CroppedField | BadImageError]:
        """`Decoding.read_fields`, with bad files counted."""
        read = await self._decoding.read_fields(self.processor, settings, files, holder)
        self._count_bad(read)
        return read

    def _count_bad(self, read: Sequence[object]) -> None:
        for item in read:
            if isinstance(item, BadImageError):
                self.metrics.rejected(item.reason)

    async def check(self) -> None:
        """Decode an image and run the network; raises RuntimeError if its output is not finite."""
        await self._decoding.read(self.processor, [("check", _PICTURE)], "check")
        await self.network.check()

    async def classify(
        self, cells: Sequence[Cell]
    ) -> tuple[list[Prediction | Failure], list[Scored]]:
        """Answers for decoded cells, scored in one batch with those of other requests."""
        scored = await asyncio.gather(*(self.network.score(cell.pixels) for cell in cells))
        return self._decided(cells, scored), scored

    async def answer(self, cells: Sequence[Cell]) -> list[Prediction | Failure]:
        """`classify`, counted and watched for drift."""
        answers, scored = await self.classify(cells)
        self._count(cells, answers, scored)
        return answers

    async def answer_field(self, cells: Sequence[Cell]) -> list[Prediction | Failure]:
        """Answers of `Classifier.predict_field` for the cells of one field, counted and watched."""
        scored: list[Scored] = []
        for start in range(0, len(cells), FIELD_BATCH):
            batch = np.stack([cell.pixels for cell in cells[start : start + FIELD_BATCH]])
            scores = await self.network.score_field(batch)
            scored += [(scores, index) for index in range(len(batch))]
        answers = self._decided(cells, scored)
        self._count(cells, answers, scored)
        return answers

    def _decided(
        self, cells: Sequence[Cell], scored: Sequence[Scored]
    ) -> list[Prediction | Failure]:
        return [
            self.processor.answer(cell, scores, index)
            for cell, (scores, index) in zip(cells, scored, strict=True)
        ]

    def _count(
        self,
        cells: Sequence[Cell],
        answers: Sequence[Prediction | Failure],
        scored: Sequence[Scored],
    ) -> None:
        for cell, answer, (scores, index) in zip(cells, answers, scored, strict=True):
            if isinstance(answer, Failure):
                self.metrics.rejected("no_number")
                continue
            self.metrics.answer(self.info.name, answer)
            watched = dict(cell.features)
            if answer.probability is not None:
                watched["probability"] = answer.probability
            if scores.distance is not None:
                watched["distance"] = float(scores.distance[index])
            self._watch(watched)

    async def explain(self, cells: Sequence[Cell]) -> list[dict[str, Any]]:
        """Explain each cell; the picture is the cell with its heat, a PNG as a data URL.

        Raises:
            UserError: the network has no map.
        """
        explained = await self.network.explain(np.stack([cell.pixels for cell in cells]))
        pictures = await asyncio.gather(
            *(
                self._decoding.threads.run(_picture, cell.pixels, explanation.heat)
                for cell, explanation in zip(cells, explained, strict=True)
            )
        )
        return [
            explanation.as_dict(picture)
            for explanation, picture in zip(explained, pictures, strict=True)
        ]

    def _watch(self, features: dict[str, float]) -> None:
        self._drift.add(features)
        shift = self.shift
        if shift is None:
            return
        self.metrics.drift(self.info.name, shift)
        guarantee = self.guarantee is not None
        if guarantee:
            self.metrics.guarantee(self.info.name, shift.alarm)
        if shift.alarm and not self._alarmed:
            logger.warning(
                "%s: drift: %s of the latest pictures is %.1f deviations off the training cells'%s",
                self.info.name, shift.name, shift.effect, "; guarantee suspended" * guarantee,
            )  # fmt: skip
        self._alarmed = shift.alarm


def guarantee_of(manifest: BundleManifest, shift: Shift | None) -> GuaranteeOut | None:
    """Say what a model's prediction sets promise under a shift; None without such sets."""
    if manifest.conformal is None:
        return None
    suspended = shift is not None and shift.alarm
    coverage = manifest.conformal.coverage
    return GuaranteeOut(coverage=coverage, state="suspended" if suspended else "stated")


def _picture(pixels: np.ndarray, heat: np.ndarray) -> str:
    """Return a cell with its heat, a PNG as a data URL."""
    out = io.BytesIO()
    Image.fromarray(overlay(pixels, heat)).save(out, "PNG")
    return "data:image/png;base64," + base64.b64encode(out.getvalue()).decode()
