"""A run that is to be done."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from leuk_ray.config import Recipe, with_values


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
