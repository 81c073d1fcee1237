"""The command on experiments."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from leuk_ray.cli.base import (
    ADDRESS,
    GPUS,
    LOCATION,
    NO_IMAGES,
    OVERRIDES,
    PATH,
    WORKERS_PER_RUN,
    Choice,
    command,
)
from leuk_ray.utils.errors import ConfigError

if TYPE_CHECKING:
    from leuk_ray.io.locations import Location


@click.command(
    epilog="Example: leuk-ray experiment saeed2022 --data cnmc.dataset --out tiny --scale tiny"
)
@click.argument("name", metavar="EXPERIMENT")
@OVERRIDES
@click.option("--data", required=True, help="A prepared dataset.")
@click.option("--out", type=LOCATION, required=True, help="Folder of the experiment.")
@click.option(
    "--scale",
    type=Choice(["tiny", "small", "paper"]),
    default="paper",
    show_default=True,
    help="The paper's sizes; a shorter training; or a quick check that everything runs.",
)
@click.option("--models", help="Train only these of its networks, as a,b,c.")
@click.option("--weights", type=PATH, help="Folder of `leuk-ray weights fetch`.")
@WORKERS_PER_RUN
@GPUS
@click.option("--resume", is_flag=True, help="Continue the experiment in --out.")
@NO_IMAGES
@ADDRESS
@command
def experiment(
    name: str,
    overrides: tuple[str, ...],
    data: str,
    out: Location,
    scale: Any,
    models: str | None,
    weights: Path | None,
    workers: int,
    gpus: bool,
    resume: bool,
    no_images: bool,
    address: str | None,
) -> tuple[dict[str, Any], str]:
    """Run a paper's tables: saeed2022, bukhari2022, or a YAML file like theirs."""
    from leuk_ray.experiments.settings import load_experiment
    from leuk_ray.recipes.recipe import parse_overrides

    if not isinstance(out, Path):
        raise ConfigError(f"{out}: a table of runs is appended to; give a local or shared folder")
    settings = load_experiment(name)
    values = parse_overrides(overrides)

    from leuk_ray.cli.messages import experiment_text
    from leuk_ray.cluster import ray_cluster
    from leuk_ray.datasets.prepared import PreparedDataset
    from leuk_ray.experiments.experiment import run_experiment
    from leuk_ray.runs.placement import Resources

    report = run_experiment(
        settings,
        PreparedDataset.open(data),
        out,
        scale=scale,
        connect=lambda: ray_cluster.connect(address, workers + 1 if workers > 1 else 0),
        values=values,
        only=models.split(",") if models else (),
        weights=weights,
        resources=Resources(workers=workers, gpus=float(gpus)),
        resume=resume,
        show_images=not no_images,
    )
    return report.model_dump(mode="json"), experiment_text(report, out)
