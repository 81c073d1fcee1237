"""Commands on images and datasets."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from leuk_ray.cli.base import ADDRESS, LOCATION, PATH, Choice, command
from leuk_ray.datasets.protocols import PROTOCOLS
from leuk_ray.utils.errors import ConfigError
from leuk_ray.utils.wording import counted

if TYPE_CHECKING:
    from leuk_ray.io.locations import Location


@click.command(epilog="Example: leuk-ray synth cells --cells 600 --subjects 24 --seed 1")
@click.argument("directory", type=PATH)
@click.option("--cells", default=600, show_default=True)
@click.option("--subjects", default=24, show_default=True)
@click.option("--seed", default=0, show_default=True, type=click.IntRange(0))
@click.option(
    "--best-auc",
    default=0.90,
    show_default=True,
    help="AUC of the ideal classifier; of stages, between two neighbours.",
)
@click.option(
    "--classes",
    default=2,
    show_default=True,
    type=click.IntRange(2, 20),
    help="2: ALL and healthy, C-NMC layout; more: stages of maturation, layout folders.",
)
@click.option(
    "--signal",
    type=Choice(["everywhere", "nucleoli"]),
    default="everywhere",
    show_default=True,
    help="Feature of a cell that carries the class.",
)
@click.option(
    "--subject-share",
    default=0.1,
    show_default=True,
    help="Share of the variance of stain and size that is between subjects, 0 to 0.9.",
)
@click.option(
    "--layout",
    type=Choice(["c-nmc", "all-idb", "fields"]),
    default="c-nmc",
    show_default=True,
    help="Cells on black, fields of view of one class with cells cropped from them, or several "
    "fields of patients whose share of blasts is known.",
)
@command
def synth(
    directory: Path,
    cells: int,
    subjects: int,
    seed: int,
    best_auc: float,
    classes: int,
    signal: Any,
    subject_share: float,
    layout: str,
) -> tuple[dict[str, Any], str]:
    """Render SYNTHETIC cells whose best achievable AUC or balanced accuracy is known."""
    from leuk_ray.cli.data_messages import synth_text
    from leuk_ray.datasets.synthetic import SyntheticSpec, write_c_nmc
    from leuk_ray.datasets.synthetic_fields import write_all_idb
    from leuk_ray.datasets.synthetic_smears import write_smears
    from leuk_ray.datasets.synthetic_stages import write_stages
    from leuk_ray.io.storage import refuse_existing
    from leuk_ray.utils.progress import bar

    spec = SyntheticSpec(cells, subjects, seed, best_auc, signal, subject_share)
    refuse_existing(directory, "folder of cells")
    writers = {"c-nmc": write_c_nmc, "all-idb": write_all_idb, "fields": write_smears}
    write, unit = writers[layout], "cell" if layout == "c-nmc" else "field"
    if classes > 2:
        if layout != "c-nmc":
            raise ConfigError(f"--layout {layout}: has two classes; leave out --classes")
        write = partial(write_stages, stages=classes)
    with bar("synth: rendering", unit) as progress:
        values = write(directory, spec, progress)
    return values, synth_text(directory, values)


@click.command(epilog="Example: leuk-ray prepare C-NMC_Leukemia cnmc.dataset --layout c-nmc")
@click.argument("source", type=PATH)
@click.argument("dataset", type=LOCATION)
@click.option(
    "--layout",
    required=True,
    help="How the files are named and placed: c-nmc, all-idb, all-idb1, all-idb2, folders, csv.",
)
@click.option(
    "--size",
    default=300,
    show_default=True,
    type=click.IntRange(16, 4096),
    help="Side of the stored square images, in pixels.",
)
@click.option(
    "--crop",
    type=Choice(["center", "tight", "pad", "full"]),
    help="Central 300 pixels; the cell's box; the whole image, mirrored at its borders to a square "
    "or squeezed to one. Default: center for c-nmc, else pad.",
)
@click.option(
    "--classes",
    metavar="NAME,NAME[,...]",
    help="Classes to keep, in this order; by default all folders or labels. Others are skipped.",
)
@click.option(
    "--positive",
    metavar="NAME[,NAME]",
    help="Positive classes (blasts) of the binary view: ROC, thresholds, blast percentage.",
)
@click.option("--ordered", is_flag=True, help="--classes are stages in this order.")
@click.option("--binary", is_flag=True, help="Collapse: --positive become ALL, others healthy.")
@click.option(
    "--columns", metavar="OURS=ITS[,...]", help="Columns of a CSV manifest, as label=diagnosis."
)
@click.option(
    "--keep-columns",
    metavar="NAME[,NAME]",
    help="Columns of a CSV manifest, as sex,age_band: reports count results by their values.",
)
@ADDRESS
@command
def prepare(
    source: Path,
    dataset: Location,
    layout: str,
    size: int,
    crop: Any,
    classes: str | None,
    positive: str | None,
    ordered: bool,
    binary: bool,
    columns: str | None,
    keep_columns: str | None,
    address: str | None,
) -> tuple[dict[str, Any], str]:
    """Decode image files into a prepared dataset: files = rows + rejected + skipped.

    Every folder or label is a class. Where all are known words there are two classes: ALL, blast,
    leukemia, positive and 1 mean ALL; healthy, hem, normal, benign, negative and 0 healthy, in any
    case. Empty, NaN, NA, unknown and the like are unlabelled. Hidden files and folders and system
    files (@eaDir, __MACOSX, Thumbs.db) are skipped.
    """
    from leuk_ray.api.data import prepare as run
    from leuk_ray.cli.data_messages import prepare_text
    from leuk_ray.datasets.split_summary import default_split

    prepared = run(
        source,
        dataset,
        layout,
        size=size,
        crop=crop,
        classes=classes,
        positive=positive,
        ordered=ordered,
        binary=binary,
        columns=columns,
        keep_columns=keep_columns,
        address=address,
    )
    planned = default_split(prepared.cells, prepared.classes)
    values = prepared.manifest
    return values | {"default_split": planned}, prepare_text(dataset, values, planned)


@click.command(epilog="Example: leuk-ray crop Im001_1.jpg --centroids Im001_1.xyc --out cells")
@click.argument("field", type=PATH)
@click.option("--centroids", type=PATH, required=True, help="An .xyc file, one `x y` per line.")
@click.option(
    "--side",
    default=257,
    show_default=True,
    type=click.IntRange(1),
    help="Side of a crop, in pixels.",
)
@click.option("--out", type=PATH, required=True, help="Folder for the crops.")
@command
def crop(field: Path, centroids: Path, side: int, out: Path) -> tuple[dict[str, Any], str]:
    """Crop cells from a field of view."""
    from leuk_ray.datasets.cropping import crop_field

    written = crop_field(field, centroids, out, side)
    return {"cells": [str(path) for path in written]}, f"{out}: {counted(len(written), 'cell')}"


@click.command(epilog="Example: leuk-ray audit cnmc.dataset --out audit")
@click.argument("dataset", type=LOCATION)
@click.option(
    "--out",
    type=LOCATION,
    help="Folder for a page with images; else audit.json and DATASHEET.md in DATASET.",
)
@click.option(
    "--scores",
    type=PATH,
    metavar="CROSSVAL",
    help="Folder of `crossval` on DATASET: list the labels that its out-of-fold scores contradict.",
)
@click.option("--no-images", is_flag=True, help="Omit images of cells from the page.")
@command
def audit(
    dataset: Location, out: Location | None, scores: Path | None, no_images: bool
) -> tuple[dict[str, Any], str]:
    """Find duplicates, imbalance, shortcuts, doubtful labels, and the leak of each protocol."""
    from leuk_ray.datasets.prepared import PreparedDataset
    from leuk_ray.io.locations import join
    from leuk_ray.io.storage import refuse_existing, write_bytes, write_json

    opened = PreparedDataset.open(dataset)
    if out:
        refuse_existing(out, "audit")
    elif scores:
        raise ConfigError("--scores: the doubtful labels are listed on the page; add --out DIR")
    pooled = None
    if scores:
        from leuk_ray.workflows.out_of_fold import out_of_fold, require_crossval

        require_crossval(scores)
        pooled = out_of_fold(scores, opened)

    from leuk_ray.cli.data_messages import audit_text
    from leuk_ray.datasets.audit import audit_dataset
    from leuk_ray.datasets.audit_page import write_audit
    from leuk_ray.datasets.datasheet import datasheet
    from leuk_ray.utils.progress import bar

    with bar("audit: measuring", "cell") as progress:
        values = audit_dataset(opened, progress)
    if pooled is not None:
        from leuk_ray.evaluation.label_errors import doubtful_labels

        values["doubtful_labels"] = doubtful_labels(pooled, opened.classes)
    if out:
        write_audit(out, opened, values, show_images=not no_images)
        return values, f"{audit_text(values)}\nPage: {join(out, 'audit.html')}"
    write_json(join(opened.location, "audit.json"), values)
    write_bytes(join(opened.location, "DATASHEET.md"), datasheet(opened.manifest, values).encode())
    return values, audit_text(values)


@click.command(
    epilog="Example: leuk-ray split cnmc.dataset --out split.parquet",
    help="Assign every cell a role, and count the overlap of training and test.\n\n\b\nProtocols:\n"
    + "\n".join(f"  {name:21} {protocol.about}" for name, protocol in PROTOCOLS.items()),
)
@click.argument("dataset", type=LOCATION)
@click.option(
    "--protocol", type=Choice(list(PROTOCOLS)), default="subject-disjoint", show_default=True
)
@click.option("--folds", default=0, help="Number of cross-validation folds; --fold is tested.")
@click.option("--fold", default=0, show_default=True)
@click.option("--seed", default=0, show_default=True, type=click.IntRange(0))
@click.option("--out", type=LOCATION, required=True)
@command
def split(
    dataset: Location, protocol: Any, folds: int, fold: int, seed: int, out: Location
) -> tuple[dict[str, Any], str]:
    """Assign every cell a role; the help lists the protocols."""
    from leuk_ray.cli.data_messages import split_text
    from leuk_ray.datasets.leakage import crossings, find_leakage
    from leuk_ray.datasets.prepared import PreparedDataset
    from leuk_ray.datasets.split_summary import (
        count_left_out,
        count_test_groups,
        describe,
        largest_gap,
    )
    from leuk_ray.datasets.splits import SplitSettings, split_cells, write_split

    settings = SplitSettings(protocol=protocol, folds=folds, fold=fold, seed=seed)
    opened = PreparedDataset.open(dataset)
    cells, classes = opened.cells, opened.classes
    roles = split_cells(cells, settings, classes)
    write_split(roles, out)
    found = find_leakage(roles, cells)
    values = {
        "protocol": protocol,
        "leaky": found.leaky,
        "leakage": found.text,
        "roles": describe(roles, cells, classes),
        "crossings": crossings(roles, cells),
        "left_out": count_left_out(roles, cells),
        "largest_gap": largest_gap(roles, settings, classes),
        "test_groups": count_test_groups(roles, classes),
        "intervals": found.origin != "image",
        "out": str(out),
    }
    return values, split_text(values)
