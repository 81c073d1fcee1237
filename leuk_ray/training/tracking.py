"""MLflow: one MLflow run for one run, however often it is stopped and resumed.

The run's folder remembers the MLflow run's id in mlflow.json, and not where the server is:
its address may hold a password.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING, Any

from leuk_ray.io.locations import Location, join, name_of
from leuk_ray.io.storage import exists, read_json, write_json
from leuk_ray.recipes.recipe import Recipe
from leuk_ray.utils.errors import StorageError
from leuk_ray.utils.extras import require

if TYPE_CHECKING:
    from mlflow import MlflowClient

EXPERIMENT = "leuk_ray"


@dataclass(frozen=True)
class MlflowRun:
    """Where metrics go.

    uri: tracking server or store, as MLflow writes it: http://..., file:///...
    run_id: MLflow's id of the run.
    """

    uri: str
    run_id: str

    @classmethod
    def of(cls, uri: str, folder: Location, recipe: Recipe) -> MlflowRun:
        """Make the MLflow run of a run's folder, or take the one it had before.

        Raises:
            UserError: MLflow is not installed, or the store cannot be reached.
        """
        require("mlflow", "--mlflow")
        exceptions, remembered = _mlflow().exceptions, join(folder, "mlflow.json")
        try:
            client = _mlflow().MlflowClient(uri)
            if exists(remembered):
                run_id = read_json(remembered)["run_id"]
                client.update_run(run_id, "RUNNING")
                return cls(uri, run_id)
            known = client.get_experiment_by_name(EXPERIMENT)
            experiment = known.experiment_id if known else client.create_experiment(EXPERIMENT)
            run_id = client.create_run(experiment, run_name=name_of(folder)).info.run_id
            for name, value in _flat(recipe.model_dump(mode="json")).items():
                client.log_param(run_id, name, value)
        except exceptions.MlflowException as error:
            reason = str(error).strip().splitlines()[0]
            raise StorageError(f"--mlflow: {reason}; check the address and the server") from error
        write_json(remembered, {"run_id": run_id})
        return cls(uri, run_id)

    def log(self, metrics: dict[str, Any], step: int) -> None:
        """Log metrics. A server that is away loses them, and stops no training."""
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        values = [
            Metric(name, float(value), now, step)
            for name, value in metrics.items()
            if isinstance(value, int | float)
        ]
        self._tell(lambda client: client.log_batch(self.run_id, metrics=values))

    def end(self, status: str) -> None:
        """FINISHED or FAILED."""
        self._tell(lambda client: client.set_terminated(self.run_id, status))

    def _tell(self, what: Callable[[MlflowClient], object]) -> None:
        try:
            what(_mlflow().MlflowClient(self.uri))
        except _mlflow().exceptions.MlflowException as error:
            logging.getLogger(__name__).warning("MLflow: %s", error)


def _mlflow() -> ModuleType:
    import mlflow

    return mlflow


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, str]:
    flat: dict[str, str] = {}
    for name, value in values.items():
        key = f"{prefix}{name}"
        flat |= _flat(value, f"{key}.") if isinstance(value, dict) else {key: str(value)}
    return flat
