"""What the HTTP interface says, typed; the OpenAPI document is made from it."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field
from pydantic.config import JsonDict

_EXAMPLE_PREDICTION: JsonDict = {
    "name": "cell.png",
    "label": "ALL",
    "probability": 0.934,
    "threshold": 0.5,
    "probabilities": {"healthy": 0.066, "ALL": 0.934},
    "reasons": [],
    "sha256": "9f2c" + 60 * "0",
    "pixels_sha256": "41d0" + 60 * "0",
    "prediction_set": None,
}


class ModelInfo(BaseModel):
    """Which model answered. fingerprint: SHA-256 of its bundle.json, which names every file.

    engine: null in a list, for a model that is not loaded.
    """

    name: str
    version: str
    fingerprint: str
    engine: str | None


class ExplanationOut(BaseModel):
    """Where the network looks.

    method: HiResCAM (Draelos and Carin 2020), as `leuk-ray explain` by default. toward: the class
    on whose side of the threshold the probability lies, which is the answer unless that is to
    abstain. picture: the cell with the evidence for this class as heat, a PNG as a data URL.
    evidence_share: share of the map's evidence, for either class, that speaks for this one; where
    it is small, the heat shows nothing. heat_inside_cell: share of the heat on the cell, null
    where no black surrounds it. cell_area: share of the picture that the cell covers, what chance
    would give.
    """

    method: str
    toward: str
    picture: str
    evidence_share: float
    heat_inside_cell: float | None
    cell_area: float


class PredictionOut(BaseModel):
    """The answer for one image.

    label: a class of the model, or `abstain` where the image cannot be classified or no class is
    probable enough; `reasons` say why. probability: null where the model has no positive class.
    threshold: null where it does not decide: with more than two classes, of which the likeliest is
    the answer, and where prediction sets do. probabilities: of every class, by name.
    prediction_set: the classes that may be the true one; the answer is its only class, and null
    where the model has no such sets. `guarantee` beside the predictions says what it promises.
    """

    model_config = {"json_schema_extra": {"examples": [_EXAMPLE_PREDICTION]}}

    name: str
    label: str
    probability: Annotated[
        float | None, Field(ge=0, le=1, description="calibrated, of the positive classes")
    ]
    threshold: Annotated[float | None, Field(ge=0, le=1)]
    probabilities: dict[str, Annotated[float, Field(ge=0, le=1)]]
    reasons: list[str]
    sha256: str
    pixels_sha256: str
    prediction_set: list[str] | None = None
    explanation: ExplanationOut | None = None


class FailureOut(BaseModel):
    """An image that could not be read, and why."""

    name: str
    error: str


class ClassCountOut(BaseModel):
    """A class: its answered cells, and their share of all answered ones."""

    name: str
    cells: int
    share: float | None


class ClassShareOut(ClassCountOut):
    """The same of one subject; low, high: 95% interval, simultaneous with the other classes'."""

    low: float | None
    high: float | None


class BlastPercentageOut(BaseModel):
    """Percentage of blasts, 0..100, corrected for the known errors; low, high: 95% interval."""

    value: float
    low: float
    high: float


class SubjectOut(BaseModel):
    """The images of a request as cells of one subject.

    cells: answered, abstained or unreadable. copies: further images of the request that are the
    same picture as one of these, counted in nothing else. called_positive: of the answered cells,
    called one of the positive classes, with their share and its 95% Clopper-Pearson interval;
    null without an answered cell, or without positive classes. differential: the share of every
    class, with simultaneous intervals. blast_percentage: null where it cannot be corrected;
    basis: with what it was, or why not. call: the class that the share of called cells speaks
    for; call_cut: the share from which on it is the positive class, fixed on calibration
    subjects; call_basis: on how many, or why there is no call.
    """

    subject: str
    cells: int
    answered: int
    abstained: int
    unreadable: int
    copies: int
    called_positive: int | None
    called_share: float | None
    called_share_low: float | None
    called_share_high: float | None
    differential: list[ClassShareOut]
    blast_percentage: BlastPercentageOut | None
    basis: str
    call: str | None
    call_cut: float | None
    call_basis: str


_EXAMPLE_MODEL: JsonDict = {
    "name": "lite.bundle",
    "version": "0cddaf8f79cc",
    "fingerprint": "0cddaf8f79cc" + 52 * "0",
    "engine": "onnx",
}
_EXAMPLE_PROBLEM: JsonDict = {
    "type": "about:blank",
    "title": "Unsupported Media Type",
    "status": 415,
    "detail": "not_an_image: no BMP, PNG, JPEG, TIFF or WebP",
    "reason": "no_good_image",
    "error": "not_an_image: no BMP, PNG, JPEG, TIFF or WebP",
    "errors": [{"name": "cell.png", "error": "not_an_image: no BMP, PNG, JPEG, TIFF or WebP"}],
}


class GuaranteeOut(BaseModel):
    """What the prediction sets of a model promise, and whether the promise stands.

    coverage: for each class, the probability that the set of a cell of that class holds it, for a
    random cell of a new random patient like those that calibrated the model.
    state: `stated`, as calibrated; or `suspended`, while the latest pictures that this replica saw
    have shifted from the training cells (`drift.alarm`), so that its patients are no longer alike.
    A shift is measured over 200 pictures; before there are so many the state is `stated`.
    """

    coverage: float
    state: Literal["stated", "suspended"]


class PredictOut(BaseModel):
    """The answer to a request. guarantee: null where the model has no prediction sets."""

    model_config = {
        "json_schema_extra": {
            "examples": [{"model": _EXAMPLE_MODEL, "predictions": [_EXAMPLE_PREDICTION]}]
        }
    }

    model: ModelInfo
    predictions: list[PredictionOut | FailureOut]
    guarantee: GuaranteeOut | None = None
    subject: SubjectOut | None = None


class DriftOut(BaseModel):
    """What of the latest pictures strays most from the training cells, in their deviations."""

    name: str
    effect: float
    alarm: bool


class ModelOut(BaseModel):
    """A model that can be asked for.

    versions: that exist. aliases: what each means now. classes: in the order of `probabilities`;
    positive: those of `probability`. threshold: null with more than two classes, of which the
    likeliest is the answer. min_confidence: below it no class is the answer.
    crop, size: of the storage pixels. shows: what the training images show.
    canaries: share of the requests for the name alone, by version or alias. shadows: versions
    that are compared with what answers. scope: whether it knows its limits.
    drift: of the latest pictures that this replica saw; null before there are enough, or where it
    is not loaded. guarantee: null where the model has no prediction sets.
    """

    name: str
    versions: list[str]
    aliases: dict[str, str]
    classes: tuple[str, ...]
    positive: tuple[str, ...]
    min_confidence: float | None
    threshold: float | None
    abstain_band: tuple[float, float] | None
    crop: str
    size: int
    shows: Literal["cells", "fields", "both"]
    synthetic: bool
    canaries: dict[str, float]
    shadows: list[str]
    scope: bool
    drift: DriftOut | None
    guarantee: GuaranteeOut | None
    info: ModelInfo


class ModelsOut(BaseModel):
    """All models that can be asked for, and the one that answers where none is named.

    broken: names of models that should be among them and cannot be read.
    """

    default: str | None
    models: list[ModelOut]
    broken: list[str]


class ProblemOut(BaseModel):
    """RFC 9457. errors: name and error of each image, where they are at fault."""

    model_config = {"json_schema_extra": {"examples": [_EXAMPLE_PROBLEM]}}

    type: str
    title: str
    status: int
    detail: str
    reason: str
    error: str
    errors: list[dict[str, str]] | None = None


PROBLEMS: dict[int | str, dict[str, Any]] = {
    status: {
        "description": text,
        "content": {"application/problem+json": {"schema": ProblemOut.model_json_schema()}},
    }
    for status, text in {
        400: "the request cannot be read",
        401: "the key is missing or wrong",
        403: "without keys: not sent to this machine's loopback address, or by another site's page",
        404: "no such model",
        408: "the request came too slowly",
        413: "the request or an image is too large",
        415: "no image in it, or in an encoding that is not read",
        422: "no image that can be used",
        503: "too much to do (come back after Retry-After seconds), or the model cannot be loaded",
    }.items()
}
