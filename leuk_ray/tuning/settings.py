"""Settings of a sweep, read from a commented YAML file."""

from __future__ import annotations

from collections.abc import Iterable
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, NonNegativeInt, ValidationError, model_validator

from leuk_ray.recipes.recipe import (
    Recipe,
    load_recipe,
    setting_path,
    value_at,
    with_values,
)
from leuk_ray.recipes.training import Selection
from leuk_ray.runs.placement import Resources
from leuk_ray.utils.errors import ConfigError, UserError, near, restated
from leuk_ray.utils.parsing import parse_yaml
from leuk_ray.utils.settings import Settings, first_problem

Value = bool | int | float | str | tuple[int | float | str, ...] | None

# One split evaluates all configurations, the seeds are the sweep's own, and so is the metric.
_NOT_SEARCHED = {
    "name": "the sweep names its runs",
    "seed": "list seeds under `seeds`",
    "training.select": "name it as `metric`",
}
# What a network, its optimizer and a checkpoint are built by.
_FIXED_MIDWAY = (
    "optimizer",
    "epochs",
    "frozen_norm",
    "ema_decay",
    "layer_decay",
    "precision",
)


def _ordered(bounds: tuple[float, float]) -> tuple[float, float]:
    if bounds[0] >= bounds[1]:
        raise ValueError(f"the lower bound {bounds[0]:g} must lie below the upper, {bounds[1]:g}")
    return bounds


def _positive(bounds: tuple[float, float]) -> tuple[float, float]:
    if bounds[0] <= 0:
        raise ValueError(f"a logarithmic range starts above 0, not at {bounds[0]:g}")
    return bounds


Bounds = Annotated[tuple[float, float], AfterValidator(_ordered)]


class Dimension(Settings):
    """Where one setting is searched: exactly one of these."""

    choice: tuple[Value, ...] | None = Field(default=None, min_length=1)
    """A list of values."""

    uniform: Bounds | None = None
    """[LOW, HIGH]: a number between the two, uniform."""

    log_uniform: Annotated[Bounds, AfterValidator(_positive)] | None = None
    """[LOW, HIGH], both above 0: a number between the two, uniform in its logarithm."""

    integer: tuple[int, int] | None = None
    """[LOW, HIGH]: a whole number between the two, both included."""

    @model_validator(mode="after")
    def _one_kind(self) -> Dimension:
        if len(self._given()) != 1:
            raise ValueError("give one of choice, uniform, log_uniform, integer")
        if self.integer is not None and self.integer[0] >= self.integer[1]:
            raise ValueError("integer: the lower bound must lie below the upper")
        return self

    def _given(self) -> dict[str, Any]:
        return {name: value for name, value in self if value is not None}

    @property
    def extremes(self) -> list[Any]:
        """Plain values that are valid if all are: every choice, or both bounds."""
        (values,) = self._given().values()
        return [_plain(value) for value in values]

    def covers(self, value: Any) -> bool:
        """Say whether a plain value lies in here."""
        if self.choice is not None:
            return value in self.extremes
        low, high = self.extremes
        return value is not None and low <= value <= high


class Scheduler(Settings):
    """Which runs are stopped early or continue from the weights of another."""

    kind: Literal["none", "asha", "median", "pbt"] = "none"
    """`none`: every run is trained to its end. `asha`: at epochs grace, grace * reduction, ...
    only the best 1/reduction continue (Li et al. 2020). `median`: a run stops when its best value
    is worse than the median of the other runs' means (Golovin et al. 2017). `pbt`: every
    `interval` epochs the worst quarter continue from the weights of the best quarter, with
    perturbed settings (Jaderberg et al. 2017)."""

    grace: int = Field(default=1, ge=1)
    """Epochs that every run is trained for, at least."""

    reduction: int = Field(default=3, ge=2)
    """Reduction factor of `asha`."""

    interval: int = Field(default=1, ge=1)
    """Epochs between two exchanges of `pbt`."""


class SweepSettings(Settings):
    """A sweep: which settings of a recipe are searched, how, and how many runs it may take."""

    name: str
    """Name in reports (default: the name of the file)."""

    recipe: str
    """Recipe to start from: a shipped one or a YAML file."""

    overrides: dict[str, Value] = Field(default_factory=dict)
    """Recipe settings that all runs share."""

    search: dict[str, Dimension] = Field(min_length=1)
    """Search space: recipe setting -> values or range. A setting may leave out its section."""

    searcher: Literal["random", "grid", "optuna"] = "random"
    """`grid`: every combination of choices. `random`: random search. `optuna`: TPE, which samples
    near what did well, and tries the recipe itself first."""

    scheduler: Scheduler = Scheduler()
    """Early stopping of poor runs."""

    trials: int | None = Field(default=None, ge=1)
    """Number of configurations to try; not given for `grid`, which tries all."""

    metric: Selection = "validation_auc"
    """Validation metric that selects the best checkpoint, the best runs and the winner."""

    seeds: tuple[NonNegativeInt, ...] = Field(default=(0,), min_length=1)
    """Seeds. All configurations are trained with the first, the best `finalists` with all; the
    best mean wins."""

    finalists: int = Field(default=3, ge=1)
    """Configurations that are trained with all seeds."""

    top: int = Field(default=3, ge=1)
    """Number of best bundles to keep."""

    resources: Resources = Resources()
    """Resources of one run."""

    @model_validator(mode="after")
    def _fits_together(self) -> SweepSettings:
        if self.searcher == "grid":
            ranges = [key for key, dimension in self.search.items() if dimension.choice is None]
            if ranges:
                raise ValueError(f"search.{ranges[0]}: a grid needs `choice`, or searcher: random")
            if self.trials is not None:
                raise ValueError("trials: a grid runs all combinations; leave trials out")
        elif self.trials is None:
            raise ValueError(f"trials: say how many configurations {self.searcher} may try")
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError("seeds: each once")
        if self.scheduler.kind == "pbt":
            self._check_population()
        return self

    def _check_population(self) -> None:
        if self.searcher == "grid" or (self.trials or 0) < 4:
            raise ValueError("scheduler pbt: needs a population of 4 trials or more, not a grid")
        if len(self.seeds) > 1 or self.resources.workers > 1:
            raise ValueError("scheduler pbt: takes one seed and runs of one worker")

    def base(self) -> Recipe:
        """Return the recipe that all runs start from."""
        values = {key: _plain(value) for key, value in self.overrides.items()}
        fixed = {"seed": self.seeds[0], "training.select": self.metric}
        return with_values(load_recipe(self.recipe), values | fixed)


def sweep_names() -> list[str]:
    """Sweeps shipped with the package."""
    return sorted(f.name.removesuffix(".yaml") for f in _shipped().iterdir())


def _shipped() -> Traversable:
    return resources.files("leuk_ray") / "tuning" / "configs"  # a link to tune_configs/


def load_sweep(path: str, overrides: Iterable[str] = ()) -> SweepSettings:
    """Read a sweep and apply `key=value` overrides; every searched value is tried on the recipe.

    Args:
        path: a shipped sweep, or the path of a YAML file.
        overrides: of the sweep's settings (`trials=20`, `resources.cpus=2`), else of the recipe
            (`epochs=3`).

    Returns:
        The sweep, its keys by full path (`training.lr`).

    Raises:
        UserError: no such file or setting, an empty search space, or a value that the recipe
            does not take.
    """
    values = _read(path)
    for override in overrides:
        _override(values, override)
    for part in ("search", "overrides"):
        if isinstance(values.get(part), dict):
            values[part] = {".".join(setting_path(k)): v for k, v in values[part].items()}
    if isinstance(values.get("scheduler"), str):
        values["scheduler"] = {"kind": values["scheduler"]}
    values.setdefault("name", Path(path).stem)
    try:
        sweep = SweepSettings(**values)
    except ValidationError as error:
        raise ConfigError(f"sweep {path}: {first_problem(error)}") from error
    _check_keys(path, sweep)
    return sweep.model_copy(update={"search": _typed(path, sweep)})


def _read(path: str) -> dict[str, Any]:
    names = sweep_names()
    file = _shipped() / f"{path}.yaml" if path in names else Path(path)
    if not file.name.endswith((".yaml", ".yml")) or not file.is_file():
        raise ConfigError(f"sweep {path}: no such sweep or .yaml file; {near(path, names)}")
    values = parse_yaml(file.read_bytes(), f"sweep {path}")
    if not isinstance(values, dict):
        raise ConfigError(f"sweep {path}: must be a mapping of settings")
    return values


def _override(values: dict[str, Any], override: str) -> None:
    key, separator, text = override.partition("=")
    if not separator:
        raise ConfigError(f"override {override!r}: write key=value")
    value = parse_yaml(text, f"override {override!r}")
    first, _, rest = key.partition(".")
    if first not in SweepSettings.model_fields:
        first, rest = "overrides", ".".join(setting_path(key))
    if not rest:
        values[first] = value
    elif isinstance(values.setdefault(first, {}), dict):
        values[first][rest] = value
    else:
        values[first] = {"kind": values[first], rest: value}  # `scheduler: asha`


def _check_keys(path: str, sweep: SweepSettings) -> None:
    if sweep.base().split.protocol == "paper-literal":
        raise ConfigError(
            f"sweep {path}: paper-literal tests on augmented copies; a sweep's winner is evaluated "
            "on cells as they are: set protocol to image-random or one that parts subjects"
        )
    for key in [*sweep.search, *sweep.overrides]:
        if key in _NOT_SEARCHED:
            raise ConfigError(f"sweep {path}: {key}: {_NOT_SEARCHED[key]}")
    for key in sweep.search:
        if key.startswith("split."):
            raise ConfigError(
                f"sweep {path}: search.{key}: configurations are compared on one split; "
                "set it under overrides"
            )
        if sweep.scheduler.kind == "pbt" and not _changes_midway(key):
            raise ConfigError(
                f"sweep {path}: search.{key}: cannot change while a network trains; pbt searches "
                f"training and augment settings, without {', '.join(_FIXED_MIDWAY)}"
            )


def _typed(path: str, sweep: SweepSettings) -> dict[str, Dimension]:
    """Return the search space, choices as the recipe takes them (`1e-3` is text to YAML 1.1)."""
    base, typed = sweep.base(), {}
    for key, dimension in sweep.search.items():
        try:
            values = [value_at(with_values(base, {key: v}), key) for v in dimension.extremes]
        except UserError as error:
            raise restated(error, f"sweep {path}: search.{key}: {error}") from error
        typed[key] = dimension if dimension.choice is None else Dimension(choice=tuple(values))
    return typed


def _changes_midway(key: str) -> bool:
    section, _, name = key.partition(".")
    return section in ("training", "augment") and name not in _FIXED_MIDWAY


def _plain(value: Value) -> Any:
    return list(value) if isinstance(value, tuple) else value
