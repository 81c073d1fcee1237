"""Settings of an experiment: a paper's networks, tables and figures, read from YAML."""

from __future__ import annotations

import difflib
from importlib import resources
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError, model_validator

from leuk_ray.datasets.splits import PROTOCOLS
from leuk_ray.utils.errors import UserError
from leuk_ray.utils.parsing import parse_yaml
from leuk_ray.utils.settings import Settings, first_problem

ScaleName = Literal["tiny", "small", "paper"]
Column = Literal[
    "accuracy", "precision", "sensitivity", "specificity", "f1", "recall", "loss", "auc",
    "weighted_f1", "parameters", "flops", "images_per_second", "epochs", "train_healthy",
    "train_ALL", "test_healthy", "test_ALL",
]  # fmt: skip


class Model(Settings):
    """A network that is trained.

    recipe, overrides: what is trained; settings by full path.
    like: another model, whose recipe, stand-ins and overrides this one starts from.
    protocols: split protocols it is trained under.
    data: parts of the dataset it is trained on, by their names in `data`.
    repeats: at most so many, where the scale has more.
    """

    title: str
    recipe: str | None = None
    like: str | None = None
    overrides: dict[str, Any] = Field(default_factory=dict)
    protocols: tuple[str, ...] = Field(min_length=1)
    data: tuple[str, ...] = ("all",)
    repeats: int | None = Field(default=None, ge=1)


class StandIn(Settings):
    """What trains at a scale in a network's place; the report says so."""

    recipe: str | None = None
    overrides: dict[str, Any] = Field(default_factory=dict)
    note: str


class Scale(Settings):
    """How large the experiment is.

    note: what the reader must know of it; first thing on the report.
    repeats: of each run, every one with a seed and a re-split of its own.
    overrides: of all networks.
    times: training uses and copies of each class, as a multiple of the cells of the larger
        class; the recipes' own numbers where unset.
    stand_ins: model -> what trains in its place.
    left_out: model -> why it is not trained at this scale.
    """

    note: str
    repeats: int = Field(ge=1)
    overrides: dict[str, Any] = Field(default_factory=dict)
    times: float | None = Field(default=None, ge=1)
    stand_ins: dict[str, StandIn] = Field(default_factory=dict)
    left_out: dict[str, str] = Field(default_factory=dict)


class Vote(Settings):
    """An ensemble of networks that are trained here."""

    title: str
    members: tuple[str, ...] = Field(min_length=2)
    rule: Literal["soft", "majority"]


class Row(Settings):
    """A row of a table.

    of: the model, vote or baseline that ours comes from; None where there is none, and then
        `why` says the reason.
    data: part of the dataset.
    repeat: from 1; None takes the mean of all.
    role: judged as if this class were the positive one; `both` is the mean of the two.
    reported: the paper's figures by column; shares in percent.
    why: also a remark on the paper's figures.
    """

    name: str
    of: str | None = None
    data: str = "all"
    repeat: int | None = Field(default=None, ge=1)
    role: Literal["ALL", "healthy", "both"] | None = None
    reported: dict[Column, float] = Field(default_factory=dict)
    why: str = ""

    @model_validator(mode="after")
    def _no_silence(self) -> Row:
        if self.of is None and not self.why:
            raise ValueError(f"row {self.name!r}: say `of` what, or `why` there is none of ours")
        return self


class Table(Settings):
    """A table of the paper, or one that we add. paper_rows: their ids in PAPERS.md."""

    id: str
    title: str
    paper_rows: tuple[str, ...] = ()
    columns: tuple[Column, ...]
    rows: tuple[Row, ...] = Field(min_length=1)
    note: str = ""


class PaperRow(Settings):
    """One row of the paper and where it is met.

    settings: the recipe settings that hold it, by full path; the report prints their values.
    where: the place in the report, or in the code.
    """

    what: str
    settings: tuple[str, ...] = ()
    where: str = ""

    @model_validator(mode="after")
    def _met(self) -> PaperRow:
        if not (self.settings or self.where):
            raise ValueError("say in which settings, or where, the row is met")
        return self


class Pair(Settings):
    """A network with and without its attention, for Grad-CAM."""

    title: str
    baseline: str
    full: str


class Figures(Settings):
    """Which figures the report holds.

    main: the model whose settings, augmentation and samples stand for the paper.
    curves: model -> parts of the data whose curves, confusion matrix and ROC are shown.
    layers: models shown as layer tables. activations: whether the functions are plotted.
    bars: id of the table that is drawn as bars and told first; it has a column accuracy.
    gradcam: networks to look into.
    """

    main: str
    curves: dict[str, tuple[str, ...]]
    layers: tuple[str, ...]
    activations: tuple[str, ...] = ()
    bars: str
    gradcam: tuple[Pair, ...] = ()


class ExperimentSettings(Settings):
    """A paper as a list of runs.

    paper: how it is cited. prepare: the command that makes its dataset.
    data: part of the dataset -> its source, None for all of it.
    baselines: of `leuk_ray.evaluation.baselines`, scored on the splits of these protocols.
    leaks: (leaky, honest) protocols whose difference is the size of the leak.
    rows: every row of the paper in PAPERS.md, by id.
    """

    name: str
    paper: str
    prepare: str
    data: dict[str, str | None] = Field(default_factory=lambda: {"all": None})
    leaks: tuple[tuple[str, str], ...]
    models: dict[str, Model] = Field(min_length=1)
    votes: dict[str, Vote] = Field(default_factory=dict)
    baselines: tuple[str, ...] = ()
    baseline_protocols: tuple[str, ...] = ()
    scales: dict[ScaleName, Scale]
    tables: tuple[Table, ...] = Field(min_length=1)
    figures: Figures
    rows: dict[str, PaperRow]

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
            _known("data", [row.data for row in table.rows if row.of], self.data)
        stands = [table for table in self.tables if table.id == self.figures.bars]
        if not stands or "accuracy" not in stands[0].columns:
            raise ValueError(
                f"figures.bars {self.figures.bars!r}: no table with accuracy is so called"
            )
        drawn = [*self.figures.curves, *self.figures.layers, self.figures.main]
        pairs = [name for pair in self.figures.gradcam for name in (pair.baseline, pair.full)]
        _known("figure of", [*drawn, *pairs], self.models)
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
        raise UserError(f"experiment {name}: must be a mapping of settings") from error
    except ValidationError as error:
        raise UserError(f"experiment {name}: {first_problem(error)}") from error


def _text(name: str) -> str:
    names = experiment_names()
    if name in names:
        return (resources.files("leuk_ray") / "experiments" / f"{name}.yaml").read_text()
    path = Path(name)
    if path.suffix in (".yaml", ".yml") and path.is_file():
        return path.read_text()
    close = difflib.get_close_matches(name, names, 1)
    hint = f"did you mean {close[0]}?" if close else f"there are: {', '.join(names)}"
    raise UserError(f"experiment {name!r}: no such experiment or .yaml file; {hint}")
