"""A run that is to be done."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from leuk_ray.datasets.prepared import PreparedDataset
from leuk_ray.datasets.splits import split_cells
from leuk_ray.recipes.recipe import Recipe, with_values


@dataclass(frozen=True)
class RunSpec:
    """A name for the run's folder, a recipe, and what is changed in it, by full path."""

    name: str
    recipe: Recipe
    overrides: dict[str, Any]

    @property
    def resolved(self) -> Recipe:
        """The recipe with the changes; raises UserError where they do not fit."""
        return with_values(self.recipe, self.overrides)


def split_key(recipe: Recipe) -> str:
    """Equal for recipes that part the cells alike."""
    return recipe.split.model_dump_json()


def make_splits(dataset: PreparedDataset, recipes: Iterable[Recipe]) -> dict[str, pa.Table]:
    """Return the splits of several recipes by `split_key`, each computed once.

    Raises:
        UserError: a split that the dataset cannot give.
    """
    wanted = {split_key(recipe): recipe.split for recipe in recipes}
    return {
        key: split_cells(dataset.cells, settings, dataset.classes)
        for key, settings in wanted.items()
    }
