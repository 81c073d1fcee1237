"""The record of a run, and the append-only table of all runs of an experiment or a sweep.

One JSON object a line. A line is written in one call and flushed to disk, so a killed
process leaves at most a torn last line, which readers pass over and the next writer cuts off.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from pydantic import ConfigDict, TypeAdapter, ValidationError

from leuk_ray.utils.errors import DataError
from leuk_ray.utils.settings import first_problem

Status = Literal["finished", "stopped", "failed"]


@dataclass(frozen=True)
class RunRecord:
    """What became of a run.

    name: of the run's folder, one of a kind in its table.
    status: `finished`; `stopped` early by a scheduler; `failed`, for the reason given.
    recipe: the recipe's name.
    overrides: settings in which the run differs from the recipe, by full path.
    seed: of the training.
    reason: why the run ended, in words.
    metrics: of the epoch whose weights the bundle holds.
    curve: the selection score of each epoch.
    seconds: from the start of the training to its end.
    bundle: whether the run left a bundle; it may have been removed to save space since.
    lineage: what the run came from: dataset and split fingerprints; for a population's member
        also the steps by which it took another's weights.
    """

    __pydantic_config__ = ConfigDict(extra="forbid")

    name: str
    status: Status
    recipe: str
    overrides: dict[str, Any]
    seed: int
    reason: str
    metrics: dict[str, Any]
    curve: list[float]
    seconds: float
    bundle: bool
    lineage: dict[str, Any] = field(default_factory=dict)

    @property
    def score(self) -> float | None:
        """What runs are compared by, larger is better; None without a trained epoch."""
        return self.metrics.get("selection")

    @property
    def done(self) -> bool:
        """Whether a resumed table leaves the run as it is; a failed one is tried again."""
        return self.status != "failed"


_RECORD = TypeAdapter(RunRecord)


class RunTable:
    """Records of runs in a file; of two with one name the later holds."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def append(self, record: RunRecord) -> None:
        """Add a record; it is on disk when this returns."""
        line = (json.dumps(asdict(record), allow_nan=False, sort_keys=True) + "\n").encode()
        descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            data = os.pread(descriptor, os.fstat(descriptor).st_size, 0)
            os.ftruncate(descriptor, sum(map(len, whole_lines(data))))
            os.lseek(descriptor, 0, os.SEEK_END)
            os.write(descriptor, line)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def records(self) -> dict[str, RunRecord]:
        """Return all records by name, in the order of their first appearance.

        Raises:
            UserError: a whole line is not a record.
        """
        if not self.path.exists():
            return {}
        found: dict[str, RunRecord] = {}
        for number, line in enumerate(whole_lines(self.path.read_bytes()), 1):
            try:
                record = _RECORD.validate_json(line, strict=True)
            except ValidationError as error:
                problem = first_problem(error)[:300]
                raise DataError(
                    f"{self.path}, line {number}: is no record of a run ({problem}); "
                    "remove the line"
                ) from error
            found[record.name] = record
        return found


def whole_lines(data: bytes) -> list[bytes]:
    """Return the lines that end, each with its end: a torn last one is left out."""
    return data[: data.rfind(b"\n") + 1].splitlines(keepends=True)


def read_history(path: Path) -> list[dict[str, Any]]:
    """Return the epochs in a run's folder; none before the first has ended."""
    return _read_lines(path / "metrics.jsonl")


def read_steps(path: Path) -> list[dict[str, Any]]:
    """Return the steps by which a population's member took over others' weights."""
    return _read_lines(path / "steps.jsonl")


def _read_lines(file: Path) -> list[dict[str, Any]]:
    """Without a last line that a kill has torn."""
    return [json.loads(line) for line in whole_lines(file.read_bytes())] if file.exists() else []
