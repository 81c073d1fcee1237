"""A recipe: the settings that each room owns, composed. YAML in, resolved YAML out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from importlib import resources
from pathlib import Path
from typing import Any

import yaml
from pydantic import Field, ValidationError, model_validator

from leuk_ray.augment.settings import AugmentSettings
from leuk_ray.datasets.splits import SplitSettings
from leuk_ray.models.settings import ModelSettings
from leuk_ray.recipes.training import TrainingSettings
from leuk_ray.utils.errors import ConfigError, near
from leuk_ray.utils.parsing import parse_yaml
from leuk_ray.utils.settings import Settings, first_problem


class Recipe(Settings):
    """Everything that decides a result, apart from the data."""

    name: str
    """Name in reports and bundles (default: the name of the file)."""

    seed: int = Field(default=0, ge=0)
    """Seed of initial weights, sampling and augmentation."""

    split: SplitSettings = SplitSettings()
    """Training, validation and test sets."""

    model: ModelSettings = ModelSettings()
    """Network."""

    augment: AugmentSettings = AugmentSettings()
    """Augmentation of training cells."""

    training: TrainingSettings = TrainingSettings()
    """Optimization."""

    @model_validator(mode="after")
    def _statistics_to_keep(self) -> Recipe:
        kept = self.training.frozen_norm
        if self.model.weights == "scratch" and kept != "none":
            raise ValueError(
                f"training.frozen_norm {kept} keeps pretrained statistics, and model.weights "
                "scratch brings none; set frozen_norm=none, or start from weights"
            )
        return self

    @model_validator(mode="after")
    def _probe_is_a_linear_head(self) -> Recipe:
        if not self.training.probe:
            return self
        if self.model.architecture not in ("timm", "alexnet"):
            raise ValueError(
                "training.probe fits a linear head; take model.architecture timm or alexnet, not "
                f"{self.model.architecture}"
            )
        if self.augment.policy != "none":
            raise ValueError(
                "training.probe fits to cells as they are; set augment.policy=none, not "
                f"{self.augment.policy}"
            )
        if self.augment.mixes:
            raise ValueError(
                "training.probe fits to cells as they are; set augment.mixup=0 and augment.cutmix=0"
            )
        return self

    @model_validator(mode="after")
    def _copies_are_sampled_by_the_split(self) -> Recipe:
        if self.split.protocol == "paper-literal" and self.training.sampling != "cells":
            raise ValueError(
                f"training.sampling {self.training.sampling}: protocol paper-literal makes the "
                "copies of cells before it parts them; set sampling=cells, or another protocol"
            )
        return self

    def to_yaml(self) -> str:
        """Return every setting, resolved."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False)


def recipe_names() -> list[str]:
    """Recipes shipped with the package."""
    folder = resources.files("leuk_ray") / "recipes"
    return sorted(
        f.name.removesuffix(".yaml") for f in folder.iterdir() if f.name.endswith(".yaml")
    )


def recipe_text(name: str) -> str:
    """Return the YAML of a shipped recipe, or of a file whose path is given.

    Raises:
        UserError: neither exists.
    """
    if name in recipe_names():
        return (resources.files("leuk_ray") / "recipes" / f"{name}.yaml").read_text()
    path = Path(name)
    if path.suffix in (".yaml", ".yml") and path.is_file():
        return path.read_text()
    raise ConfigError(
        f"recipe {name!r}: no such recipe or .yaml file; {near(name, recipe_names())}"
    )


def backbone_name(name: str) -> str:
    """Return the backbone of a shipped recipe; any other name is a backbone's already.

    Raises:
        UserError: the recipe's network has no pretrained weights.
    """
    if name not in recipe_names():
        return name
    model = load_recipe(name).model
    if model.architecture == "se_cnn":
        raise ConfigError(f"{name}: trains from scratch; there are no weights to fetch")
    return model.pretrained


def load_recipe(name: str, overrides: Iterable[str] = ()) -> Recipe:
    """Read a recipe and apply `key=value` overrides.

    Args:
        name: a shipped recipe, or the path of a YAML file (such as a run's config.yaml).
        overrides: `section.key=value`, or `key=value` where one section alone has the key;
            the value is read as YAML.

    Raises:
        UserError: no such recipe or key, or a value out of range.
    """
    values = parse_yaml(recipe_text(name), f"recipe {name}")
    if not isinstance(values, dict):
        raise ConfigError(f"recipe {name}: must be a mapping of settings")
    values.setdefault("name", Path(name).stem)
    for path, value in parse_overrides(overrides).items():
        _override(values, path.split("."), value)
    try:
        return Recipe(**values)
    except ValidationError as error:
        raise ConfigError(f"recipe {name}: {first_problem(error)}") from error


def with_values(recipe: Recipe, values: Mapping[str, Any]) -> Recipe:
    """Return the recipe with other values of some settings, by full path (`training.lr`).

    Raises:
        UserError: a value out of range, or one that does not apply to the network.
    """
    changed = recipe.model_dump(mode="json")
    for key, value in values.items():
        *sections, name = key.split(".")
        target = changed
        for section in sections:
            target = target[section]
        target[name] = value
    try:
        return Recipe(**changed)
    except ValidationError as error:
        raise ConfigError(f"recipe {recipe.name}: {first_problem(error)}") from error


def value_at(recipe: Recipe, key: str) -> Any:
    """Return the plain value of a setting by its full path; None where it does not apply."""
    value: Any = recipe.model_dump(mode="json")
    for part in key.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return value


def parse_overrides(overrides: Iterable[str]) -> dict[str, Any]:
    """Parse `key=value` texts, as `load_recipe` takes them: settings by path (`training.lr`).

    Raises:
        UserError: no such key, or no value.
    """
    values = {}
    for override in overrides:
        key, separator, text = override.partition("=")
        if not separator:
            raise ConfigError(f"override {override!r}: write key=value")
        path = ".".join(setting_path(key))
        values[path] = parse_yaml(text, f"override {override!r}")
    return values


def _override(values: dict[str, Any], path: list[str], value: Any) -> None:
    target = values
    for part in path[:-1]:
        target = target.setdefault(part, {})
    target[path[-1]] = value  # `1e-3` is text to YAML 1.1; the typed setting makes it a number


def setting_path(key: str) -> list[str]:
    """Return the full path of a recipe's key that may leave out its section.

    Raises:
        UserError: no such setting, or several sections have one.
    """
    paths = dict.fromkeys(_all_keys(Recipe))
    if key in paths:
        return key.split(".")
    matches = [path for path in paths if path.endswith(f".{key}")]
    if len(matches) == 1:
        return matches[0].split(".")
    if matches:
        raise ConfigError(f"override {key}: say which one: {', '.join(matches)}")
    known = dict.fromkeys([*paths, *(path.rpartition(".")[2] for path in paths)])
    raise ConfigError(f"override {key}: no such setting; {near(key, known)}")


def _all_keys(settings: type[Settings], prefix: str = "") -> Iterable[str]:
    for name, field in settings.model_fields.items():
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, Settings):
            yield from _all_keys(inner, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}"
