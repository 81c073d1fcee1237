"""From an experiment and a scale to the runs that are to be done."""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from leuk_ray.datasets.protocols import PROTOCOLS
from leuk_ray.datasets.splits import SplitSettings, eligible
from leuk_ray.experiments.settings import ExperimentSettings, Scale, StandIn
from leuk_ray.recipes.recipe import Recipe, load_recipe, with_values
from leuk_ray.runs.spec import RunSpec
from leuk_ray.utils.errors import ConfigError

NUM_OFFICIAL_FOLDS = 3


@dataclass(frozen=True)
class RunKey:
    """Where a run stands in an experiment.

    of: a model's id; of what is made from runs, a vote's.
    data: part of the dataset. protocol: of the split. repeat: from 1.
    """

    of: str
    data: str
    protocol: str
    repeat: int

    @property
    def name(self) -> str:
        """Of the run's folder."""
        return f"{self.of}.{self.data}.{self.protocol}.{self.repeat}"


@dataclass(frozen=True)
class Plan:
    """The runs of an experiment at a scale.

    specs: by place, in the order they are done: repeat by repeat, so that a stopped experiment
        has all rows before it has any twice.
    left_out: model -> why it is not trained.
    stand_ins: model -> what trains in its place, in words.
    """

    specs: dict[RunKey, RunSpec]
    left_out: dict[str, str]
    stand_ins: dict[str, str]


def make_plan(
    experiment: ExperimentSettings,
    scale: Scale,
    cells: pa.Table,
    values: Mapping[str, Any],
    only: Sequence[str] = (),
    weights: Path | None = None,
) -> Plan:
    """List the runs.

    Args:
        experiment, scale: what to run, and how large.
        cells: `PreparedDataset.cells`; they say how many uses and copies `times` means.
        values: settings of all runs, by full path; they have the last word.
        only: models to train; all where empty.
        weights: folder of `weights fetch`, in place of ImageNet weights from the hub.

    Raises:
        UserError: an unknown model, or a setting that does not fit a network.
    """
    for name in only:
        if name not in experiment.models:
            close = difflib.get_close_matches(name, experiment.models, 1)
            hint = f"did you mean {close[0]}?" if close else ""
            known = f"there are: {', '.join(experiment.models)}"
            raise ConfigError(f"--models {name}: {experiment.name} has none; {hint or known}")
    left_out = dict(scale.left_out)
    if only:
        left_out |= {name: "left out by --models" for name in experiment.models if name not in only}
    trained = [name for name in experiment.models if name not in left_out]
    if not trained:
        raise ConfigError(f"--models: nothing is left to train: {left_out[only[0]]}")
    parts = {
        data: eligible(cells if source is None else cells.filter(pc.field("source") == source))
        for data, source in experiment.data.items()
    }
    uses = {data: _uses(part, scale) for data, part in parts.items()}
    specs = {}
    for repeat in range(1, scale.repeats + 1):
        for name in trained:
            model = experiment.models[name]
            if model.repeats is not None and repeat > model.repeats:
                continue
            for data in model.data:
                base = _with_uses(_recipe(experiment, scale, name), uses[data])
                overrides = {**_overrides(experiment, scale, name), **values}
                folds = _num_folds(with_values(base, overrides).split, parts[data], scale.repeats)
                for protocol in model.protocols:
                    place = RunKey(name, data, protocol, repeat)
                    split = _split(protocol, experiment.data[data], repeat, folds)
                    spec = RunSpec(place.name, base, {**overrides, **split, "seed": repeat - 1})
                    specs[place] = _with_weights(spec, weights)
    stand_ins = {
        name: stand_in.note for name in trained if (stand_in := _stand_in(experiment, scale, name))
    }
    return Plan(specs, left_out, stand_ins)


def _with_weights(spec: RunSpec, folder: Path | None) -> RunSpec:
    model = spec.resolved.model  # a setting that does not fit the network shows here
    if folder is None or model.weights != "imagenet":
        return spec
    file = str((folder / f"{model.pretrained}.safetensors").absolute())
    return replace(spec, overrides={**spec.overrides, "model.weights": file})


def _recipe(experiment: ExperimentSettings, scale: Scale, name: str) -> Recipe:
    model, stand_in = experiment.models[name], scale.stand_ins.get(name)
    if stand_in is not None and stand_in.recipe is not None:
        return load_recipe(stand_in.recipe)
    if model.like is not None:
        return _recipe(experiment, scale, model.like)
    assert model.recipe is not None
    return load_recipe(model.recipe)


def _stand_in(experiment: ExperimentSettings, scale: Scale, name: str) -> StandIn | None:
    """Return a model's own, or that of the model it is like."""
    like = experiment.models[name].like
    inherited = _stand_in(experiment, scale, like) if like else None
    return scale.stand_ins.get(name, inherited)


def _overrides(experiment: ExperimentSettings, scale: Scale, name: str) -> dict[str, Any]:
    """Of the scale, of the models it is like, and its own; the last word holds."""
    model, stand_in = experiment.models[name], scale.stand_ins.get(name)
    given = _overrides(experiment, scale, model.like) if model.like else dict(scale.overrides)
    return given | model.overrides | (stand_in.overrides if stand_in else {})


def _with_uses(recipe: Recipe, uses: int | None) -> Recipe:
    if uses is None:
        return recipe
    return with_values(recipe, {"training.balance": uses, "split.copies": uses})


def _uses(cells: pa.Table, scale: Scale) -> int | None:
    if scale.times is None:
        return None
    labels = np.asarray(cells["label"].to_pylist(), np.int64)
    return math.ceil(scale.times * max(np.bincount(labels, minlength=2)))


def _num_folds(split: SplitSettings, cells: pa.Table, repeats: int) -> int:
    """As many as give each fold the share that a hold-out would test, and a group of each class.

    Each repeat has a fold of its own: no patient is tested twice.
    """
    if split.folds and split.folds < repeats:
        raise ConfigError(f"split.folds {split.folds}: give {repeats} or more, one a repeat")
    groups = cells.group_by("label").aggregate([("group", "count_distinct")])
    fewest = min(groups["group_count_distinct"].to_pylist(), default=0)
    return split.folds or max(2, repeats, min(round(1 / split.fractions[2]), fewest))


def _split(protocol: str, source: str | None, repeat: int, folds: int) -> dict[str, Any]:
    """A repeat is the next fold where patients stay whole, and elsewhere a re-split.

    So the repeats of an honest protocol test different patients, and are pooled as those of a
    cross-validation.
    """
    turn, seed, num_folds = 0, repeat - 1, 0
    if protocol == "official-folds":
        turn = (repeat - 1) % NUM_OFFICIAL_FOLDS
    elif PROTOCOLS[protocol].unit == "group":
        seed, turn, num_folds = 0, repeat - 1, folds
    return {
        "split.protocol": protocol,
        "split.source": source,
        "split.seed": seed,
        "split.folds": num_folds,
        "split.fold": turn,
    }
