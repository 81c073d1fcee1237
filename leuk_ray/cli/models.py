"""Commands on weights and bundles."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from leuk_ray.cli.base import ADDRESS, LOCATION, PATH, SIGN, TRUSTED, Choice, command, read_files
from leuk_ray.cli.fields import CROP_UM, PIXELS_PER_UM
from leuk_ray.utils.errors import UserError

if TYPE_CHECKING:
    from leuk_ray.io.locations import Location


@click.group()
def weights() -> None:
    """Manage pretrained weights."""


@weights.command(epilog="Example: leuk-ray weights fetch saeed2022-v2s lite --to weights")
@click.argument("names", nargs=-1, required=True, metavar="RECIPE_OR_BACKBONE...")
@click.option("--to", "folder", type=PATH, required=True, help="Folder to save to.")
@command
def fetch(names: tuple[str, ...], folder: Path) -> tuple[dict[str, Any], str]:
    """Save ImageNet weights as files, for machines without internet."""
    from leuk_ray.cli.messages import fetch_text
    from leuk_ray.models.weights import fetch as run
    from leuk_ray.recipes.recipe import backbone_name

    backbones = list(dict.fromkeys(backbone_name(name) for name in names))
    values = {"files": [str(path) for path in run(backbones, folder)]}
    return values, fetch_text(values)


@click.command(epilog="Example: leuk-ray predict runs/lite 'cells/*.bmp' --out answers.csv")
@click.argument("model", metavar="RUN_OR_BUNDLE", type=LOCATION)
@click.argument("images", nargs=-1, required=True, type=LOCATION, metavar="IMAGES...")
@click.option("--out", type=LOCATION, metavar="TABLE", help="Write a .csv or .parquet table.")
@click.option(
    "--subject",
    metavar="REGEX|c-nmc",
    help="Regular expression whose first group is the subject ID, or c-nmc: also writes a table "
    "of subjects.",
)
@click.option(
    "--workers",
    type=click.IntRange(min=0),
    help="Score on Ray with this many actors; 0: in this process.",
)
@click.option("--gpus", is_flag=True, help="Use one GPU per worker.")
@click.option("--resume", is_flag=True, help="Continue an interrupted job.")
@click.option(
    "--challenge",
    type=LOCATION,
    metavar="OUT.zip",
    help="Also write a C-NMC 2019 challenge submission; images must be 1.bmp to N.bmp.",
)
@click.option(
    "--fields",
    is_flag=True,
    help="IMAGES are fields of view or slides: find their cells, classify these.",
)
@PIXELS_PER_UM
@CROP_UM
@TRUSTED
@ADDRESS
@command
def predict(
    model: Location,
    images: tuple[Location, ...],
    out: Location | None,
    trusted: Path | None,
    fields: bool,
    pixels_per_um: float | None,
    crop_um: float | None,
    **options: Any,
) -> tuple[dict[str, Any], str]:
    """Classify images: files, folders, patterns, s3://.

    An image that cannot be scored is a row with the reason, and counted in the last line: exit
    status 0 where one image at least was scored, else 2. Without --workers, up to 500 images are
    scored in this process and more on as many workers as there are CPUs.

    With more than two classes the most probable one is the answer: a table has a column
    probability:NAME for each class, and `probability` is that of the positive classes together.
    """
    from leuk_ray.bundles.bundle import find_bundle, open_bundle

    bundle = find_bundle(model)
    if trusted is not None:
        open_bundle(bundle, trusted)
    if fields:
        return _predict_fields(bundle, images, out, pixels_per_um, crop_um, options)
    if pixels_per_um is not None or crop_um is not None:
        raise UserError("--pixels-per-um, --crop-um: are for fields of view; add --fields")

    from leuk_ray.cli.messages import predict_table_text, predict_text
    from leuk_ray.workflows.predict import predict_files, predict_to_table

    if out is None:
        values = predict_files(bundle, images, **options)
        return values, predict_text(values)
    values = predict_to_table(bundle, images, out, **options)
    return values, predict_table_text(values)


def _predict_fields(
    bundle: Location,
    images: tuple[Location, ...],
    out: Location | None,
    pixels_per_um: float | None,
    crop_um: float | None,
    options: dict[str, Any],
) -> tuple[dict[str, Any], str]:
    from leuk_ray.cli.data_messages import fields_table_text, fields_text
    from leuk_ray.fields.field import FieldSettings
    from leuk_ray.workflows.predict_fields import predict_fields, predict_fields_to_table

    settings = FieldSettings.given(pixels_per_um, crop_um)
    if options.pop("challenge"):
        raise UserError("--challenge: has one cell an image; leave out --fields")
    if out is None:
        if named := [f"--{name}" for name, value in options.items() if value]:
            raise UserError(f"{named[0]}: is for tables; add --out answers.csv")
        values = predict_fields(bundle, images, settings)
        return values, fields_text(values)
    values = predict_fields_to_table(bundle, images, out, settings, **options)
    return values, fields_table_text(values)


@click.command(epilog="Example: leuk-ray ensemble voted runs/efficientnet-b0 runs/vit-b16")
@click.argument("bundle", type=LOCATION)
@click.argument("members", nargs=-1, required=True, metavar="RUN_OR_BUNDLE...", type=LOCATION)
@click.option("--rule", type=Choice(["soft", "majority"]), default="soft", show_default=True)
@command
def ensemble(
    bundle: Location, members: tuple[Location, ...], rule: Any
) -> tuple[dict[str, Any], str]:
    """Combine bundles into one that averages or votes."""
    from leuk_ray.bundles.bundle import find_bundle, write_ensemble
    from leuk_ray.cli.messages import ensemble_text
    from leuk_ray.io.storage import refuse_existing

    refuse_existing(bundle, "bundle")
    manifest = write_ensemble(bundle, [find_bundle(member) for member in members], rule)
    values = {"bundle": str(bundle), "rule": rule, "members": list(manifest.members)}
    return values, ensemble_text(values)


@click.command(epilog="Example: leuk-ray explain runs/lite cell.bmp --out why")
@click.argument("explained", metavar="RUN_OR_BUNDLE", type=LOCATION)
@click.argument("images", nargs=-1, required=True, type=LOCATION)
@click.option("--out", type=LOCATION, required=True, help="Folder for the heat maps.")
@click.option(
    "--method",
    type=Choice(["hirescam", "gradcam"]),
    default="hirescam",
    show_default=True,
    help="Attribution method; the service uses hirescam.",
)
@click.option(
    "--class", "toward", metavar="NAME", help="Class to explain (default: that of each answer)."
)
@command
def explain(
    explained: Location,
    images: tuple[Location, ...],
    out: Location,
    method: Any,
    toward: str | None,
) -> tuple[dict[str, Any], str]:
    """Write heat maps of what predictions are based on, and their share inside the cell."""
    from leuk_ray.bundles.bundle import find_bundle
    from leuk_ray.cli.messages import explain_text
    from leuk_ray.io.storage import directory_by_rename, refuse_existing

    bundle, files = find_bundle(explained), read_files(images)
    refuse_existing(out, "folder of explanations")

    from leuk_ray.inference.classifier import Classifier
    from leuk_ray.inference.explain import explain_files

    classifier = Classifier.load(bundle)
    with directory_by_rename(out, new="folder of explanations") as partial:
        values = {"explanations": explain_files(classifier, files, partial, method, toward)}
    return values | {"out": str(out)}, explain_text(values["explanations"], out)


_REGISTRY = click.option("--registry", type=PATH, required=True, help="Folder of the registry.")
_ALIAS = click.option("--alias", default="champion", show_default=True)


@click.group("models")
def registry() -> None:
    """Manage a registry: bundles under a name, in versions, with a champion."""


@registry.command("list", epilog="Example: leuk-ray models list --registry models")
@_REGISTRY
@command
def list_models(registry: Path) -> tuple[dict[str, Any], str]:
    """List names, versions and aliases."""
    from leuk_ray.bundles.registry import Registry
    from leuk_ray.cli.messages import models_text
    from leuk_ray.inference.check import check_answers

    values = {"models": [model.as_dict() for model in Registry(registry, check_answers).list()]}
    return values, models_text(values)


@registry.command(epilog="Example: leuk-ray models show cells --registry models")
@click.argument("name")
@_REGISTRY
@command
def show(name: str, registry: Path) -> tuple[dict[str, Any], str]:
    """Show the versions of NAME, their origin and history."""
    from leuk_ray.bundles.registry import Registry
    from leuk_ray.cli.messages import model_text
    from leuk_ray.inference.check import check_answers

    values = Registry(registry, check_answers).show(name).as_dict()
    return values, model_text(values)


@registry.command(epilog="Example: leuk-ray models add runs/lite cells --registry models")
@click.argument("added", metavar="RUN_OR_BUNDLE", type=LOCATION)
@click.argument("name")
@click.option(
    "--origin", type=LOCATION, help="The run that trained it, if the bundle is not in its folder."
)
@_REGISTRY
@TRUSTED
@SIGN
@command
def add(
    added: Location,
    name: str,
    origin: Location | None,
    registry: Path,
    trusted: Path | None,
    key: Path | None,
) -> tuple[dict[str, Any], str]:
    """Copy a bundle as the next version of NAME; promote makes it the champion.

    Of a run's bundle, or one of a sweep's top/, the registry notes run, data and sweep.
    """
    from leuk_ray.bundles.bundle import find_bundle
    from leuk_ray.bundles.hub import is_on_hub
    from leuk_ray.bundles.registry import Registry
    from leuk_ray.bundles.registry_model import Lineage
    from leuk_ray.inference.check import check_answers

    bundle = find_bundle(added)
    made = Lineage.of(origin or (bundle if is_on_hub(added) else added))
    version = Registry(registry, check_answers).add(
        bundle, name, lineage=made, trusted=trusted, key=key
    )
    return {"name": name, "version": version}, f"{name}@{version}: added"


@registry.command(epilog="Example: leuk-ray models promote cells 2 --registry models")
@click.argument("name")
@click.argument("version", type=click.IntRange(1))
@_ALIAS
@_REGISTRY
@command
def promote(name: str, version: int, alias: str, registry: Path) -> tuple[dict[str, Any], str]:
    """Make VERSION the champion of NAME."""
    from leuk_ray.bundles.registry import Registry
    from leuk_ray.inference.check import check_answers

    Registry(registry, check_answers).promote(name, version, alias)
    values = {"name": name, "version": version, "alias": alias}
    return values, f"{name}@{alias}: is version {version}"


@registry.command(epilog="Example: leuk-ray models rollback cells --registry models")
@click.argument("name")
@_ALIAS
@_REGISTRY
@command
def rollback(name: str, alias: str, registry: Path) -> tuple[dict[str, Any], str]:
    """Restore the champion from before the last promotion."""
    from leuk_ray.bundles.registry import Registry
    from leuk_ray.inference.check import check_answers

    version = Registry(registry, check_answers).rollback(name, alias)
    values = {"name": name, "version": version, "alias": alias}
    return values, f"{name}@{alias}: is version {version} again"


@registry.command(epilog="Example: leuk-ray models gc cells --registry models --keep 3 --dry-run")
@click.argument("name")
@click.option(
    "--keep", default=3, show_default=True, type=click.IntRange(1), help="Latest versions to keep."
)
@click.option("--dry-run", is_flag=True, help="Say what would be deleted.")
@_REGISTRY
@command
def gc(name: str, keep: int, dry_run: bool, registry: Path) -> tuple[dict[str, Any], str]:
    """Delete bundles of old versions of NAME; their entries and the history stay.

    What an alias means, and what it would mean after a rollback, is never deleted.
    """
    from leuk_ray.bundles.registry import Registry
    from leuk_ray.cli.service_messages import gc_text
    from leuk_ray.inference.check import check_answers

    deleted = Registry(registry, check_answers).collect(name, keep, dry_run=dry_run)
    values = {"name": name, "deleted": list(deleted), "dry_run": dry_run}
    return values, gc_text(values)
