"""What report.json holds, as one model that writes it and reads it back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, ValidationError
from typing_extensions import TypedDict

from leuk_ray.datasets.classes import BINARY, ClassSet
from leuk_ray.evaluation.beside_baselines import BesideBaseline
from leuk_ray.evaluation.deployed import PatientPercentages
from leuk_ray.evaluation.differential import ShareError, SubjectDifferential
from leuk_ray.evaluation.intervals import Interval
from leuk_ray.evaluation.metrics import Evaluation
from leuk_ray.evaluation.multiclass import ClassEvaluation
from leuk_ray.evaluation.predictive import PredictiveValues
from leuk_ray.evaluation.slices import Slice
from leuk_ray.evaluation.subjects import SubjectRow
from leuk_ray.io.locations import Location, join
from leuk_ray.io.storage import read_json
from leuk_ray.utils.errors import DataError
from leuk_ray.utils.settings import first_problem
from leuk_ray.utils.wording import overlap_label

FILE = "report.json"


class StoredReport(BaseModel):
    """A report.json; `made_by` is the command that writes it again."""

    model_config = ConfigDict(frozen=True)
    made_by: ClassVar[str]
    schema_version: int

    @classmethod
    def read(cls, folder: Location) -> Self:
        """Read the report in a folder.

        Raises:
            DataError: it is missing or damaged, or an older or a newer leuk_ray wrote it.
            StorageError: it cannot be read.
        """
        place = join(folder, FILE)
        again = f"run `leuk-ray {cls.made_by}` again"
        try:
            values = read_json(place)
        except (FileNotFoundError, NotADirectoryError) as error:
            raise DataError(f"{place}: is missing; {again}") from error
        known = cls.model_fields["schema_version"].default
        version = values.get("schema_version") if isinstance(values, dict) else None
        if type(version) is int and version > known:
            raise DataError(
                f"{place}: schema_version {version} is newer than {known}; update leuk_ray"
            )
        if version != known:
            raise DataError(f"{place}: was written by an older leuk_ray; {again}")
        try:
            return cls(**values)
        except ValidationError as error:
            raise DataError(f"{place}: is damaged ({first_problem(error)}); {again}") from error


@dataclass(frozen=True)
class ReportContext:
    """What a report says of a run besides its predictions.

    title: heading of the page.
    recipe, protocol: names of the recipe and of the split protocol.
    leaky: cells of one patient stand in training and in test; None where that cannot be known.
    leakage: the same in words, with the reason.
    seen: `TRAINED-ON-THESE` or the like, where the test cells made the bundle; else empty.
    no_intervals: why there are none over groups, where groups are no patients; else empty.
    synthetic: the cells are rendered; best_auc is then the best AUC there is to reach.
    dataset_fingerprint, dataset_counts: of the prepared dataset.
    roles: role -> {cells, subjects, groups, classes}, as split; classes: class -> cells.
    config, environment: resolved settings and versions, nested as they come.
    stopping: {epochs, best_epoch, reason}, as far as known.
    notes: sentences the reader must see.
    temperature: that the log-odds were divided by for the probabilities.
    test_set: name of an official test set that all test cells are from, else empty.
    network, unit, pixels, external: in words, empty where unknown: the network, what no two
        roles share, how files became pixels, and which data the training did not come from.
    classes: of the labels.
    baselines: classical baselines on the same test cells; of a cross-validation.
    """

    title: str
    recipe: str
    protocol: str
    leaky: bool | None
    synthetic: bool
    dataset_fingerprint: str
    leakage: str = ""
    no_intervals: str = ""
    best_auc: float | None = None
    dataset_counts: Mapping[str, Any] = field(default_factory=dict)
    roles: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    config: Mapping[str, Any] = field(default_factory=dict)
    environment: Mapping[str, Any] = field(default_factory=dict)
    stopping: Mapping[str, Any] = field(default_factory=dict)
    notes: Sequence[str] = ()
    temperature: float = 1.0
    test_set: str = ""
    network: str = ""
    unit: str = ""
    pixels: str = ""
    external: str = ""
    classes: ClassSet = BINARY
    seen: str = ""
    baselines: Sequence[BesideBaseline] = ()

    @property
    def label(self) -> str:
        """What marks every result: `seen`, `LEAKY`, `PATIENT OVERLAP UNKNOWN`, or nothing."""
        return self.seen or overlap_label(self.leaky)


class Scored(TypedDict):
    """Rows of a role, and how many cells, subjects and groups they come from."""

    rows: int
    cells: int
    subjects: int
    groups: int
    rows_without_subject: int


class Report(StoredReport):
    """The report of a run, or of a bundle on a dataset.

    What is said of ALL and healthy cells is the binary view: of positive classes and the others.

    run: see `ReportContext`. threshold: a cell is called ALL from this probability on; None
        where no class is positive.
    scored: by role. classes: metrics by class, by role; None where none of its cells were scored.
    class_intervals: of them, of the test cells. worst_confusions: see `class_report`.
    confidence: where more than two classes abstain; see `class_report.confidence_bands`.
    metrics: of the binary view, by role; None too where no class is positive.
    bootstrap: seed and resamples of the intervals. calibration_bins: of the calibration error.
    intervals: of the test metrics, by name; empty without test cells.
    by_source: metrics and intervals of each source, where there are several.
    slices: test cells by site, stain and kept columns, where there are several; see `slices`.
    predictive_values: of calls by the threshold, at stated prevalences; see `predictive`.
    refitted: see `probabilities.refit`, `class_report.refit_classes`. decided: what was fixed on
        validation, on the test cells.
    deployed: answers of a calibrated bundle, see `deployed.as_deployed`; else None.
    differentials, share_errors: of more than two classes; see `differential`.
    blast_percentages: of test subjects, where a calibrated bundle corrects them.
    guarantee: of a bundle with prediction sets, see `guarantee.measure_sets`; else None.
    subjects, worst_subjects: of the test cells. worst_errors: see `report.MAX_ERRORS`.
    published: see `published.beside_published`. history: one row an epoch.
    audit: of the dataset; None leaves it out.
    source, sentence, uncertainty: the test cells, the result and its intervals, in words.
    checklist: items with id, about and value. figures: paths by name.
    """

    made_by = "evaluate"
    schema_version: int = 2  # 2: run.leaky may be null, which is no "no"
    run: ReportContext
    threshold: float | None
    scored: dict[str, Scored]
    classes: dict[str, ClassEvaluation | None] = {}
    class_intervals: dict[str, Interval] = {}
    worst_confusions: list[dict[str, Any]] = []
    confidence: list[dict[str, Any]] = []
    metrics: dict[str, Evaluation | None]
    bootstrap: dict[str, int]
    calibration_bins: int
    intervals: dict[str, Interval]
    by_source: list[dict[str, Any]]
    refitted: dict[str, Any] | None
    slices: list[Slice] = []
    predictive_values: list[PredictiveValues] = []
    decided: dict[str, Any] | None
    deployed: dict[str, Any] | None = None
    differentials: list[SubjectDifferential] = []
    share_errors: list[ShareError] = []
    blast_percentages: PatientPercentages | None = None
    guarantee: dict[str, Any] | None = None
    subjects: list[SubjectRow]
    worst_subjects: list[SubjectRow]
    published: dict[str, Any] | None
    worst_errors: list[dict[str, Any]]
    history: list[dict[str, Any]]
    audit: dict[str, Any] | None
    source: str = ""
    sentence: str = ""
    uncertainty: str = ""
    checklist: list[dict[str, str]] = []
    figures: dict[str, str] = {}

    @property
    def tested(self) -> Evaluation | None:
        """Metrics of the binary view of the test cells."""
        return self.metrics["test"]

    @property
    def tested_classes(self) -> ClassEvaluation | None:
        """Metrics by class of the test cells."""
        return self.classes.get("test")
