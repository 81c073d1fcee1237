"""The files of benchmarks/results: what was measured, how, on which code, and why it came out so.

`docs/results_page.py` makes the results page of the documentation from them, and a unit test
checks each. CONTRIBUTING.md says how to add a measurement.
"""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, model_validator

FOLDER = Path(__file__).parent / "results"
Topic = Literal[
    "Commands and tests",
    "Data",
    "Training",
    "Evaluation",
    "Models, searches and papers",
    "Fields and patients",
    "Service",
    "GPU",
]
TOPICS: tuple[Topic, ...] = get_args(Topic)


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Estimate(_Strict):
    """A value with the bounds of its interval, or of its rounds."""

    value: float
    low: float
    high: float


Cell = int | float | str | Estimate | None


class Column(_Strict):
    """A column of a table."""

    name: str = Field(min_length=1)
    unit: str = Field(
        "", description="of its numbers; empty where the name says it or there is none"
    )
    decimals: int | None = Field(None, description="of its numbers; None for columns of text")

    def text(self, cell: Cell) -> str:
        """A cell as the page shows it."""
        if cell is None or isinstance(cell, str):
            return cell or ""
        if isinstance(cell, Estimate):
            bounds = (self._number(one) for one in (cell.value, cell.low, cell.high))
            return "{} ({} to {})".format(*bounds)
        unit = self.unit if self.unit in ("", "%") else f" {self.unit}"
        return f"{self._number(cell)}{unit}"

    def _number(self, number: float) -> str:
        return f"{number:,.{self.decimals or 0}f}"


class Table(_Strict):
    """Rows of measured figures."""

    columns: list[Column] = Field(min_length=1)
    rows: list[list[Cell]] = Field(min_length=1)

    @model_validator(mode="after")
    def _check_rows(self) -> Table:
        names = [column.name for column in self.columns]
        if len(set(names)) < len(names):
            raise ValueError(f"two columns have the same name: {names}")
        for row in self.rows:
            if len(row) != len(self.columns):
                raise ValueError(f"{len(row)} cells for {len(self.columns)} columns: {row}")
            for column, cell in zip(self.columns, row, strict=True):
                if isinstance(cell, int | float | Estimate) and column.decimals is None:
                    raise ValueError(f"column {column.name!r} has numbers and states no decimals")
        return self


class RoundedResult(_Strict):
    """One figure over rounds, as `results.Result.as_dict` and so `--results FILE` write it."""

    name: str
    unit: str
    median: float
    least: float
    most: float
    goal: float | None
    better: Literal["more", "less"]
    held: bool | None


class Measurement(_Strict):
    """What one command, or a few of one kind, showed."""

    title: str = Field(min_length=1)
    command: str = Field(min_length=1, description="or how it was measured by hand")
    commit: str = Field(pattern=r"^[0-9a-f]{7,40}$")
    commit_is: Literal["measured", "recorded"] = Field(
        "measured", description="the code that was measured, or the commit that added the figures"
    )
    date: datetime.date
    machine: str = Field(min_length=1)
    what: list[str] = Field(default=[], description="what was measured: paragraphs in Markdown")
    expected: str = Field("", description="the prediction made before measuring")
    table: Table | None = None
    results: list[RoundedResult] = Field(default=[], description="what `--results FILE` wrote")
    findings: list[str] = Field(default=[], description="what it shows and why: paragraphs")

    @model_validator(mode="after")
    def _check_something_was_found(self) -> Measurement:
        if not (self.table or self.results or self.findings):
            raise ValueError(f"{self.title!r} has neither table, results nor findings")
        return self


class ResultsFile(_Strict):
    """One file of benchmarks/results."""

    title: str = Field(min_length=1)
    topic: Topic
    measurements: list[Measurement] = Field(min_length=1)


def read_all() -> dict[str, ResultsFile]:
    """Every file by its name, in the order of topics and titles."""
    files = {
        path.stem: ResultsFile.model_validate_json(path.read_text())
        for path in FOLDER.glob("*.json")
    }
    return dict(sorted(files.items(), key=lambda kv: (TOPICS.index(kv[1].topic), kv[1].title)))
