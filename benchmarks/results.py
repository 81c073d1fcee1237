"""The one form in which benchmarks hand on what they found.

A benchmark prints whatever table suits it, and writes `[{name, unit, median, least, most, goal,
better, held}, ...]` where --results says, which `benchmarks/run.py` gathers.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

COLUMNS = ("what", "median", "least", "most", "goal", "held")


@dataclass(frozen=True)
class Result:
    """One figure, measured once a round.

    values: one a round, a ratio between two contestants of the same round where unit is "ratio".
    goal: what the median must reach; None where the figure only explains.
    better: whether `goal` is the least or the most that will do.
    """

    name: str
    values: Sequence[float]
    goal: float | None = None
    unit: str = "ratio"
    better: Literal["more", "less"] = "more"

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    @property
    def held(self) -> bool | None:
        """Whether the goal is met; None without one."""
        if self.goal is None:
            return None
        return self.median >= self.goal if self.better == "more" else self.median <= self.goal

    def as_dict(self) -> dict:
        return {
            "name": self.name,
            "unit": self.unit,
            "median": self.median,
            "least": min(self.values),
            "most": max(self.values),
            "goal": self.goal,
            "better": self.better,
            "held": self.held,
        }


def ratios(name: str, own: Sequence[float], peer: Sequence[float], goal: float) -> Result:
    """A contestant's rates as parts of a peer's, round by round."""
    return Result(name, [a / b for a, b in zip(own, peer, strict=True)], goal)


def table(results: Iterable[dict]) -> str:
    """Results, as `Result.as_dict` gives them, as a Markdown table."""
    lines = [f"| {' | '.join(COLUMNS)} |", "|---" * len(COLUMNS) + "|"]
    for found in results:
        unit = "" if found["unit"] == "ratio" else f" {found['unit']}"
        sign = {"more": ">=", "less": "<="}[found["better"]]
        goal = "" if found["goal"] is None else f"{sign} {found['goal']:.3g}{unit}"
        held = {True: "yes", False: "NO", None: ""}[found["held"]]
        figures = (f"{found[key]:.3g}{unit}" for key in ("median", "least", "most"))
        lines.append(f"| {' | '.join([found['name'], *figures, goal, held])} |")
    return "\n".join(lines)


def finish(results: Sequence[Result], path: Path | None) -> None:
    """Print the results, and write them where asked."""
    found = [result.as_dict() for result in results]
    print(table(found), flush=True)
    if path:
        path.write_text(json.dumps(found, indent=2) + "\n")
