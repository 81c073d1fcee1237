"""Commands that carry a bundle to where it answers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from leuk_ray.commands.base import LOCATION, command

if TYPE_CHECKING:
    from leuk_ray.locations import Location


@click.command(epilog="Example: leuk-ray export runs/lite lite.bundle --onnx")
@click.argument("source", metavar="RUN_OR_BUNDLE", type=LOCATION)
@click.argument("bundle", type=LOCATION)
@click.option("--onnx", is_flag=True, help="Add a graph for ONNX Runtime, faster on CPUs.")
@command
def export(source: Location, bundle: Location, onnx: bool) -> tuple[dict, str]:
    """Copy a bundle out of its run, verified."""
    from leuk_ray.bundle import find_bundle
    from leuk_ray.storage import refuse_existing
    from leuk_ray.texts import export_text

    found = find_bundle(source)
    refuse_existing(bundle, "bundle")

    from leuk_ray.inference.onnx_export import export_bundle

    values = export_bundle(found, bundle, onnx=onnx)
    return values, export_text(values)
