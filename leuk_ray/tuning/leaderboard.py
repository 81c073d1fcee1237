"""Rank configurations by mean score over seeds, with intervals."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from leuk_ray.evaluation.repeats import mean_interval
from leuk_ray.runs.table import RunRecord


@dataclass(frozen=True)
class LeaderboardRow:
    """A configuration and its runs.

    overrides: in what it differs from the recipe, without the seed.
    scores: seed -> score on validation, larger is better.
    best: name of its best run.
    """

    overrides: dict[str, Any]
    scores: dict[int, float]
    best: str

    @property
    def mean(self) -> float:
        """Over the seeds."""
        return statistics.mean(self.scores.values())

    @property
    def spread(self) -> float | None:
        """Standard deviation over the seeds; None for one seed."""
        return statistics.stdev(self.scores.values()) if len(self.scores) > 1 else None

    @property
    def interval(self) -> tuple[float, float] | None:
        """95% t interval of the mean over seeds; None for one seed."""
        return mean_interval(list(self.scores.values()))


def configuration(overrides: dict[str, Any]) -> str:
    """Equal for runs that differ in nothing but the seed."""
    rest = {key: value for key, value in overrides.items() if key != "seed"}
    return json.dumps(rest, sort_keys=True)


def rank(records: Iterable[RunRecord], num_seeds: int) -> list[LeaderboardRow]:
    """Rank configurations, best first: those trained with all seeds by mean, then the others."""
    runs: dict[str, list[RunRecord]] = {}
    for record in records:
        if record.status != "failed" and record.bundle and record.score is not None:
            runs.setdefault(configuration(record.overrides), []).append(record)
    leaderboard = []
    for key, members in runs.items():
        members.sort(key=lambda member: member.score or 0.0, reverse=True)
        scores = {member.seed: member.score or 0.0 for member in reversed(members)}
        leaderboard.append(LeaderboardRow(json.loads(key), scores, members[0].name))
    return sorted(leaderboard, key=lambda s: (-min(len(s.scores), num_seeds), -s.mean, s.best))


def paired_difference(first: LeaderboardRow, other: LeaderboardRow) -> tuple[float, float] | None:
    """Return the 95% interval of `first` minus `other`, paired by seed; None below two seeds."""
    seeds = sorted(first.scores.keys() & other.scores.keys())
    return mean_interval([first.scores[seed] - other.scores[seed] for seed in seeds])


def summary(leaderboard: list[LeaderboardRow]) -> str:
    """Summarise in one sentence whether the winner's lead is more than noise."""
    if len(leaderboard) < 2:
        return "Only one configuration was trained to a result, so there is nothing to compare."
    first = leaderboard[0]
    differences = {other.best: paired_difference(first, other) for other in leaderboard[1:]}
    compared = {name: interval for name, interval in differences.items() if interval is not None}
    if not compared and len(first.scores) == 1:
        return (
            "One seed: the spread between seeds is unknown, so no difference can be distinguished "
            "from noise. List several under seeds."
        )
    if not compared:
        return "No other configuration was trained with the same seeds; raise finalists."
    level = [name for name, (low, _) in compared.items() if low <= 0]
    if level:
        return (
            f"Within noise: over {len(first.scores)} seeds the lead of run {first.best} cannot be "
            f"distinguished from zero against {', '.join(level)} (95% paired t interval); take "
            "them as one."
        )
    low, high = next(iter(compared.values()))
    return (
        f"Run {first.best} leads the next configuration by {low:.4f} to {high:.4f} "
        f"(95% paired t interval over {len(first.scores)} seeds)."
    )
