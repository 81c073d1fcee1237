"""Commands on recipes and runs."""

from __future__ import annotations

from dataclasses import asdict
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
    WORKERS,
    Choice,
    command,
)
from leuk_ray.utils.errors import UserError

if TYPE_CHECKING:
    from leuk_ray.cluster.ray_cluster import Workers
    from leuk_ray.io.locations import Location


WORKERS_OF_POOL = click.option(
    "--workers",
    type=click.IntRange(0),
    help="Score on Ray with as many; by default up to 500 cells are scored in this process.",
)


@click.command(epilog="Example: leuk-ray demo --out demo")
@click.option("--out", type=PATH, default=Path("demo"), show_default=True)
@command
def demo(out: Path) -> tuple[dict[str, Any], str]:
    """Run the whole pipeline on 600 SYNTHETIC cells, in a few minutes without a GPU."""
    from leuk_ray.cli.messages import demo_text
    from leuk_ray.workflows.demo import run_demo

    values = run_demo(out)
    return values, demo_text(values)


@click.command(epilog="Example: leuk-ray recipes lite --summary")
@click.argument("name", required=False)
@click.option("--summary", is_flag=True, help="Layers, output shapes, parameters and FLOPs.")
@click.option("--gallery", type=PATH, metavar="OUT.png", help="Write a picture of augmented cells.")
@click.option("--data", type=LOCATION, help="A prepared dataset, for --gallery.")
@click.option(
    "--settings",
    metavar="[PREFIX]",
    is_flag=False,
    flag_value="",
    help="Explain the settings of a recipe, or those under PREFIX (training, training.loss, lr); "
    "sweep, experiment or serve explain those of other files.",
)
@command
def recipes(
    name: str | None,
    summary: bool,
    gallery: Path | None,
    data: Location | None,
    settings: str | None,
) -> tuple[dict[str, Any], str]:
    """List recipes; print, summarise or visualise one; explain settings."""
    from leuk_ray.recipes.recipe import load_recipe, recipe_names, recipe_text

    if settings is not None:
        if name is not None:
            raise UserError(f"--settings: explains settings, not a recipe; leave out {name}")
        from leuk_ray.cli.messages import settings_text
        from leuk_ray.cli.reference import settings_under

        found = [asdict(setting) for setting in settings_under(settings)]
        return {"settings": found}, settings_text(found)
    if name is None:
        if summary or gallery:
            raise UserError("recipes: name the recipe to summarise or picture")
        return {"recipes": recipe_names()}, "\n".join(recipe_names())
    if summary:
        from leuk_ray.cli.messages import summary_text
        from leuk_ray.models.summary import summarise

        values = summarise(load_recipe(name).model)
        return values, summary_text(values)
    if gallery:
        if data is None:
            raise UserError("--gallery: needs cells to show; add --data DATASET")
        from leuk_ray.augment.gallery import draw_gallery
        from leuk_ray.datasets.prepared import PreparedDataset

        recipe = load_recipe(name)
        draw_gallery(gallery, PreparedDataset.open(data), recipe.augment, recipe.seed)
        return {"gallery": str(gallery)}, str(gallery)
    return load_recipe(name).model_dump(mode="json"), recipe_text(name).rstrip()


@click.command(
    epilog="Example: leuk-ray train lite --data cnmc.dataset --out runs/lite epochs=5 lr=5e-4"
)
@click.argument("recipe")
@OVERRIDES
@click.option("--data", type=LOCATION, required=True, help="A prepared dataset.")
@click.option("--out", type=LOCATION, required=True, help="Folder of the run.")
@click.option(
    "--protocol", help="Split protocol, instead of the recipe's; see `leuk-ray split --help`."
)
@click.option(
    "--workers",
    default=1,
    show_default=True,
    type=WORKERS,
    help="Number of workers, or MIN:MAX for elastic training.",
)
@GPUS
@click.option("--resume", is_flag=True, help="Continue the run in --out.")
@click.option(
    "--dry-run", is_flag=True, help="Print the resources the run needs, without training."
)
@click.option(
    "--measure", is_flag=True, help="With --dry-run: also measure time and memory of a few steps."
)
@click.option("--mlflow", metavar="URI", help="Also log to this MLflow server or store.")
@NO_IMAGES
@ADDRESS
@command
def train(
    recipe: str,
    overrides: tuple[str, ...],
    data: Location,
    out: Location,
    protocol: str | None,
    workers: Workers,
    gpus: bool,
    resume: bool,
    dry_run: bool,
    measure: bool,
    mlflow: str | None,
    no_images: bool,
    address: str | None,
) -> tuple[dict[str, Any], str]:
    """Train RECIPE, evaluate its best checkpoint on the test cells, and write a bundle."""
    from leuk_ray.datasets.prepared import PreparedDataset
    from leuk_ray.recipes.recipe import load_recipe

    wanted = [*overrides, *([f"protocol={protocol}"] if protocol else [])]
    resolved = load_recipe(recipe, wanted)
    dataset = PreparedDataset.open(data)

    if dry_run:
        from leuk_ray.cli.messages import dry_run_text
        from leuk_ray.training.dry_run import dry_run as run

        values = run(
            resolved, dataset, workers=workers, gpus=gpus, measure=measure, address=address
        )
        return values, dry_run_text(values)
    if measure:
        raise UserError("--measure: is for --dry-run")

    from leuk_ray.api import runs
    from leuk_ray.cli.messages import report_text

    result = runs.train(
        resolved,
        dataset,
        out,
        workers=workers,
        gpus=gpus,
        resume=resume,
        show_images=not no_images,
        mlflow=mlflow,
        address=address,
    )
    return result.report.model_dump(mode="json"), report_text(result)


@click.command(epilog="Example: leuk-ray evaluate runs/lite --data cnmc.dataset --out again")
@click.argument("target", metavar="RUN_OR_BUNDLE", type=LOCATION)
@click.option("--data", type=LOCATION, required=True, help="A prepared dataset.")
@click.option("--role", default="test", type=Choice(["validation", "test"]))
@click.option(
    "--seen",
    is_flag=True,
    help="Evaluate a bundle also on cells that trained, validated or calibrated it; the report is "
    "marked TRAINED-ON-THESE or the like.",
)
@click.option("--out", type=LOCATION, required=True, help="Folder of the report.")
@WORKERS_OF_POOL
@GPUS
@NO_IMAGES
@ADDRESS
@command
def evaluate(
    target: Location,
    data: Location,
    role: Any,
    seen: bool,
    out: Location,
    workers: int | None,
    gpus: bool,
    no_images: bool,
    address: str | None,
) -> tuple[dict[str, Any], str]:
    """Score a run's test cells, or a bundle on another dataset, and write a report.

    A bundle alone is evaluated on cells of patients that did not train, validate or calibrate it or
    its members.
    """
    from leuk_ray.api import runs
    from leuk_ray.cli.messages import report_text

    result = runs.evaluate(
        target,
        data,
        out,
        role=role,
        seen=seen,
        workers=workers,
        gpus=gpus,
        show_images=not no_images,
        address=address,
    )
    return result.report.model_dump(mode="json"), report_text(result)


@click.command(epilog="Example: leuk-ray compare runs/lite runs/none --data cnmc.dataset")
@click.argument("first", metavar="FIRST", type=LOCATION)
@click.argument("second", metavar="SECOND", type=LOCATION)
@click.option("--data", type=LOCATION, required=True, help="A prepared dataset.")
@WORKERS_OF_POOL
@GPUS
@ADDRESS
@command
def compare(
    first: Location,
    second: Location,
    data: Location,
    workers: int | None,
    gpus: bool,
    address: str | None,
) -> tuple[dict[str, Any], str]:
    """Score two bundles on the same cells and test the difference.

    The cells are those that both runs keep for testing, or all of a dataset that trained neither.
    Two cross-validations over the same folds are two folders of runs, or two quoted patterns, as
    'runs/lite-fold*' 'runs/none-fold*': the test cells of all folds are compared together.
    """
    from leuk_ray.cli.messages import compare_text
    from leuk_ray.datasets.prepared import PreparedDataset
    from leuk_ray.utils.progress import bar
    from leuk_ray.workflows.compare import compare as run
    from leuk_ray.workflows.pool import Pool

    dataset = PreparedDataset.open(data)
    with bar("compare: scoring", "cell") as progress:
        values = run((first, second), dataset, Pool(workers, gpus, address), progress)
    return values, compare_text(values)
