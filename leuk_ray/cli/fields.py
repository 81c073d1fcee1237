"""Commands on fields of view."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from leuk_ray.cli.base import ADDRESS, LOCATION, PATH, Choice, command

if TYPE_CHECKING:
    from leuk_ray.io.locations import Location

PIXELS_PER_UM = click.option(
    "--pixels-per-um",
    type=click.FloatRange(0, 1000, min_open=True),
    help="Scale of the fields (default: estimated from red cells, 7.5 um wide, in each field).",
)
CROP_UM = click.option(
    "--crop-um",
    type=click.FloatRange(5, 100),
    help="Side of the square cropped around a cell, in micrometres (default: 20).",
)


@click.command(epilog="Example: leuk-ray detect 'smear/*.jpg' --out found --pixels-per-um 12.5")
@click.argument("fields", nargs=-1, required=True, type=LOCATION, metavar="FIELD...")
@click.option("--out", type=PATH, required=True, help="Folder for tables, crops and overlays.")
@PIXELS_PER_UM
@CROP_UM
@click.option(
    "--boxes",
    "--centroids",
    "annotated",
    type=PATH,
    metavar="CSV",
    help="Annotated cells to measure recall and precision: columns file,x0,y0,x1,y1 or file,x,y; a "
    "row with a file alone is an annotated field without a cell.",
)
@click.option(
    "--annotated-label",
    "annotated_labels",
    multiple=True,
    metavar="NAME",
    help="Rows of --boxes whose label is NAME are nucleated cells; may be repeated.",
)
@click.option(
    "--subject",
    metavar="REGEX|c-nmc",
    help="Regular expression whose first group is the patient of a field: count recall by patient.",
)
@click.option(
    "--format",
    type=Choice(["csv", "parquet"]),
    help="Format of the tables (default: csv, above 10,000 fields parquet).",
)
@click.option(
    "--workers",
    type=click.IntRange(min=0),
    help="Detect on Ray with this many actors; 0: in this process.",
)
@click.option("--resume", is_flag=True, help="Continue an interrupted job.")
@ADDRESS
@command
def detect(
    fields: tuple[Location, ...],
    out: Path,
    pixels_per_um: float | None,
    crop_um: float | None,
    **options: Any,
) -> tuple[dict[str, Any], str]:
    """Find nucleated cells in fields of view or slides by their stain, and crop them.

    With --boxes, detect.json holds how many cells were found, by label and patient: `leuk-ray
    calibrate --misses` takes it, so that blast percentages carry the detector's misses.

    OUT holds detections.csv (boxes in pixels), fields.csv (status and reasons of each field),
    crops.csv (fill in labels, then prepare it with --layout csv), crops/, overlays/ and
    detect.json. A field that is no sharp, well exposed smear of known scale is refused with the
    reason. A slide (SVS, OME-TIFF or another TIFF in tiles; needs the extra `slides`) is examined
    tile by tile, at the scale that its file says or --pixels-per-um. Without --workers, up to 200
    fields are done in this process and more on as many workers as there are CPUs.
    """
    from leuk_ray.cli.data_messages import detect_text
    from leuk_ray.fields.field import FieldSettings
    from leuk_ray.workflows.detect import detect as run

    settings = FieldSettings.given(pixels_per_um, crop_um)
    values = run(fields, out, settings, **options)
    return values, detect_text(values)
