"""Commands on sweeps."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from leuk_ray.cli.base import ADDRESS, LOCATION, OVERRIDES, command
from leuk_ray.utils.errors import ConfigError
from leuk_ray.utils.extras import require

if TYPE_CHECKING:
    from leuk_ray.io.locations import Location


@click.command(epilog="Example: leuk-ray tune quick --data cnmc.dataset --out sweeps/quick")
@click.argument("sweep", metavar="SWEEP")
@OVERRIDES
@click.option("--data", required=True, help="A prepared dataset.")
@click.option("--out", type=LOCATION, required=True, help="Folder of the sweep, local or shared.")
@click.option("--resume", is_flag=True, help="Continue the sweep in --out.")
@ADDRESS
@command
def tune(
    sweep: str,
    overrides: tuple[str, ...],
    data: str,
    out: Location,
    resume: bool,
    address: str | None,
) -> tuple[dict, str]:
    """Search settings of a recipe; leave the best bundles, and evaluate the winner once.

    SWEEP is a YAML file or one of attention, bukhari2022, lr_batch, pbt, quick, saeed2022.
    """
    require("tune", "tune")

    from leuk_ray.tuning.settings import load_sweep

    if not isinstance(out, Path):
        raise ConfigError(f"{out}: a sweep's table is appended to; give a local or shared folder")
    settings = load_sweep(sweep, overrides)

    from leuk_ray.cli.messages import tune_text
    from leuk_ray.cluster import ray_cluster
    from leuk_ray.datasets.prepared import PreparedDataset
    from leuk_ray.tuning.sweep import run_sweep

    dataset = PreparedDataset.open(data)
    workers = settings.resources.workers
    ray_cluster.connect(address, workers + 1 if workers > 1 else 0)
    report = run_sweep(settings, dataset, out, resume=resume)
    return report.model_dump(mode="json"), tune_text(report, out)
