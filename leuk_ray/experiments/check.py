"""What is checked before an experiment trains anything."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import pyarrow as pa

from leuk_ray.datasets.classes import require_two
from leuk_ray.datasets.prepared import PreparedDataset
from leuk_ray.experiments.settings import ExperimentSettings
from leuk_ray.models.weights import missing_imagenet
from leuk_ray.models.zoo import build
from leuk_ray.recipes.recipe import Recipe
from leuk_ray.runs.spec import make_splits, split_key
from leuk_ray.training.cells import EpochPlanner, TrainingCells
from leuk_ray.utils.errors import StorageError, UserError, restated
from leuk_ray.utils.progress import note


def check_data(
    experiment: ExperimentSettings, dataset: PreparedDataset, recipes: Iterable[Recipe]
) -> dict[str, pa.Table]:
    """Return the splits of all runs, each with enough cells of both classes for its batches.

    Raises:
        UserError: more than two classes, a part of the data is missing, a protocol that the data
            cannot give, or too few cells.
    """
    require_two(dataset.classes, dataset.location)
    try:
        recipes = list(recipes)
        splits = make_splits(dataset, recipes)
    except UserError as error:
        raise restated(
            error,
            f"{dataset.location}: {error}; {experiment.name} wants the dataset of "
            f"`{experiment.prepare}`",
        ) from error
    cells_of = {key: TrainingCells.of(dataset, split) for key, split in splits.items()}
    checked = set()
    for recipe in recipes:
        settings, key = recipe.training, split_key(recipe)
        what = (key, settings.batch_size, settings.accumulate, settings.balance)
        if what not in checked:
            checked.add(what)
            EpochPlanner(cells_of[key], settings, recipe.seed).check_batches(workers=1)
    return splits


def check_networks(recipes: Mapping[str, Recipe]) -> None:
    """Build every network once, and see that its weights can be had.

    Args:
        recipes: one of each model, by the model's id.

    Raises:
        UserError: a network that cannot be built, or weights that are not there.
    """
    wanted: dict[str, list[str]] = {}
    for name, recipe in recipes.items():
        if recipe.model.weights == "imagenet":
            wanted.setdefault(recipe.model.pretrained, []).append(name)
    if missing := missing_imagenet(list(wanted)):
        models = ", ".join(name for backbone in missing for name in wanted[backbone])
        raise StorageError(
            f"model.weights imagenet: no weights here for {models}, and the hub cannot be reached; "
            f"connect once, bring files (leuk-ray weights fetch {' '.join(missing)} --to weights, "
            "then --weights weights), choose weights=scratch, or leave networks out with --models"
        )
    note(f"experiment: building {len(recipes)} networks to see that they can be built")
    built: set[str] = set()
    for name, recipe in recipes.items():
        model = recipe.model
        if model.model_dump_json() not in built:
            built.add(model.model_dump_json())
            try:
                build(model, load_weights=model.weights not in ("imagenet", "scratch"))
            except UserError as error:
                raise restated(error, f"model {name}: {error}") from error
