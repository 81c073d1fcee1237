"""bundle.json: what a bundle says of itself, every field within bounds.

A bundle may come from anybody, so nothing in it is believed before it is checked: an unknown
version, classes in another order, a number out of range or a name that leads elsewhere is
refused in one line when it is read.
"""

from __future__ import annotations

from dataclasses import fields
from typing import Annotated, Any, Literal, NotRequired, Self

from pydantic import (
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    StringConstraints,
    ValidationError,
    model_serializer,
    model_validator,
    with_config,
)
from typing_extensions import TypedDict

from leuk_ray.bundles.lineage import LINEAGE_FILE, CellSet, Role
from leuk_ray.datasets.classes import BINARY, ClassSet
from leuk_ray.datasets.identity import DatasetIdentity
from leuk_ray.datasets.images import StorageSettings
from leuk_ray.datasets.layouts.all_idb import Shows
from leuk_ray.evaluation.calibration import MAX_TEMPERATURE, MIN_TEMPERATURE
from leuk_ray.evaluation.conformal import Conformal
from leuk_ray.evaluation.decisions import Decisions
from leuk_ray.evaluation.error_rates import ErrorRates
from leuk_ray.evaluation.rules import DecisionRules
from leuk_ray.io.locations import Location, join
from leuk_ray.io.storage import read_json
from leuk_ray.models.ensemble import Rule
from leuk_ray.models.settings import ModelSettings
from leuk_ray.utils.errors import DataError
from leuk_ray.utils.settings import Settings, first_problem

SCHEMA_VERSION = 2
MANIFEST = "bundle.json"
ONNX_FILE = "model.onnx"
CARD = "MODEL_CARD.md"
WEIGHTS = "model.safetensors"
SCOPE_FILE = "scope.safetensors"
_RULES = fields(DecisionRules)
_OPTIONAL = (ONNX_FILE, SCOPE_FILE, LINEAGE_FILE)
_MAX_BYTES = 2**22
MAX_MEMBERS = 32

# Text for people: it is printed on terminals, so without control characters.
Words = Annotated[str, StringConstraints(pattern=r"^[^\x00-\x1f\x7f]*$", max_length=4000)]
MemberName = Annotated[
    str, StringConstraints(pattern=r"^[^./\\\x00-\x1f\x7f][^/\\\x00-\x1f\x7f]*$", max_length=200)
]
Nothing = Annotated[dict[str, Any], Field(max_length=0)]
_MORE = ConfigDict(extra="allow", allow_inf_nan=False)
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]


@with_config(_MORE)
class KeptMetric(TypedDict):
    """A test metric with its counts and interval."""

    value: float | None
    low: float | None
    high: float | None
    note: str | None
    cells: NotRequired[int]
    numerator: NotRequired[float]
    denominator: NotRequired[float]


@with_config(_MORE)
class Scored(TypedDict):
    """How much was scored."""

    rows: int
    subjects: int
    groups: int


@with_config(_MORE)
class Results(TypedDict):
    """What a bundle keeps of its run's report; see `model_card.results_of`."""

    protocol: Words
    leaky: bool | None
    threshold: float | None
    temperature: float
    scored: Scored
    metrics: dict[str, KeptMetric]


# What `inference.scope` measures of an image.
FEATURES = (
    "covered",
    "border",
    "second_part",
    "solidity",
    "elongation",
    "straight",
    "contrast",
    "sharpness",
    "red",
    "green",
)
_TYPICAL_TOO = ("distance", "probability")
Range = tuple[float | None, float | None]


class ScopeSettings(Settings):
    """Of the training cells, in bundle.json.

    ranges: of each of FEATURES, its lowest and highest accepted value.
    distance: largest accepted distance of the embedding; None leaves it unmeasured.
    typical: mean and standard deviation of each feature, of the `distance` of cells of groups
        that did not take part in its fit, and of the calibrated `probability` of cells that did
        not train the network; what drift is measured from.
    """

    ranges: dict[str, Range]
    distance: float | None = Field(default=None, ge=0)
    typical: dict[str, tuple[float, Annotated[float, Field(ge=0)]]] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _known(self) -> Self:
        unknown = {*self.ranges} - {*FEATURES} | {*self.typical} - {*FEATURES, *_TYPICAL_TOO}
        if unknown:
            raise ValueError(f"scope feature {min(unknown)!r} is not known")
        for name, (low, high) in self.ranges.items():
            if low is not None and high is not None and low > high:
                raise ValueError(f"scope range of {name} ends before it begins")
        return self


class BundleManifest(Settings):
    """Content of bundle.json, of a network or an ensemble.

    schema_version: 1 of the classes healthy and ALL, which is written as it always was; else 2.
    classes, positive, ordered: see `ClassSet`.
    temperature: divides the class logits before the softmax.
    threshold, abstain_band, min_confidence, conformal, decisions, error_rates: the rules by which
        it answers; see `DecisionRules`.
    scope: which images the network can classify.
    shows: what the images it was trained on show.
    test: what the report of its run says of the test cells; see `model_card.results_of`.
    datasets: what it was trained on, of an ensemble's members each that differs; empty in bundles
        written before it was recorded.
    lineage: which cells trained, validated and calibrated it or its members, and which were kept
        for testing; empty in bundles written before it was recorded. See `bundles.lineage`.
    """

    schema_version: Literal[1, 2] = 1
    storage: StorageSettings
    classes: tuple[str, ...] = BINARY.names
    positive: tuple[str, ...] = BINARY.positive
    ordered: bool = False
    temperature: float = Field(default=1.0, ge=MIN_TEMPERATURE, le=MAX_TEMPERATURE)
    threshold: float = Field(default=0.5, ge=0, le=1)
    abstain_band: tuple[float, float] | None = None
    min_confidence: float | None = Field(default=None, ge=0, le=1)
    conformal: Conformal | None = None
    scope: ScopeSettings | None = None
    shows: Shows = "cells"
    synthetic: bool
    protocol: Words
    dataset_fingerprint: Words
    datasets: tuple[DatasetIdentity, ...] = ()
    lineage: dict[Role, CellSet] = Field(default_factory=dict)
    recipe: Words
    seed: int = Field(ge=0, lt=2**64)
    metrics: dict[str, Any] = Field(default_factory=dict)
    decisions: Decisions | None = None
    error_rates: ErrorRates | None = None
    test: Nothing | Results = Field(default_factory=dict)
    files: dict[str, Sha256] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _band_holds_threshold(self) -> Self:
        band = self.abstain_band
        if band is not None and not 0 <= band[0] <= self.threshold <= band[1] <= 1:
            raise ValueError(f"abstain_band {band} must hold the threshold {self.threshold:g}")
        return self

    @model_validator(mode="after")
    def _sets_have_every_class(self) -> Self:
        if self.conformal is None:
            return self
        if len(self.conformal.limits) != len(self.classes):
            raise ValueError(f"conformal needs a limit for each of {len(self.classes)} classes")
        if self.abstain_band is not None or self.min_confidence is not None:
            raise ValueError("conformal takes the place of abstain_band and min_confidence")
        return self

    @model_validator(mode="after")
    def _lineage_has_its_file(self) -> Self:
        if self.lineage and LINEAGE_FILE not in self.files:
            raise ValueError(f"lineage names cells, and files no {LINEAGE_FILE}")
        return self

    @model_validator(mode="after")
    def _classes_can_be(self) -> Self:
        try:
            assert self.class_set
        except DataError as error:
            raise ValueError(str(error)) from error
        return self

    @model_serializer(mode="wrap")
    def _as_older_versions_wrote_it(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        values = write(self)
        if self.error_rates is None:
            values.pop("error_rates", None)  # may have been excluded
        if self.conformal is None:
            values.pop("conformal", None)
        if self.class_set == BINARY:
            new = ("positive", "ordered", "min_confidence")
            return {name: value for name, value in values.items() if name not in new}
        if len(self.classes) > 2 and not self.positive:
            values.pop("threshold", None)  # there is nothing that it decides
        return values | {"schema_version": SCHEMA_VERSION}

    @property
    def class_set(self) -> ClassSet:
        """The classes, of which label k is number k."""
        return ClassSet(self.classes, self.positive, self.ordered)

    @property
    def rules(self) -> DecisionRules:
        """By which it answers."""
        return DecisionRules(**{each.name: getattr(self, each.name) for each in _RULES})


class ModelManifest(BundleManifest):
    """The content of bundle.json of one network."""

    model: ModelSettings


class EnsembleManifest(BundleManifest):
    """The content of bundle.json of an ensemble: its members' names and how they vote."""

    rule: Rule
    members: tuple[MemberName, ...] = Field(min_length=2, max_length=MAX_MEMBERS)


def read_manifest(path: Location) -> ModelManifest | EnsembleManifest:
    """Read bundle.json without loading the network.

    Raises:
        UserError: there is none, or it says something that no bundle can say.
    """
    place = join(path, MANIFEST)
    try:
        values = read_json(place, _MAX_BYTES)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise DataError(f"{path}: is no bundle (no bundle.json); give a run's bundle/") from error
    if not isinstance(values, dict):
        raise DataError(f"{place}: not understood (no object); get the bundle anew")
    version = values.get("schema_version", 1)
    if isinstance(version, bool) or version not in (1, SCHEMA_VERSION):
        raise DataError(
            f"{place}: schema_version {str(version)[:20]!r} is not known here, only 1 and "
            f"{SCHEMA_VERSION}; update leuk_ray, or get the bundle as an older one writes it"
        )
    try:
        return (EnsembleManifest if "members" in values else ModelManifest)(**values)
    except ValidationError as error:
        problem = first_problem(error)
    except TypeError as error:  # a key that is no name
        problem = str(error)
    raise DataError(f"{place}: not understood ({problem[:300]}); get the bundle anew")


def file_names(manifest: BundleManifest) -> list[str]:
    """Names of the files that belong to a bundle, apart from bundle.json; no other is read."""
    names = [name for name in _OPTIONAL if name in manifest.files]
    if isinstance(manifest, EnsembleManifest):
        return [*names, *(f"members/{name}/{MANIFEST}" for name in manifest.members), CARD]
    return [*names, WEIGHTS, CARD]


def network_title(manifest: BundleManifest) -> str:
    """Return a bundle's network or ensemble in a few words."""
    if isinstance(manifest, ModelManifest):
        return manifest.model.title
    assert isinstance(manifest, EnsembleManifest)
    return f"{manifest.rule} vote of {', '.join(manifest.members)}"
