"""One run: train a recipe, evaluate its best checkpoint, leave a report beside the bundle."""

from __future__ import annotations

from typing import TYPE_CHECKING

from leuk_ray.cluster.ray_cluster import Workers
from leuk_ray.datasets.prepared import PreparedDataset
from leuk_ray.io.locations import Location, join
from leuk_ray.io.storage import remove
from leuk_ray.recipes.recipe import Recipe
from leuk_ray.training.trainer import run_training

if TYPE_CHECKING:
    from leuk_ray.evaluation.report_model import Report


def train_and_evaluate(
    recipe: Recipe,
    dataset: PreparedDataset,
    out: Location,
    *,
    workers: Workers,
    gpus: bool = False,
    resume: bool = False,
    show_images: bool = True,
    mlflow: str | None = None,
) -> Report:
    """Train and evaluate into the folder `out`; Ray must be initialised.

    Raises:
        UserError: what cannot work is refused before any worker starts.
    """
    trained = run_training(
        recipe, dataset, out, workers=workers, gpus=gpus, resume=resume, mlflow=mlflow
    )
    # Imported here, since half a second of reports and statistics is nothing a first step needs.
    from leuk_ray.runs.report import keep_results, report_on
    from leuk_ray.runs.target import EvaluationTarget

    remove(join(out, "report"))  # a resumed run is evaluated again
    target = EvaluationTarget(trained.bundle, out)
    report = report_on(
        target,
        dataset,
        trained.split,
        trained.rows,
        trained.logits,
        join(out, "report"),
        copies=trained.copies,
        show_images=show_images,
    )
    keep_results(target, report)
    return report
