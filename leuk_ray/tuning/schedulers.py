"""From a sweep's settings to Ray Tune's schedulers, which compare runs by `selection`."""

from __future__ import annotations

from collections.abc import Iterable
from types import SimpleNamespace
from typing import Any, cast

from ray import tune
from ray.tune.schedulers import (
    AsyncHyperBandScheduler,
    MedianStoppingRule,
    PopulationBasedTraining,
    TrialScheduler,
)

from leuk_ray.runs.table import RunRecord
from leuk_ray.tuning.settings import Dimension, SweepSettings


def make_scheduler(sweep: SweepSettings, told: Iterable[RunRecord] = ()) -> TrialScheduler | None:
    """The scheduler of a sweep; None where every run goes to its end.

    Args:
        sweep: its settings.
        told: runs of an earlier process. ASHA compares with them as if they had just been run;
            the others know only the runs of their own process.
    """
    kind, settings = sweep.scheduler.kind, sweep.scheduler
    if kind == "asha":
        epochs = sweep.base().training.epochs
        asha = AsyncHyperBandScheduler(
            time_attr="epoch",
            metric="selection",
            mode="max",
            max_t=epochs,
            grace_period=min(settings.grace, epochs),
            reduction_factor=settings.reduction,
            stop_last_trials=False,  # a run that reached its last epoch has its end to tell
        )
        for record in told:
            _replay(asha, record)
        return asha
    if kind == "median":
        return MedianStoppingRule(
            time_attr="epoch", metric="selection", mode="max", grace_period=settings.grace
        )
    if kind == "pbt":
        return PopulationBasedTraining(
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
