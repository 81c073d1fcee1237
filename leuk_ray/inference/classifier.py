"""The one scoring path: image bytes or storage pixels to an answer.

`read`, `score` and `answer` are its three steps; `predict` and the HTTP service both go
through them, the service with the cells of several requests in one `score`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from torch import nn

from leuk_ray.bundles.bundle import Bundle, find_bundle, open_bundle
from leuk_ray.bundles.manifest import SCOPE_FILE, BundleManifest
from leuk_ray.datasets import images
from leuk_ray.datasets.images import BadImageError
from leuk_ray.evaluation.calibration import binary_probability, class_probabilities
from leuk_ray.inference.decide import decide
from leuk_ray.inference.engines import EngineName, make_engine
from leuk_ray.inference.inputs import Content, ImageInput, NamedImage, content_bytes, named_images
from leuk_ray.inference.predictions import Failure, Prediction, Predictions
from leuk_ray.inference.scope import OUT_OF_SCOPE, Neighbourhood, measure, pixel_reasons
from leuk_ray.io.locations import Location, parse
from leuk_ray.utils.device import device_named

FIELD_BATCH = 8  # cells of a field in one batch, from its first
_IMAGES_AT_ONCE = 32
_READERS = 8  # more than cores: an object store answers late, not slowly


@dataclass(frozen=True)
class Scores:
    """Scores of N cells.

    class_logits: (N, K-1) float64, log-odds of classes 1 to K-1 against class 0.
    probabilities: (N, K) float64, calibrated, of each class.
    probability: (N,) float64, calibrated, of the positive classes; NaN where there are none.
    embedding: (N, D) float32. distance: (N,) of it to the training cells'; None unless the
    bundle knows them.
    """

    class_logits: np.ndarray
    probabilities: np.ndarray
    probability: np.ndarray
    embedding: np.ndarray
    distance: np.ndarray | None

    def at(self, index: int) -> Scores:
        """Of one of the cells, alone."""
        one = slice(index, index + 1)
        distance = None if self.distance is None else self.distance[one]
        return Scores(
            self.class_logits[one],
            self.probabilities[one],
            self.probability[one],
            self.embedding[one],
            distance,
        )


@dataclass(frozen=True)
class Cell:
    """A decoded image: its storage pixels, what `scope.measure` says of them, and why they
    cannot be classified, if so. sha256: of the file; pixels_sha256: of the storage pixels."""

    name: str
    sha256: str
    pixels_sha256: str
    pixels: np.ndarray
    features: dict[str, float]
    reasons: tuple[str, ...]


class PrePostProcessor:
    """Preprocessing and decision of a bundle: from bytes to pixels, from scores to an answer."""

    def __init__(self, manifest: BundleManifest) -> None:
        self.manifest, self.rules = manifest, manifest.rules

    def read(self, name: str, data: bytes) -> Cell:
        """Decode one image file and look at its pixels; raises BadImageError."""
        return self.cell(name, data, images.read(data, self.manifest.storage))

    def cell(self, name: str, data: bytes, pixels: np.ndarray) -> Cell:
        """Look at the pixels, (S, S, 3) uint8, that a file was decoded to."""
        features = measure(pixels)
        reasons = tuple(pixel_reasons(features, self.manifest.scope))
        of_file = hashlib.sha256(data).hexdigest()
        of_pixels = hashlib.sha256(pixels.tobytes()).hexdigest()
        return Cell(name, of_file, of_pixels, pixels, features, reasons)

    def answer(self, cell: Cell, scores: Scores, index: int) -> Prediction | Failure:
        """Return the answer for a cell that is number `index` of the scores.

        A failure where the network gave no number for it.
        """
        manifest, probabilities = self.manifest, scores.probabilities[index]
        reasons = cell.reasons
        if not reasons and self._is_far(scores, index):
            reasons = (OUT_OF_SCOPE,)
        in_set = self.in_set(scores, index)
        try:
            decision = decide(probabilities, reasons, self.rules, manifest.classes, in_set)
        except RuntimeError as error:
            return Failure(cell.name, str(error))
        return Prediction(
            cell.name,
            decision.label,
            float(scores.probability[index]) if manifest.positive else None,
            self.rules.threshold if len(manifest.classes) == 2 and in_set is None else None,
            decision.reasons,
            cell.sha256,
            cell.pixels_sha256,
            dict(zip(manifest.classes, probabilities.tolist(), strict=True)),
            decision.prediction_set,
        )

    def in_set(self, scores: Scores, index: int) -> np.ndarray | None:
        """Say which classes are in the prediction set of cell `index`, (K,); None without sets."""
        if self.rules.conformal is None:
            return None
        return self.rules.conformal.sets(scores.class_logits[index : index + 1])[0]

    def _is_far(self, scores: Scores, index: int) -> bool:
        scope = self.manifest.scope
        if scores.distance is None or scope is None or scope.distance is None:
            return False
        return bool(scores.distance[index] > scope.distance)


class Classifier(PrePostProcessor):
    """A bundle's network on a device, with the bundle's preprocessing and decision."""

    def __init__(self, bundle: Bundle, device: str = "cpu", engine: EngineName = "auto") -> None:
        super().__init__(bundle.manifest)
        self.bundle = bundle
        self.device = device_named(device)
        self.engine = make_engine(bundle, self.device, engine)
        self.neighbourhood = None
        if SCOPE_FILE in self.manifest.files:
            self.neighbourhood = Neighbourhood.load(bundle.folder / SCOPE_FILE)

    @classmethod
    def load(
        cls,
        path: Location,
        device: str = "cpu",
        engine: EngineName = "auto",
        trusted: str | Path | None = None,
    ) -> Classifier:
        """Load the verified bundle at a path, or that of a run; text is a path or an address.

        Raises:
            UserError: as `find_bundle`, `open_bundle`, `device_named` and `make_engine` do.
        """
        found = find_bundle(parse(str(path)))
        keys = None if trusted is None else Path(trusted)
        return cls(open_bundle(found, keys), device, engine)

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes, in the order of probabilities."""
        return self.manifest.classes

    def __repr__(self) -> str:
        return f"<{self.manifest.recipe} on {self.device}: {', '.join(self.classes)}>"

    @cached_property
    def model(self) -> nn.Module:
        """The PyTorch network, which explanations need whatever the engine."""
        return self.bundle.model.to(self.device)

    def score(self, pixels: np.ndarray) -> Scores:
        """Score storage pixels, (N, size, size, 3) uint8."""
        return self._scores(*self.engine(pixels))

    def score_field(self, pixels: np.ndarray) -> Scores:
        """Score FIELD_BATCH cells of a field or its last ones, (N, size, size, 3) uint8.

        `predict --fields` and the service score the same batches on one thread a part, so on one
        kind of CPU they give the same probabilities to the last digit (benchmarks/NOTES.md).
        """
        return self._scores(*self.engine.reproducible(pixels))

    def _scores(self, scores: np.ndarray, embedding: np.ndarray) -> Scores:
        classes, temperature = self.manifest.class_set, self.manifest.temperature
        probabilities = class_probabilities(scores, temperature)
        probability = np.full(len(scores), np.nan)
        if classes.positive:
            probability = binary_probability(scores, temperature, classes)
        known = self.neighbourhood
        distance = None if known is None else known.distance(embedding)
        return Scores(scores, probabilities, probability, embedding, distance)

    def abstentions(self, pixels: np.ndarray, scores: Scores) -> list[list[str]]:
        """Say why scored storage pixels get no answer, each cell's reasons; none where they do."""
        answers = [
            self.answer(self.cell("", b"", cell), scores, i) for i, cell in enumerate(pixels)
        ]
        return [
            list(one.reasons) if isinstance(one, Prediction) else [one.error] for one in answers
        ]

    def predict(
        self,
        images: ImageInput | Iterable[ImageInput],
        progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> Predictions:
        """Answer for images, one answer each, in order.

        Images are read and decoded while the ones before them are scored. Memory: the bytes and
        pixels of 64 images.

        Args:
            images: paths of files and folders, patterns, s3:// and gs:// addresses; the bytes of
                image files; PIL images; RGB pixels, (height, width, 3) uint8; in a list also
                (name, any of these but a folder). One that cannot be read is an item, not an
                error. Files are checked best by path: what Pillow hides is not seen in PIL images.
            progress: is called with how many are done, and of how many.

        Raises:
            UserError: a path where nothing is, or an image of another kind.
        """
        answers = self._answers(named_images(images), _IMAGES_AT_ONCE, self.score, progress)
        return Predictions(answers, self.manifest.class_set)

    def predict_field(self, crops: Sequence[NamedImage]) -> list[Prediction | Failure]:
        """Answer for the crops of one field as the service does, one answer each, in order."""
        return self._answers(crops, FIELD_BATCH, self.score_field)

    def _answers(
        self,
        files: Sequence[NamedImage],
        at_once: int,
        score: Callable[[np.ndarray], Scores],
        progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> list[Prediction | Failure]:
        answers: list[Prediction | Failure] = []
        chunks = [files[i : i + at_once] for i in range(0, len(files), at_once)]
        with ThreadPoolExecutor(_READERS) as pool:

            def start(chunk: Sequence[NamedImage]) -> list[Future[Cell | Failure]]:
                return [pool.submit(self._try_read, *file) for file in chunk]

            reading = start(chunks[0]) if chunks else []
            for following in [*chunks[1:], []]:
                read, reading = reading, start(following)
                answers += self._answer_all([future.result() for future in read], score)
                progress(len(answers), len(files))
        return answers

    def _try_read(self, name: str, content: Content) -> Cell | Failure:
        try:
            return self.read(name, content_bytes(content))
        except BadImageError as error:
            return Failure(name, str(error))

    def _answer_all(
        self, read: Sequence[Cell | Failure], score: Callable[[np.ndarray], Scores]
    ) -> list[Prediction | Failure]:
        """Score what was decoded, in one batch; failures stay where they are."""
        cells = [item for item in read if isinstance(item, Cell)]
        if not cells:
            return [item for item in read if isinstance(item, Failure)]
        scores = score(np.stack([cell.pixels for cell in cells]))
        answers = iter([self.answer(cell, scores, i) for i, cell in enumerate(cells)])
        return [item if isinstance(item, Failure) else next(answers) for item in read]
