"""Answers of a classifier: one an image, and all of them as a table."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, overload

import pyarrow as pa

from leuk_ray.datasets.classes import ClassSet
from leuk_ray.utils.wording import counted

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Prediction:
    """The answer for one image.

    label: a class, or `abstain`, and `reasons` say why. probability: of the positive classes; None
    where there are none. threshold: None where it does not decide: of more than two classes, of
    which the most likely is the answer, and where prediction sets do. sha256: of the file;
    pixels_sha256: of its storage pixels. probabilities: of each class. prediction_set: classes that
    may be the true one, with the coverage that the bundle states; None of a bundle without such
    sets.
    """

    name: str
    label: str
    probability: float | None
    threshold: float | None
    reasons: tuple[str, ...]
    sha256: str
    pixels_sha256: str
    probabilities: dict[str, float] = field(default_factory=dict)
    prediction_set: tuple[str, ...] | None = None

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        sets = self.prediction_set
        return asdict(self) | {
            "reasons": list(self.reasons),
            "prediction_set": None if sets is None else list(sets),
        }


@dataclass(frozen=True)
class Failure:
    """An image that could not be scored, and why."""

    name: str
    error: str

    def as_dict(self) -> dict[str, str]:
        """Plain values, for JSON."""
        return asdict(self)


ANSWERS_SCHEMA = pa.schema(
    [
        ("name", pa.string()),
        ("path", pa.string()),  # below the folder that all images of the job have in common
        ("label", pa.string()),
        ("probability", pa.float64()),
        ("threshold", pa.float64()),
        ("reasons", pa.string()),  # several are parted by spaces
        ("prediction_set", pa.string()),  # classes parted by commas; null without such sets
        ("sha256", pa.string()),  # of the file
        ("pixels_sha256", pa.string()),  # of its storage pixels
        ("error", pa.string()),
    ]
)


def answers_schema(classes: ClassSet) -> pa.Schema:
    """List the columns of a table of answers.

    `probability` is of the positive classes together, and missing where there are none. Of more
    than two classes there is no threshold, and each class has its own `probability:NAME`.
    """
    if len(classes) == 2:
        return ANSWERS_SCHEMA
    unused = ("threshold",) if classes.positive else ("threshold", "probability")
    schema = pa.schema([field for field in ANSWERS_SCHEMA if field.name not in unused])
    for name in classes.names:
        schema = schema.append(pa.field(probability_column(name), pa.float64()))
    return schema


def answer_row(answer: Prediction | Failure) -> dict[str, Any]:
    """Make one answer a row of `answers_schema`."""
    row = answer.as_dict()
    if isinstance(answer, Prediction):
        row["reasons"] = " ".join(answer.reasons)
        if answer.prediction_set is not None:
            row["prediction_set"] = ",".join(answer.prediction_set)
        row |= {probability_column(name): value for name, value in answer.probabilities.items()}
    return row


def probability_column(name: str) -> str:
    """Name the column of a class in a table of answers."""
    return f"probability:{name}"


class Predictions(Sequence[Prediction | Failure]):
    """Answers for images, in the order in which they were given."""

    def __init__(self, answers: Sequence[Prediction | Failure], classes: ClassSet) -> None:
        self._answers, self.classes = tuple(answers), classes

    @overload
    def __getitem__(self, index: int) -> Prediction | Failure: ...
    @overload
    def __getitem__(self, index: slice) -> Predictions: ...
    def __getitem__(self, index: int | slice) -> Prediction | Failure | Predictions:
        if isinstance(index, slice):
            return Predictions(self._answers[index], self.classes)
        return self._answers[index]

    def __len__(self) -> int:
        return len(self._answers)

    @property
    def counts(self) -> dict[str, int]:
        """How many images have each label; `failed` of those that could not be scored."""
        labels = [item.label if isinstance(item, Prediction) else "failed" for item in self]
        return dict(Counter(labels).most_common())

    def to_pandas(self) -> pd.DataFrame:
        """Return a row an image, with the columns of `leuk-ray predict --out` but `path`."""
        schema = answers_schema(self.classes)
        kept = pa.schema([column for column in schema if column.name != "path"])
        return pa.Table.from_pylist([answer_row(item) for item in self], schema=kept).to_pandas()

    def __repr__(self) -> str:
        labels = ", ".join(f"{number} {label}" for label, number in self.counts.items())
        return f"<{counted(len(self), 'image')}: {labels}>" if labels else "<no images>"

    def _repr_html_(self) -> str:
        return self.to_pandas().to_html(max_rows=20)
