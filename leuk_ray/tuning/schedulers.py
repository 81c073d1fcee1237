"""From a sweep's settings to Ray Tune's schedulers, which compare runs by `selection`."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
from ray import tune
from ray.tune.experiment import Trial
from ray.tune.schedulers import (
    AsyncHyperBandScheduler,
    MedianStoppingRule,
    PopulationBasedTraining,
    TrialScheduler,
)
from typing_extensions import override

from leuk_ray.runs.table import RunRecord
from leuk_ray.tuning.settings import Dimension, SweepSettings


class _SparesTheEnd(TrialScheduler):
    """Stops and changes no run that has trained its last epoch.

    It still has its bundle to write; and settings that a population takes over then would never
    train, yet have the winner's score.
    """

    def __init__(self, *, epochs: int, **settings: Any) -> None:
        super().__init__(**settings)
        self.epochs = epochs

    @override
    def on_trial_result(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> str:
        """See TrialScheduler."""
        if result.get("ended") or result.get("epoch", 0) >= self.epochs:
            return TrialScheduler.CONTINUE
        return super().on_trial_result(tune_controller, trial, result)


class _Asha(_SparesTheEnd, AsyncHyperBandScheduler):
    pass


class _Median(_SparesTheEnd, MedianStoppingRule):
    pass


class _Population(_SparesTheEnd, PopulationBasedTraining):
    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.num_results: Counter[Trial] = Counter()

    @override
    def on_trial_result(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> str:
        """See TrialScheduler."""
        self.num_results[trial] += 1
        return super().on_trial_result(tune_controller, trial, result)

    @override
    def choose_trial_to_run(self, tune_controller: Any) -> Trial | None:
        """Choose the member that lies furthest back; of equals, the one with the fewest turns.

        A loser is as far as its winner: always first, it would go back to the same checkpoint
        for ever while the winner waits.
        """
        waiting = [
            trial
            for trial in tune_controller.get_trials()
            if trial.status in (Trial.PENDING, Trial.PAUSED)
        ]
        return min(waiting, key=self._turn, default=None)

    def _turn(self, trial: Trial) -> tuple[int, int]:
        return self._trial_state[trial].last_train_time, self.num_results[trial]

    @override
    def _get_new_config(
        self, trial: Trial, trial_to_clone: Trial
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Change the winner's settings, under the loser's own name: it keeps its folder."""
        config, operations = super()._get_new_config(trial, trial_to_clone)
        own = config["spec"] | {"run": trial.config["spec"]["run"]}
        return config | {"spec": own}, operations


def make_scheduler(
    sweep: SweepSettings, earlier: Iterable[RunRecord] = ()
) -> TrialScheduler | None:
    """Make the scheduler of a sweep; None where every run goes to its end.

    A population draws its changes from Python's and NumPy's own generators, as Ray has it; they
    are seeded here, so that it repeats as far as its runs report in the same order.

    Args:
        sweep: its settings.
        earlier: runs of an earlier process. ASHA compares with them as if they had just been run;
            the others know only the runs of their own process.
    """
    kind, settings = sweep.scheduler.kind, sweep.scheduler
    epochs = sweep.base().training.epochs
    if kind == "asha":
        asha = _Asha(
            epochs=epochs,
            time_attr="epoch",
            metric="selection",
            mode="max",
            max_t=epochs,
            grace_period=min(settings.grace, epochs),
            reduction_factor=settings.reduction,
            stop_last_trials=False,
        )
        for record in earlier:
            _replay(asha, record)
        return asha
    if kind == "median":
        return _Median(
            epochs=epochs,
            time_attr="epoch",
            metric="selection",
            mode="max",
            grace_period=settings.grace,
        )
    if kind == "pbt":
        random.seed(sweep.seeds[0])
        np.random.seed(sweep.seeds[0])
        return _Population(
            epochs=epochs,
            time_attr="epoch",
            metric="selection",
            mode="max",
            perturbation_interval=settings.interval,
            hyperparam_mutations={
                "spec": {"overrides": {k: _domain(value) for k, value in sweep.search.items()}}
            },
            custom_explore_fn=lambda config: _into_bounds(config, sweep.search),
            require_attrs=False,  # a failed run reports none
            log_config=False,
        )
    return None


def _replay(scheduler: AsyncHyperBandScheduler, record: RunRecord) -> None:
    """Tell the scheduler a run's curve; of a trial it looks at nothing but the id."""
    trial, controller = cast("Any", SimpleNamespace(trial_id=record.name)), cast("Any", None)
    scheduler.on_trial_add(controller, trial)
    for epoch, selection in enumerate(record.curve, 1):
        scheduler.on_trial_result(controller, trial, {"epoch": epoch, "selection": selection})
    last = {"epoch": len(record.curve), "selection": record.curve[-1]} if record.curve else {}
    scheduler.on_trial_complete(controller, trial, last)


def _domain(dimension: Dimension) -> Any:
    if dimension.choice is not None:
        return dimension.extremes
    if dimension.integer is not None:
        low, high = dimension.integer
        return tune.randint(low, high + 1)
    if dimension.uniform is not None:
        return tune.uniform(*dimension.uniform)
    assert dimension.log_uniform is not None
    return tune.loguniform(*dimension.log_uniform)


def _into_bounds(config: dict[str, Any], search: dict[str, Dimension]) -> dict[str, Any]:
    """Perturbed values as plain numbers within their range: factors know no bounds."""
    overrides = dict(config["spec"]["overrides"])
    for key, dimension in search.items():
        if dimension.choice is None:
            low, high = dimension.extremes
            value = min(max(float(overrides[key]), low), high)
            overrides[key] = round(value) if dimension.integer is not None else value
    return config | {"spec": config["spec"] | {"overrides": overrides}}
