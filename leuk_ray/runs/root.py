"""The folder of a sweep or an experiment: NAME.yaml says what it was started with."""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from leuk_ray.datasets.prepared import PreparedDataset
from leuk_ray.io.storage import directory_by_rename, refuse_existing
from leuk_ray.training.record import check_started_on, write_environment
from leuk_ray.utils.errors import ConfigError, DataError
from leuk_ray.utils.parsing import parse_yaml
from leuk_ray.utils.settings import Settings

_FOLDER = "folder of runs (add --resume to go on with it)"


@dataclass(frozen=True)
class RunsRoot:
    """KIND.yaml  environment.json, beside what the executor and the reports leave there.

    kind: `sweep`, `experiment` or `crossval`.
    settings: which the folder belongs to; others may not go on with it.
    same: whether settings that it was started with and those of now come to the same results.
    """

    path: Path
    kind: str
    settings: Settings
    dataset: PreparedDataset
    same: Callable[[Any, Any], bool] = operator.eq

    def check(self, *, resume: bool) -> bool:
        """Say whether there is something to go on with; what is another's is refused.

        Raises:
            UserError: the folder exists and resuming was not asked for, or it was started as
                something else, with other settings or on another dataset.
        """
        if not resume:
            refuse_existing(self.path, _FOLDER)
            return False
        if not self.path.exists():
            return False
        if not self._file.exists():
            raise DataError(
                f"{self.path}: is no {self.kind} (no {self._file.name}); nothing to resume"
            )
        if not self._goes_on():
            raise ConfigError(
                f"{self.path}: was started with other settings, see {self._file.name} there"
            )
        check_started_on(self.dataset, self.path)
        return True

    def start(self) -> None:
        """Make the folder, in one step: what can be gone on with, or nothing."""
        plain = self.settings.model_dump(mode="json")
        with directory_by_rename(self.path, new=_FOLDER) as partial:
            write_environment(self.dataset, partial)
            (partial / self._file.name).write_text(yaml.safe_dump(plain, sort_keys=False))

    @property
    def _file(self) -> Path:
        return self.path / f"{self.kind}.yaml"

    def _goes_on(self) -> bool:
        try:
            started = type(self.settings)(**parse_yaml(self._file.read_bytes(), self._file))
        except (ValueError, TypeError):
            return False
        return self.same(started, self.settings)
