"""How many runs fit on a cluster side by side."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from pydantic import Field, model_validator

from leuk_ray.utils.errors import ConfigError
from leuk_ray.utils.settings import Settings

DRIVER_CPUS = 0.01  # of a run of several workers: its own process only waits for them
_SLACK = 1e-6  # 0.1 is no binary fraction: ten of them are to fit into one CPU


class Resources(Settings):
    """Resources of one run."""

    workers: int = Field(default=1, ge=1)
    """Training workers. One trains in a single process on all or part of a CPU or GPU; more train
    under Ray Train, each with a whole CPU and, where `gpus` is 1, a whole GPU."""

    cpus: float = Field(default=1.0, gt=0)
    """CPUs per worker; 0.5 lets two runs share one."""

    gpus: float = Field(default=0.0, ge=0)
    """GPUs per worker; 0.25 lets four runs share one."""

    side_by_side: int | None = Field(default=None, ge=1)
    """Maximum number of concurrent runs; unset runs as many as fit."""

    @model_validator(mode="after")
    def _whole_workers(self) -> Resources:
        if self.workers > 1 and (self.cpus != 1 or self.gpus not in (0, 1)):
            raise ValueError(
                f"{self.workers} workers take a whole CPU, and a whole GPU or none, each; "
                "parts are for runs of one worker"
            )
        return self

    @property
    def text(self) -> str:
        """What one run takes, in words."""
        gpus = f" and {self.gpus:g} GPUs" if self.gpus else ""
        if self.workers == 1:
            return f"{self.cpus:g} CPUs{gpus}"
        return f"{self.workers} workers of {self.cpus:g} CPUs{gpus}"


@dataclass(frozen=True)
class Placement:
    """How many runs go side by side, and the sum that says so."""

    side_by_side: int
    text: str


def place(resources: Resources, nodes: Sequence[dict[str, float]]) -> Placement:
    """Work out how many runs fit at once.

    Args:
        resources: what one run takes.
        nodes: of each living node its resources, as `CPU` and `GPU`. A worker lies on one
            node, so what is left over on two nodes does not add up to a worker.

    Raises:
        UserError: not even one run can ever be placed; with the arithmetic.
    """
    slots = [_slots(resources, node) for node in nodes]
    cpus, gpus = (sum(node.get(name, 0) for node in nodes) for name in ("CPU", "GPU"))
    have = f"{len(nodes)} nodes with {cpus:g} CPUs and {gpus:g} GPUs"
    if resources.workers == 1:
        fit, kept = sum(slots), ""
    else:
        # Ray Data reads for these workers on a CPU that none of them holds, or all wait for ever.
        by_cpu = math.floor((cpus - 1) / (resources.workers + DRIVER_CPUS) + _SLACK)
        fit = max(0, min(sum(slots) // resources.workers, by_cpu))
        kept = f", {DRIVER_CPUS:g} CPUs a run for its driver, 1 CPU kept for Ray Data"
    if fit < 1:
        raise ConfigError(
            f"resources: one run takes {resources.text}{kept}; the cluster has {have}, room for "
            f"{' + '.join(map(str, slots)) or 0} such workers: ask for less or add nodes"
        )
    if resources.side_by_side is not None:
        fit = min(fit, resources.side_by_side)
    return Placement(fit, f"{have}{kept}; {resources.text} a run: {fit} side by side")


def _slots(resources: Resources, node: dict[str, float]) -> int:
    """Workers that fit on a node."""
    slots = node.get("CPU", 0) / resources.cpus
    if resources.gpus:
        slots = min(slots, node.get("GPU", 0) / resources.gpus)
    return math.floor(slots + _SLACK)
