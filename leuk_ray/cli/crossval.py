"""The command on cross-validations."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from leuk_ray.cli.base import (
    ADDRESS,
    GPUS,
    LOCATION,
    NO_IMAGES,
    OVERRIDES,
    WORKERS_PER_RUN,
    command,
)

if TYPE_CHECKING:
    from leuk_ray.io.locations import Location


@click.command(
    epilog="Example: leuk-ray crossval lite --data cnmc.dataset --out cv/lite --folds 5 epochs=5"
)
@click.argument("recipe", metavar="RECIPE")
@OVERRIDES
@click.option("--data", required=True, help="A prepared dataset.")
@click.option(
    "--out", type=LOCATION, required=True, help="Folder of the cross-validation, local or shared."
)
@click.option(
    "--protocol", help="Split protocol, instead of the recipe's; see `leuk-ray split --help`."
)
@click.option("--folds", default=5, show_default=True, type=click.IntRange(2))
@click.option(
    "--seeds",
    default=1,
    show_default=True,
    type=click.IntRange(1),
    help="Trainings of each fold; their log-odds are averaged.",
)
@WORKERS_PER_RUN
@GPUS
@click.option("--resume", is_flag=True, help="Continue the cross-validation in --out.")
@NO_IMAGES
@click.option(
    "--bundle",
    type=LOCATION,
    metavar="DIR",
    help="Also write an ensemble of all runs' networks, calibrated on the out-of-fold scores.",
)
@click.option(
    "--coverage",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    help="Give the ensemble prediction sets; see `leuk-ray calibrate --help`.",
)
@ADDRESS
@command
def crossval(
    recipe: str,
    overrides: tuple[str, ...],
    data: str,
    out: Location,
    protocol: str | None,
    folds: int,
    seeds: int,
    workers: int,
    gpus: bool,
    resume: bool,
    no_images: bool,
    bundle: Location | None,
    coverage: float | None,
    address: str | None,
) -> tuple[dict[str, Any], str]:
    """Train RECIPE once for each fold and report on the pooled out-of-fold scores.

    Folds keep groups whole, except under --protocol image-random. Two cross-validations over the
    same folds are compared by `leuk-ray compare CV1 CV2`.
    """
    from leuk_ray.api import runs
    from leuk_ray.cli.messages import report_text

    result = runs.crossval(
        recipe,
        data,
        out,
        folds=folds,
        seeds=seeds,
        settings=[*overrides, *([f"protocol={protocol}"] if protocol else [])],
        workers=workers,
        gpus=gpus,
        resume=resume,
        show_images=not no_images,
        bundle=bundle,
        coverage=coverage,
        address=address,
    )
    return result.report.model_dump(mode="json"), report_text(result)
