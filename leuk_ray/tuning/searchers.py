"""Searchers propose runs and hear what became of them. They know no Ray."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from leuk_ray.recipes.recipe import Recipe, value_at
from leuk_ray.runs.spec import RunSpec
from leuk_ray.runs.table import RunRecord
from leuk_ray.tuning.settings import Dimension, SweepSettings

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

_STARTUP_TRIALS = 5


def grid(search: Mapping[str, Dimension]) -> list[dict[str, Any]]:
    """Return every combination of choices, the last key varying fastest."""
    values = [dimension.extremes for dimension in search.values()]
    return [dict(zip(search, point, strict=True)) for point in itertools.product(*values)]


def random_points(search: Mapping[str, Dimension], number: int, seed: int) -> list[dict[str, Any]]:
    """Sample configurations at random: the same for the same seed, and the first n of more."""
    generator = np.random.default_rng(seed)
    return [
        {key: _sample(dimension, generator) for key, dimension in search.items()}
        for _ in range(number)
    ]


def _sample(dimension: Dimension, generator: np.random.Generator) -> Any:
    if dimension.choice is not None:
        return dimension.choice[int(generator.integers(len(dimension.choice)))]
    if dimension.integer is not None:
        low, high = dimension.integer
        return int(generator.integers(low, high + 1))
    if dimension.uniform is not None:
        return float(generator.uniform(*dimension.uniform))
    assert dimension.log_uniform is not None
    low, high = map(math.log, dimension.log_uniform)
    return float(math.exp(generator.uniform(low, high)))


def listed(sweep: SweepSettings) -> list[RunSpec] | None:
    """List the runs of a grid or of random draws; None for a searcher that learns."""
    if sweep.searcher == "optuna":
        return None
    if sweep.searcher == "grid":
        points = grid(sweep.search)
    else:
        points = random_points(sweep.search, sweep.trials or 0, sweep.seeds[0])
    base = sweep.base()
    return [RunSpec(run_name(number), base, point) for number, point in enumerate(points)]


def run_name(number: int, seed: int | None = None) -> str:
    """`007`, and `007-seed2` where a finalist is trained again."""
    return f"{number:03d}" if seed is None else f"{number:03d}-seed{seed}"


class Tpe:
    """Optuna's tree-structured Parzen estimator (Bergstra et al. 2011).

    The recipe's own values come first where they lie in the search space. Given the runs of an
    earlier process, the search continues from them.
    """

    def __init__(self, sweep: SweepSettings, earlier: Iterable[RunRecord] = ()) -> None:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self.base: Recipe = sweep.base()
        self.search = sweep.search
        self.wanted = sweep.trials or 0
        self.distributions = {key: distribution(d) for key, d in sweep.search.items()}
        earlier = list(earlier)
        # A new seed with every earlier run: a resumed search must not repeat its first draws.
        sampler = optuna.samplers.TPESampler(
            n_startup_trials=_STARTUP_TRIALS,
            seed=sweep.seeds[0] + len(earlier),
            constant_liar=True,  # runs under way count as poor, so that draws spread out
        )
        self.study = optuna.create_study(direction="maximize", sampler=sampler)
        self.asked: dict[str, Any] = {}
        self.taken = {record.name for record in earlier}
        self.num_proposed = len(earlier)
        for record in earlier:
            self._remember(record)
        if not earlier:
            self._start_from_recipe()

    def propose(self) -> RunSpec | None:
        """See executor.Proposer."""
        if self.num_proposed >= self.wanted:
            return None
        self.num_proposed += 1
        name = next(n for n in map(run_name, itertools.count()) if n not in self.taken)
        self.taken.add(name)
        trial = self.study.ask(self.distributions)
        self.asked[name] = trial
        point = {key: _value(self.search[key], value) for key, value in trial.params.items()}
        return RunSpec(name, self.base, point)

    def tell(self, record: RunRecord) -> None:
        """See executor.Proposer."""
        from optuna.trial import TrialState

        score = None if record.status == "failed" else record.score
        state = TrialState.FAIL if score is None else TrialState.COMPLETE
        self.study.tell(self.asked.pop(record.name), score, state=state)

    def _remember(self, record: RunRecord) -> None:
        from optuna.trial import TrialState, create_trial

        if record.status == "failed" or record.score is None:
            return
        parameters = {key: stored(self.search[key], record.overrides[key]) for key in self.search}
        self.study.add_trial(
            create_trial(
                state=TrialState.COMPLETE,
                value=record.score,
                params=parameters,
                distributions=self.distributions,
            )
        )

    def _start_from_recipe(self) -> None:
        own = {key: value_at(self.base, key) for key in self.search}
        self.study.enqueue_trial(
            {
                key: stored(self.search[key], value)
                for key, value in own.items()
                if self.search[key].covers(value)
            }
        )


def distribution(dimension: Dimension) -> BaseDistribution:
    """Return a dimension as Optuna knows it."""
    from optuna.distributions import (
        CategoricalDistribution,
        FloatDistribution,
        IntDistribution,
    )

    if dimension.choice is not None:
        return CategoricalDistribution([stored(dimension, value) for value in dimension.choice])
    if dimension.integer is not None:
        return IntDistribution(*dimension.integer)
    if dimension.uniform is not None:
        return FloatDistribution(*dimension.uniform)
    assert dimension.log_uniform is not None
    return FloatDistribution(*dimension.log_uniform, log=True)


def stored(dimension: Dimension, value: Any) -> Any:
    """Optuna's categories are plain values; a list of filters goes as its JSON."""
    return json.dumps(value) if dimension.choice is not None else value


def _value(dimension: Dimension, stored: Any) -> Any:
    return json.loads(stored) if dimension.choice is not None else stored
