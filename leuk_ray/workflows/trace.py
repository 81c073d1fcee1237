"""What a service records of its answers (`serve --trace`), and whether a bundle repeats them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ValidationError

from leuk_ray.fields.field import FieldSettings
from leuk_ray.inference.classifier import Classifier
from leuk_ray.io.chain_check import read_lines, verify
from leuk_ray.io.locations import Location
from leuk_ray.utils.errors import DataError
from leuk_ray.workflows.predict_fields import answer_field

ANSWER = "answer"  # the kind of line
_NAMED = 5  # problems in one line
_TOLERANCE = 1e-4  # of a probability: engines and batch sizes round differently


class TracedImage(BaseModel):
    """The answer for an image.

    sha256: of the file; of a cell of a field, of its crop. label, reasons, probabilities,
    prediction_set: as answered. error: why it could not be read, where label is null. box: of a
    cell of a field, its x0, y0, x1, y1 in pixels.
    """

    sha256: str | None
    label: str | None = None
    reasons: tuple[str, ...] = ()
    probabilities: dict[str, float] | None = None
    prediction_set: tuple[str, ...] | None = None
    error: str | None = None
    box: tuple[int, int, int, int] | None = None


class TracedField(BaseModel):
    """A field of view: SHA-256 of the file, what was found, and the answers for its cells."""

    sha256: str
    status: str
    reasons: tuple[str, ...]
    cells: tuple[TracedImage, ...]


class Rules(BaseModel):
    """What a decision followed: settings of the bundle, and whether the guarantee was suspended."""

    temperature: float
    threshold: float | None
    abstain_band: tuple[float, float] | None
    min_confidence: float | None
    coverage: float | None
    guarantee: Literal["stated", "suspended"] | None


class TracedAnswer(BaseModel):
    """The answer to a request. bundle_sha256: of bundle.json, which holds those of its files."""

    request_id: str
    route: str
    key: str | None
    model: str
    version: str
    bundle_sha256: str
    engine: str
    rules: Rules
    images: tuple[TracedImage, ...] = ()
    field_settings: FieldSettings | None = None
    fields: tuple[TracedField, ...] = ()
    subject: str | None = None


def read_answers(folder: Path) -> Iterator[TracedAnswer]:
    """Return the answers of a trace, chain by chain.

    Raises:
        UserError: there is no trace, or a line that is not understood.
    """
    for line in read_lines(folder):
        if line.get("kind") == ANSWER:
            try:
                yield TracedAnswer.model_validate(line.get("answer"))
            except ValidationError as error:
                where = f"{folder}: line {line.get('number')} of a chain"
                raise DataError(f"{where} is not understood; verify the trace") from error


def verify_trace(folder: Path, against: Path | None = None) -> dict[str, Any]:
    """Verify the chains of a trace.

    Args:
        folder: of the trace.
        against: JSON that this function gave earlier; the trace must hold all it names.

    Returns:
        `chains`, as `io.chain_check.Chain`, and the sum of their `lines`.

    Raises:
        UserError: names what was changed or is missing; or there is no trace.
    """
    chains = verify(folder, against)
    if problems := [problem for chain in chains for problem in chain.problems]:
        more = f"; and {len(problems) - _NAMED} more" if len(problems) > _NAMED else ""
        raise DataError(f"{folder}: is not as it was written: {'; '.join(problems[:_NAMED])}{more}")
    return {
        "chains": [asdict(chain) for chain in chains],
        "lines": sum(chain.lines for chain in chains),
    }


def replay(folder: Path, bundle: Location, files: Sequence[tuple[str, bytes]]) -> dict[str, Any]:
    """Answer for images again and compare with what a trace says of them.

    Args:
        folder: of the trace.
        bundle: that answered; answers of other bundles are counted and left.
        files: named images, found in the trace by their SHA-256.

    Returns:
        `answers`, compared; `other_bundles`; `not_traced`, names of images; `largest_difference` of
        a probability.

    Raises:
        UserError: as `read_answers`; no image is in the trace with this bundle; or an answer
            differs from the traced one.
    """
    wanted = {hashlib.sha256(data).hexdigest(): (name, data) for name, data in files}
    classifier = Classifier.load(bundle)
    compared = _Compared(classifier)
    traced: set[str] = set()
    others = 0
    for answer in read_answers(folder):
        of = [item for item in (*answer.images, *answer.fields) if item.sha256 in wanted]
        if of and answer.bundle_sha256 != classifier.bundle.manifest_sha256:
            others += 1
            continue
        for item in of:
            traced.add(str(item.sha256))
            compared.add(answer, item, *wanted[str(item.sha256)])
    if not compared.answers:
        hint = f"; {others} answers for them are of other bundles" if others else ""
        raise DataError(f"{folder}: holds no answer of this bundle for these images{hint}")
    if compared.differing:
        raise DataError(
            f"{folder}: {len(compared.differing)} of {compared.answers} traced answers differ from "
            f"this bundle's: {'; '.join(compared.differing[:_NAMED])}"
        )
    return {
        "answers": compared.answers,
        "other_bundles": others,
        "not_traced": [name for digest, (name, _) in wanted.items() if digest not in traced],
        "largest_difference": compared.largest,
    }


class _Compared:
    """Answers compared so far; each image is answered for once with the same settings."""

    def __init__(self, classifier: Classifier) -> None:
        self.classifier = classifier
        self.answers = 0
        self.differing: list[str] = []
        self.largest = 0.0
        self._now: dict[tuple[str | None, FieldSettings | None], list[TracedImage]] = {}

    def add(
        self, answer: TracedAnswer, item: TracedImage | TracedField, name: str, data: bytes
    ) -> None:
        """Compare what was traced of a file."""
        settings = answer.field_settings if isinstance(item, TracedField) else None
        key = item.sha256, settings
        if key not in self._now:
            self._now[key] = self._field(data, settings) if settings else [self._image(data)]
        before = list(item.cells) if isinstance(item, TracedField) else [item]
        now = self._now[key]
        self.answers += 1
        same = len(before) == len(now) and all(map(self._same, before, now))
        if not same:
            labels = [", ".join(str(one.label) for one in side) for side in (before, now)]
            self.differing.append(
                f"{name}, request {answer.request_id}: {labels[0] or 'no cell'}, now "
                f"{labels[1] or 'no cell'}"
            )

    def _image(self, data: bytes) -> TracedImage:
        (answer,) = self.classifier.predict([("", data)])
        return traced_image(answer.as_dict(), hashlib.sha256(data).hexdigest())

    def _field(self, data: bytes, settings: FieldSettings) -> list[TracedImage]:
        cells = answer_field(self.classifier, "", data, settings)["cells"]
        return [traced_image(cell, cell.get("sha256")) for cell in cells]

    def _same(self, before: TracedImage, now: TracedImage) -> bool:
        kept = {"label", "reasons", "prediction_set", "error", "box"}
        if before.model_dump(include=kept) != now.model_dump(include=kept):
            return False
        if before.probabilities is None or now.probabilities is None:
            return before.probabilities == now.probabilities
        if before.probabilities.keys() != now.probabilities.keys():
            return False
        apart = [abs(value - now.probabilities[n]) for n, value in before.probabilities.items()]
        if not all(one <= _TOLERANCE for one in apart):  # NaN is not
            return False
        self.largest = max(self.largest, *apart)
        return True


def traced_image(item: Mapping[str, Any], sha256: str | None) -> TracedImage:
    """Make the record of an answer's item; `name` and pictures are left out.

    Args:
        item: of an answer: of an image, or of a cell with its box.
        sha256: of the file; None of a clump.
    """
    error = item.get("error")
    return TracedImage(
        sha256=sha256,
        label=item.get("label"),
        reasons=tuple(item.get("reasons", ())),
        probabilities=item.get("probabilities"),
        prediction_set=item.get("prediction_set"),
        error=error and str(error).partition(":")[0],  # what follows may quote the file
        box=(item["x0"], item["y0"], item["x1"], item["y1"]) if "x0" in item else None,
    )
