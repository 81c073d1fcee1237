"""Commands on sweeps."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from leuk_ray.cli.base import ADDRESS, LOCATION, OVERRIDES, command

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
) -> tuple[dict[str, Any], str]:
    """Search settings of a recipe; leave the best bundles, and evaluate the winner once.

    SWEEP is a YAML file or one of attention, bukhari2022, lr_batch, pbt, quick, saeed2022.
    """
    from leuk_ray.api import runs
    from leuk_ray.cli.messages import tune_text

    result = runs.tune(sweep, data, out, settings=overrides, resume=resume, address=address)
    return result.report.model_dump(mode="json"), tune_text(result)
