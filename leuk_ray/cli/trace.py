"""Commands on the record of a service's answers."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from leuk_ray.cli.base import LOCATION, PATH, command, read_files

if TYPE_CHECKING:
    from leuk_ray.io.locations import Location


@click.group()
def trace() -> None:
    """Check the record of answers that `serve --trace` writes."""


@trace.command(epilog="Example: leuk-ray trace verify /var/lib/leuk_ray/trace")
@click.argument("folder", metavar="DIR", type=PATH)
@click.option(
    "--against",
    type=PATH,
    metavar="JSON",
    help="Output of an earlier `verify --json`, kept elsewhere: all it names must still be there.",
)
@command
def verify(folder: Path, against: Path | None) -> tuple[dict[str, Any], str]:
    """Verify the hash chains: changed, replaced and missing lines and files are named (exit 2).

    The files alone prove nothing against someone who can rewrite all of them: keep the output of
    `verify --json` where they cannot, and give it with --against the next time.
    """
    from leuk_ray.cli.service_messages import trace_text
    from leuk_ray.workflows.trace import verify_trace

    values = verify_trace(folder, against)
    return values, trace_text(values)


@trace.command(epilog="Example: leuk-ray trace replay trace cell.bmp --bundle lite.bundle")
@click.argument("folder", metavar="DIR", type=PATH)
@click.argument("images", nargs=-1, required=True, type=LOCATION)
@click.option("--bundle", required=True, type=LOCATION, help="The bundle, or run, that answered.")
@command
def replay(
    folder: Path, images: tuple[Location, ...], bundle: Location
) -> tuple[dict[str, Any], str]:
    """Answer for traced images again and compare; a different answer is named (exit 2)."""
    from leuk_ray.cli.service_messages import replay_text
    from leuk_ray.workflows.trace import replay as run

    values = run(folder, bundle, read_files(images))
    return values, replay_text(values)
