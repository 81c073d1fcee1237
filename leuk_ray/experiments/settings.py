"""Settings of an experiment: a paper's networks, tables and figures, read from YAML."""

from __future__ import annotations

import difflib
from importlib import resources
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError, model_validator

from leuk_ray.datasets.splits import PROTOCOLS
from leuk_ray.utils.errors import ConfigError
from leuk_ray.utils.parsing import parse_yaml
from leuk_ray.utils.settings import Settings, first_problem

ScaleName = Literal["tiny", "small", "paper"]
Column = Literal[
    "accuracy", "precision", "sensitivity", "specificity", "f1", "recall", "loss", "auc",
    "weighted_f1", "parameters", "flops", "images_per_second", "epochs", "train_healthy",
    "train_ALL", "test_healthy", "test_ALL",
]  # fmt: skip


class Model(Settings):
    """A network that is trained."""

    title: str
    """Name in reports."""

    recipe: str | None = None
    """Recipe that is trained; give this or `like`."""

    like: str | None = None
    """Another model of the experiment, whose recipe, stand-ins and overrides this one inherits."""

    overrides: dict[str, Any] = Field(default_factory=dict)
    """Recipe settings by full path."""

    protocols: tuple[str, ...] = Field(min_length=1)
    """Split protocols to train under."""

    data: tuple[str, ...] = ("all",)
    """Parts of the dataset to train on, by their names in `data`."""

    repeats: int | None = Field(default=None, ge=1)
    """Maximum number of repeats, where the scale has more."""


class StandIn(Settings):
    """A smaller network that replaces a model at one scale; the report says so."""

    recipe: str | None = None
    """Recipe that is trained instead; unset keeps the model's."""

    overrides: dict[str, Any] = Field(default_factory=dict)
    """Recipe settings by full path."""

    note: str
    """Note for the report: what was replaced by what."""


class Scale(Settings):
    """How large the experiment is."""

    note: str
    """What readers must know about this scale; opens the report."""

    repeats: int = Field(ge=1)
    """Repeats of each run, each with its own seed and split."""

    overrides: dict[str, Any] = Field(default_factory=dict)
    """Recipe settings of all networks, by full path."""

    times: float | None = Field(default=None, ge=1)
    """Samples and copies of each class, as a multiple of the size of the larger class; unset takes
    the numbers in the recipes."""

    stand_ins: dict[str, StandIn] = Field(default_factory=dict)
    """Models that a smaller network replaces."""

    left_out: dict[str, str] = Field(default_factory=dict)
    """Models that are not trained at this scale, and why."""


class Vote(Settings):
    """An ensemble of networks that are trained here."""

    title: str
    """Name in reports."""

    members: tuple[str, ...] = Field(min_length=2)
    """Models whose predictions are combined."""

    rule: Literal["soft", "majority"]
    """`soft`: mean probability. `majority`: most votes."""


class Row(Settings):
    """A row of a table."""

    name: str
    """First cell of the row."""

    of: str | None = None
    """Model, vote or baseline that gives our figures; unset where there is none, which `why`
    explains."""

    data: str = "all"
    """Part of the dataset."""

    repeat: int | None = Field(default=None, ge=1)
    """One repeat, from 1; unset takes the mean of all."""

    role: Literal["ALL", "healthy", "both"] | None = None
    """Class that counts as positive; `both` is the mean of the two."""

    against: str | None = None
    """Model whose accuracy and area under ROC are subtracted, repeat by repeat."""

    reported: dict[Column, float] = Field(default_factory=dict)
    """The paper's figures by column; shares in percent."""

    why: str = ""
    """Why there is no figure of ours, or a remark on the paper's."""

    @model_validator(mode="after")
    def _no_silence(self) -> Row:
        if self.of is None and not self.why:
            raise ValueError(f"row {self.name!r}: say `of` what, or `why` there is none of ours")
        return self


class Table(Settings):
    """A table of the paper, or one that we add."""

    id: str
    """Short name, unique in the experiment."""

    title: str
    """Heading."""

    paper_rows: tuple[str, ...] = ()
    """Items of the paper that this table reproduces, by their ids in `rows`."""

    columns: tuple[Column, ...]
    """Columns, in order."""

    rows: tuple[Row, ...] = Field(min_length=1)
    """Rows, in order."""

    note: str = ""
    """Note below the table."""


class PaperRow(Settings):
    """One item of the paper and where it is met."""

    what: str
    """What the paper says."""

    settings: tuple[str, ...] = ()
    """Recipe settings that hold it, by full path; the report prints their values."""

    where: str = ""
    """Where in the report, or in the code, it is found."""

    @model_validator(mode="after")
    def _met(self) -> PaperRow:
        if not (self.settings or self.where):
            raise ValueError("say in which settings, or where, the row is met")
        return self


class Pair(Settings):
    """A network with and without its attention, for Grad-CAM."""

    title: str
    """Name in the figure."""

    baseline: str
    """Model without attention."""

    full: str
    """Model with attention."""


class Figures(Settings):
    """Figures of the report."""

    main: str
    """Model whose settings, augmentation and samples represent the paper."""

    curves: dict[str, tuple[str, ...]]
    """Models, and parts of the data whose learning curves, confusion matrices and ROC are shown."""

    layers: tuple[str, ...]
    """Models shown as tables of layers."""

    scaling: dict[str, float] = Field(default_factory=dict)
    """Those of `layers` that are EfficientNet-B0 by compound scaling, and their phi."""

    activations: tuple[str, ...] = ()
    """Activation functions to plot."""

    bars: str
    """Table shown as a bar chart, and first in the summary; needs the column accuracy."""

    gradcam: tuple[Pair, ...] = ()
    """Pairs of networks shown with Grad-CAM."""


class ExperimentSettings(Settings):
    """A paper as a list of runs."""

    name: str
    """Name of the experiment."""

    paper: str
    """Citation of the paper."""

    prepare: str
    """Command that prepares its dataset."""

    data: dict[str, str | None] = Field(default_factory=lambda: {"all": None})
    """Parts of the dataset: name -> source of the cells, null for all of them."""

    leaks: tuple[tuple[str, str], ...]
    """Pairs [LEAKY, HONEST] of protocols whose difference is reported as the size of the leak."""

    models: dict[str, Model] = Field(min_length=1)
    """Networks that are trained, by name."""

    votes: dict[str, Vote] = Field(default_factory=dict)
    """Ensembles of these networks, by name."""

    baselines: tuple[str, ...] = ()
    """Classifiers without a network to compare with: `area`, `texture-svm`."""

    baseline_protocols: tuple[str, ...] = ()
    """Split protocols under which the baselines are evaluated."""

    scales: dict[ScaleName, Scale]
    """Sizes at which the experiment runs, by name."""

    tables: tuple[Table, ...] = Field(min_length=1)
    """Tables of the report."""

    figures: Figures
    """Figures of the report."""

    rows: dict[str, PaperRow]
    """Every item of the paper, by id, and where it is met."""

    @model_validator(mode="after")
    def _names_are_known(self) -> ExperimentSettings:
        for model in self.models.values():
            _known("protocol", model.protocols, PROTOCOLS)
            _known("data", model.data, self.data)
            if (model.recipe is None) == (model.like is None):
                raise ValueError(f"model {model.title!r}: give recipe or like")
            _known("like", [model.like] if model.like else [], self.models)
        for vote in self.votes.values():
            _known("member", vote.members, self.models)
        for scale in self.scales.values():
            _known("stand-in", [*scale.stand_ins, *scale.left_out], self.models)
        trained = {*self.models, *self.votes, *self.baselines}
        for table in self.tables:
            _known("of", [row.of for row in table.rows if row.of], trained)
            _known("against", [row.against for row in table.rows if row.against], trained)
            _known("data", [row.data for row in table.rows if row.of], self.data)
        stands = [table for table in self.tables if table.id == self.figures.bars]
        if not stands or "accuracy" not in stands[0].columns:
            raise ValueError(
                f"figures.bars {self.figures.bars!r}: no table with accuracy is so called"
            )
        plotted = [*self.figures.curves, *self.figures.layers, self.figures.main]
        pairs = [name for pair in self.figures.gradcam for name in (pair.baseline, pair.full)]
        _known("figure of", [*plotted, *pairs], self.models)
        return self


def _known(kind: str, names: Any, known: Any) -> None:
    for name in names:
        if name not in known:
            raise ValueError(f"{kind} {name!r}: there are {', '.join(known)}")


def experiment_names() -> list[str]:
    """Experiments shipped with the package."""
    folder = resources.files("leuk_ray") / "experiments"
    return sorted(
        f.name.removesuffix(".yaml") for f in folder.iterdir() if f.name.endswith(".yaml")
    )


def load_experiment(name: str) -> ExperimentSettings:
    """Read an experiment.

    Args:
        name: a shipped experiment, or the path of a YAML file.

    Raises:
        UserError: no such experiment, or a setting that does not fit.
    """
    values = parse_yaml(_text(name), f"experiment {name}")
    try:
        return ExperimentSettings(**values)
    except TypeError as error:
        raise ConfigError(f"experiment {name}: must be a mapping of settings") from error
    except ValidationError as error:
        raise ConfigError(f"experiment {name}: {first_problem(error)}") from error


def _text(name: str) -> str:
    names = experiment_names()
    if name in names:
        return (resources.files("leuk_ray") / "experiments" / f"{name}.yaml").read_text()
    path = Path(name)
    if path.suffix in (".yaml", ".yml") and path.is_file():
        return path.read_text()
    close = difflib.get_close_matches(name, names, 1)
    hint = f"did you mean {close[0]}?" if close else f"there are: {', '.join(names)}"
    raise ConfigError(f"experiment {name!r}: no such experiment or .yaml file; {hint}")
