"""Searchers and leaderboards, without Ray."""

import math
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import yaml
from ray.tune.schedulers import PopulationBasedTraining, TrialScheduler

from leuk_ray.evaluation.repeats import mean_interval
from leuk_ray.tuning.importance import importance
from leuk_ray.tuning.leaderboard import rank, summary
from leuk_ray.tuning.schedulers import make_scheduler
from leuk_ray.tuning.searchers import Tpe, grid, listed, random_points
from leuk_ray.tuning.settings import Dimension, SweepSettings, load_sweep
from tests.unit.runs.test_runs import RECORD

SEARCH = {
    "training.lr": {"log_uniform": [1e-5, 1e-1]},
    "model.hidden": {"integer": [16, 64]},
    "model.attention": {"choice": ["none", "multi"]},
}


@pytest.fixture
def sweep(tmp_path: Path):
    def make(**changes) -> SweepSettings:
        values = {"recipe": "lite", "search": SEARCH, "trials": 30} | changes
        (tmp_path / "x.yaml").write_text(yaml.safe_dump(values))
        return load_sweep(str(tmp_path / "x.yaml"))

    return make


def record(number: int, score: float, seed: int = 0, **overrides):
    return replace(
        RECORD,
        name=f"{number:03d}" + (f"-seed{seed}" if seed else ""),
        overrides=overrides | ({"seed": seed} if seed else {}),
        seed=seed,
        metrics={"selection": score},
    )


def test_a_grid_is_every_combination_once():
    search = {"a": Dimension(choice=(1, 2)), "b": Dimension(choice=("x", "y", "z"))}
    points = grid(search)
    assert len({tuple(point.items()) for point in points}) == 6
    assert points[:3] == [{"a": 1, "b": b} for b in ("x", "y", "z")]


def test_draws_repeat_fill_their_ranges_evenly_and_more_only_add():
    search = {key: Dimension(**value) for key, value in SEARCH.items()}
    points = random_points(search, 2000, seed=1)
    assert points[:20] == random_points(search, 20, seed=1)
    assert points[:20] != random_points(search, 20, seed=2)
    logs = np.log10([point["training.lr"] for point in points])
    # Uniform on [-5, -1]: the mean of 2,000 has an SD of 4 / sqrt(12 * 2000) = 0.026.
    assert logs.mean() == pytest.approx(-3, abs=0.1)
    assert logs.min() > -5
    assert logs.max() < -1
    hidden = {point["model.hidden"] for point in points}
    assert hidden == set(range(16, 65)), "both bounds are included"
    share = np.mean([point["model.attention"] == "multi" for point in points])
    assert share == pytest.approx(0.5, abs=0.05)


def test_listed_runs_are_known_beforehand(sweep):
    specs = listed(sweep(trials=3))
    assert specs is not None
    assert [spec.name for spec in specs] == ["000", "001", "002"]
    assert specs == listed(sweep(trials=3))
    more = listed(sweep(trials=5))
    assert more is not None
    assert specs == more[:3]
    assert listed(sweep(searcher="optuna")) is None


def optimum(overrides: dict) -> float:
    """Best at lr 1e-3 and attention multi."""
    return -abs(math.log10(overrides["training.lr"]) + 3) - (overrides["model.attention"] == "none")


def run(searcher: Tpe, most: int | None = None) -> list:
    done = []
    while (most is None or len(done) < most) and (spec := searcher.propose()) is not None:
        done.append(
            replace(
                RECORD,
                name=spec.name,
                overrides=spec.overrides,
                metrics={"selection": optimum(spec.overrides)},
            )
        )
        searcher.tell(done[-1])
    return done


def test_tpe_starts_from_the_recipe_and_then_looks_where_runs_did_well(sweep):
    settings = sweep(searcher="optuna")
    done = run(Tpe(settings))
    assert len(done) == 30
    first = done[0].overrides
    assert first["training.lr"] == settings.base().training.lr
    assert first["model.attention"] == settings.base().model.attention
    assert 16 <= first["model.hidden"] <= 64, "the recipe's 256 lies outside, so it is drawn"
    early = np.mean([optimum(r.overrides) for r in done[1:6]])
    late = np.mean([optimum(r.overrides) for r in done[-10:]])
    assert late > early + 0.5


def test_tpe_goes_on_from_told_runs_and_repeats_none(sweep):
    settings = sweep(searcher="optuna", trials=12)
    told = run(Tpe(settings), most=7)
    failed = replace(told[3], status="failed", metrics={})
    rest = run(Tpe(settings, [*told[:3], failed, *told[4:]]))
    assert [r.name for r in rest] == ["007", "008", "009", "010", "011"]
    points = [str(r.overrides) for r in [*told, *rest]]
    assert len(set(points)) == 12


def test_the_mean_over_seeds_decides_and_a_failed_run_does_not_count():
    records = [
        record(0, 0.90, lr=1), record(0, 0.70, seed=1, lr=1),
        record(1, 0.85, lr=2), record(1, 0.84, seed=1, lr=2),
        record(2, 0.99, lr=3),  # one seed: after those that met both
        replace(record(3, 1.0, lr=4), status="failed"),
        replace(record(4, 1.0, lr=5), bundle=False),
    ]  # fmt: skip
    leaderboard = rank(records, num_seeds=2)
    assert [s.overrides["lr"] for s in leaderboard] == [2, 1, 3]
    assert leaderboard[0].mean == pytest.approx(0.845)
    assert leaderboard[0].best == "001"
    assert leaderboard[2].spread is None


@pytest.mark.parametrize("scores", [(0.9, 0.7), (0.7, 0.9)])
def test_of_two_runs_with_one_configuration_and_seed_the_better_counts(scores):
    (standing,) = rank([record(n, score, lr=1) for n, score in enumerate(scores)], num_seeds=1)
    assert standing.scores == {0: 0.9}
    assert standing.best == f"{scores.index(0.9):03d}"


@dataclass(frozen=True)
class OneTrial:
    """All that these schedulers look at in a trial."""

    trial_id: str
    status: str = "PAUSED"


def told(scheduler, scores: list[list[float]]) -> list[list[str]]:
    """What a scheduler answers to each epoch of runs that train one after the other."""
    answers, alone = [], SimpleNamespace(get_live_trials=list)
    for number, curve in enumerate(scores):
        trial = OneTrial(str(number))
        scheduler.on_trial_add(None, trial)
        results = [{"epoch": epoch, "selection": s} for epoch, s in enumerate(curve, 1)]
        answers.append([scheduler.on_trial_result(alone, trial, result) for result in results])
        scheduler.on_trial_complete(None, trial, results[-1])
    return answers


@pytest.mark.parametrize("kind", ["asha", "median"])
@pytest.mark.parametrize("epochs", [1, 2])
def test_no_run_is_stopped_at_its_last_epoch(kind: str, epochs: int, sweep):
    """Its bundle is yet to be written."""
    settings = {"kind": kind, "grace": 1} | ({"reduction": 2} if kind == "asha" else {})
    scheduler = make_scheduler(sweep(scheduler=settings, overrides={"epochs": epochs}))
    answers = told(scheduler, [[score] * epochs for score in (0.9, 0.8, 0.7, 0.1)])
    assert {answer[-1] for answer in answers} == {TrialScheduler.CONTINUE}
    assert (answers[-1][0] == TrialScheduler.STOP) == (epochs > 1)


def population(sweep, seed: int = 0) -> Any:
    search = {"lr": {"log_uniform": [1e-6, 1e-1]}, "batch_size": {"choice": [8, 16, 32]}}
    scheduler = make_scheduler(sweep(scheduler="pbt", search=search, trials=4, seeds=[seed]))
    assert isinstance(scheduler, PopulationBasedTraining)
    return scheduler


def member(name: str) -> SimpleNamespace:
    overrides = {"training.lr": 1e-3, "training.batch_size": 16}
    return SimpleNamespace(config={"spec": {"run": name, "recipe": {}, "overrides": overrides}})


def test_a_loser_keeps_its_name_and_a_population_repeats(sweep):
    def steps(seed: int) -> list[dict]:
        scheduler = population(sweep, seed)
        return [scheduler._get_new_config(member("000"), member("001"))[0] for _ in range(20)]

    changed = steps(0)
    assert {config["spec"]["run"] for config in changed} == {"000"}
    assert len({config["spec"]["overrides"]["training.lr"] for config in changed}) > 2
    assert steps(0) == changed
    assert steps(1) != changed


def test_a_population_takes_over_nothing_at_the_end(sweep):
    """A member unknown to the scheduler: it would raise, were it to look at its state."""
    scheduler = population(sweep)
    last = {"epoch": scheduler.epochs, "selection": 0.1}
    early = {"epoch": 2, "selection": 0.1, "ended": "the rate fell to its floor"}
    for result in (last, early):
        answer = scheduler.on_trial_result(None, OneTrial("000"), result)
        assert answer == TrialScheduler.CONTINUE
    with pytest.raises(KeyError):
        scheduler.on_trial_result(None, OneTrial("000"), early | {"ended": ""})


def test_of_members_as_far_as_each_other_the_one_with_fewer_turns_goes_on(sweep):
    """A loser first in the list must not go back to its winner's checkpoint for ever."""
    scheduler = population(sweep)
    loser, winner, ahead = (OneTrial(name) for name in ("000", "001", "002"))
    for trial, epoch in ((loser, 1), (winner, 1), (ahead, 2)):
        scheduler._trial_state[trial] = SimpleNamespace(last_train_time=epoch)
    scheduler.num_results.update({loser: 2, winner: 1, ahead: 0})
    controller = SimpleNamespace(get_trials=lambda: [loser, winner, ahead])
    assert scheduler.choose_trial_to_run(controller) is winner
    assert scheduler.choose_trial_to_run(SimpleNamespace(get_trials=list)) is None


def test_the_interval_of_a_mean_is_students():
    interval = mean_interval([1.0, 2.0, 3.0])
    # t(0.975, 2) = 4.302653, SD 1, sqrt(3)
    assert interval == pytest.approx((2 - 4.302653 / 3**0.5, 2 + 4.302653 / 3**0.5), abs=1e-6)
    assert mean_interval([1.0]) is None


def over_seeds(*scores: tuple[float, ...]) -> list:
    """A record for each configuration and seed."""
    return [
        record(number, score, seed=seed, lr=number)
        for number, row in enumerate(scores)
        for seed, score in enumerate(row)
    ]


def test_a_lead_within_noise_is_called_one():
    noisy = over_seeds((0.80, 0.90, 0.85), (0.84, 0.82, 0.86))
    assert "Within noise" in summary(rank(noisy, 3))
    clear = over_seeds((0.90, 0.91, 0.90), (0.70, 0.71, 0.71))
    assert "Run 000-seed1 leads the next configuration by 0.1" in summary(rank(clear, 3))
    single = [record(0, 0.9, lr=1), record(1, 0.8, lr=2)]
    assert "One seed" in summary(rank(single, 1))
    assert "nothing to compare" in summary(rank(single[:1], 1))


def test_importance_finds_the_setting_that_matters():
    generator = np.random.default_rng(0)
    search = {"a": Dimension(uniform=(0, 1)), "b": Dimension(choice=("x", "y"))}
    runs = []
    for number in range(40):
        a, b = float(generator.uniform()), ("x", "y")[number % 2]
        runs.append(record(number, a, a=a, b=b))
    shares = importance(search, runs)
    assert shares is not None
    assert next(iter(shares)) == "a"
    assert shares["a"] > 0.9
    assert importance(search, runs[:7]) is None
