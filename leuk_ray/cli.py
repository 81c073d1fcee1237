"""The command line: parse, call, print.

Everything heavy is imported inside a command, after what the user typed has been checked.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

import click

from leuk_ray import __version__
from leuk_ray.errors import UserError

_EPILOG = "For research. Not a medical device, not a diagnosis."


@click.group(
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog=_EPILOG,
)
@click.version_option(__version__)
def cli() -> None:
    """Train, search, judge and serve leukemia cell classifiers on Ray.

    \b
    Try it:       leuk-ray demo --out demo
    Your images:  leuk-ray prepare C-NMC_Leukemia cnmc.dataset --layout c-nmc
                  leuk-ray train lite --data cnmc.dataset --out runs/lite --workers 2
    """


def main() -> None:
    """Entry point: 0 done, 2 the user's input was wrong (one line), 1 anything else."""
    try:
        cli(standalone_mode=False)
    except UserError as error:
        _fail(str(error))
    except click.ClickException as error:
        if isinstance(error, click.UsageError) and error.ctx is not None:
            _fail(f"{error.format_message()} (see: {error.ctx.command_path} --help)")
        _fail(error.format_message())
    except (click.Abort, KeyboardInterrupt):
        click.echo("leuk-ray: stopped; nothing half written is left", err=True)
        sys.exit(1)


def _fail(message: str) -> None:
    click.echo(f"leuk-ray: {' '.join(message.split())}", err=True)
    sys.exit(2)


def _command(function: Callable[..., tuple[dict, str]]) -> Callable[..., None]:
    """Give a command --json; it returns (plain values, text for people)."""

    @click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
    @wraps(function)
    def run(as_json: bool, **arguments: Any) -> None:
        values, text = function(**arguments)
        click.echo(json.dumps(values, allow_nan=False) if as_json else text)

    return run


_ADDRESS = click.option(
    "--address", help="Ray cluster to join; RAY_ADDRESS by default, else Ray starts here."
)
_OUT = click.Path(path_type=Path)


@cli.command(epilog="Example: leuk-ray demo --out demo")
@click.option("--out", type=_OUT, default=Path("demo"), show_default=True)
@_command
def demo(out: Path) -> tuple[dict, str]:
    """The whole path on 600 SYNTHETIC cells, in a few minutes without a GPU."""
    from leuk_ray.demo import run_demo
    from leuk_ray.texts import demo_text

    values = run_demo(out)
    return values, demo_text(values)


@cli.command(epilog="Example: leuk-ray synth cells --cells 600 --subjects 24 --seed 1")
@click.argument("directory", type=_OUT)
@click.option("--cells", default=600, show_default=True)
@click.option("--subjects", default=24, show_default=True)
@click.option("--seed", default=0, show_default=True)
@click.option("--best-auc", default=0.90, show_default=True, help="AUC of the ideal classifier.")
@click.option(
    "--layout",
    type=click.Choice(["c-nmc", "all-idb"]),
    default="c-nmc",
    show_default=True,
    help="Cells on black, or fields of view with cells cut from them.",
)
@_command
def synth(
    directory: Path, cells: int, subjects: int, seed: int, best_auc: float, layout: str
) -> tuple[dict, str]:
    """Render SYNTHETIC cells with a known best AUC."""
    from leuk_ray.datasets.synthetic import SyntheticSpec, write_c_nmc
    from leuk_ray.datasets.synthetic_fields import write_all_idb
    from leuk_ray.progress import bar
    from leuk_ray.storage import refuse_existing
    from leuk_ray.texts import synth_text

    spec = SyntheticSpec(cells, subjects, seed, best_auc)
    refuse_existing(directory, "folder of cells")
    write, unit = (write_all_idb, "field") if layout == "all-idb" else (write_c_nmc, "cell")
    with bar("synth: rendering", unit) as progress:
        values = write(directory, spec, progress)
    return values, synth_text(directory, values)


@cli.command(epilog="Example: leuk-ray prepare C-NMC_Leukemia cnmc.dataset --layout c-nmc")
@click.argument("source", type=_OUT)
@click.argument("dataset", type=_OUT)
@click.option(
    "--layout",
    required=True,
    help="How the files are named and placed: c-nmc, all-idb, all-idb1, all-idb2, folders, csv.",
)
@click.option("--size", default=300, show_default=True, help="Side of the stored square, pixels.")
@click.option(
    "--crop",
    type=click.Choice(["center", "tight", "full"]),
    help="Central 300 pixels, the cell's box, or all; center for c-nmc, else full.",
)
@click.option(
    "--positive", metavar="NAME[,NAME]", help="The class folders or label words that mean ALL."
)
@click.option(
    "--columns", metavar="OURS=ITS[,...]", help="Columns of a CSV manifest, as label=diagnosis."
)
@_ADDRESS
@_command
def prepare(
    source: Path,
    dataset: Path,
    layout: str,
    size: int,
    crop: Any,
    positive: str | None,
    columns: str | None,
    address: str | None,
) -> tuple[dict, str]:
    """Decode image files into a dataset that trains fast: rows in = rows out + rejected."""
    from leuk_ray.datasets.layouts import LayoutOptions, read_layout
    from leuk_ray.storage import refuse_existing

    refuse_existing(dataset, "dataset")
    options = LayoutOptions.parse(positive, columns)
    read_layout(layout, source, options)
    crop = crop or ("center" if layout == "c-nmc" else "full")

    from leuk_ray import cluster
    from leuk_ray.datasets.prepare import prepare as run
    from leuk_ray.images import StorageSettings
    from leuk_ray.progress import bar
    from leuk_ray.texts import prepare_text

    cluster.connect(address)
    with bar("prepare: decoding", "cell") as progress:
        storage = StorageSettings(size=size, crop=crop)
        values = run(source, dataset, layout, storage, progress, options)
    return values, prepare_text(dataset, values)


@cli.command(epilog="Example: leuk-ray crop Im001_1.jpg --centroids Im001_1.xyc --out cells")
@click.argument("field", type=_OUT)
@click.option("--centroids", type=_OUT, required=True, help="A .xyc file, one `x y` a line.")
@click.option("--side", default=257, show_default=True, type=click.IntRange(1), help="Pixels.")
@click.option("--out", type=_OUT, required=True, help="Folder of the cells.")
@_command
def crop(field: Path, centroids: Path, side: int, out: Path) -> tuple[dict, str]:
    """Cut the cells out of a field of view."""
    from leuk_ray.datasets.cropping import crop_field

    written = crop_field(field, centroids, out, side)
    return {"cells": [str(path) for path in written]}, f"{out}: {len(written)} cells"


@cli.command(epilog="Example: leuk-ray audit cnmc.dataset --out audit")
@click.argument("dataset")
@click.option("--out", type=_OUT, help="Folder for a page with pictures; else DATASET/audit.json.")
@click.option("--no-images", is_flag=True, help="No picture of a cell on the page.")
@_command
def audit(dataset: str, out: Path | None, no_images: bool) -> tuple[dict, str]:
    """Name copies, conflicts, imbalance and shortcuts, and what each protocol would leak."""
    from leuk_ray.datasets.prepared import PreparedDataset
    from leuk_ray.storage import refuse_existing, write_json

    opened = PreparedDataset.open(dataset)
    if out:
        refuse_existing(out, "audit")

    from leuk_ray.datasets.audit import audit_dataset
    from leuk_ray.datasets.audit_page import write_audit
    from leuk_ray.progress import bar
    from leuk_ray.texts import audit_text

    with bar("audit: measuring", "cell") as progress:
        values = audit_dataset(opened, progress)
    if out:
        write_audit(out, opened, values, show_images=not no_images)
        return values, f"{audit_text(values)}\nPage: {out / 'audit.html'}"
    write_json(Path(opened.location) / "audit.json", values)
    return values, audit_text(values)


@cli.command(epilog="Example: leuk-ray split cnmc.dataset --out split.parquet")
@click.argument("dataset")
@click.option("--protocol", default="subject-disjoint", show_default=True)
@click.option("--folds", default=0, help="Cross-validation: test is fold --fold of this many.")
@click.option("--fold", default=0, show_default=True)
@click.option("--seed", default=0, show_default=True)
@click.option("--out", type=_OUT, required=True)
@_command
def split(
    dataset: str, protocol: Any, folds: int, fold: int, seed: int, out: Path
) -> tuple[dict, str]:
    """Give every cell a role, and count what crosses from training to test."""
    from leuk_ray.config import load_recipe
    from leuk_ray.datasets.prepared import PreparedDataset
    from leuk_ray.datasets.splits import crossings, describe, is_leaky, split_cells, write_split
    from leuk_ray.texts import split_text

    overrides = {"protocol": protocol, "folds": folds, "fold": fold, "split.seed": seed}
    settings = load_recipe("lite", [f"{key}={value}" for key, value in overrides.items()]).split
    opened = PreparedDataset.open(dataset)
    roles = split_cells(opened.cells, settings)
    write_split(roles, out)
    values = {
        "protocol": protocol,
        "leaky": is_leaky(protocol),
        "roles": describe(roles, opened.cells),
        "crossings": crossings(roles, opened.cells),
        "left_out": len(opened.cells) - len(roles),
        "out": str(out),
    }
    return values, split_text(values)


@cli.command(epilog="Example: leuk-ray recipes lite --summary")
@click.argument("name", required=False)
@click.option("--summary", is_flag=True, help="Layers, output shapes, parameters and FLOPs.")
@click.option("--gallery", type=_OUT, metavar="OUT.png", help="Picture the augmentation.")
@click.option("--data", help="A prepared dataset, for --gallery.")
@_command
def recipes(
    name: str | None, summary: bool, gallery: Path | None, data: str | None
) -> tuple[dict, str]:
    """List the recipes; print, summarise or picture one."""
    from leuk_ray.config import load_recipe, recipe_names, recipe_text

    if name is None:
        if summary or gallery:
            raise UserError("recipes: name the recipe to summarise or picture")
        return {"recipes": recipe_names()}, "\n".join(recipe_names())
    if summary:
        from leuk_ray.models.summary import summarise
        from leuk_ray.texts import summary_text

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


@cli.group()
def weights() -> None:
    """Weights to start training from."""


@weights.command(epilog="Example: leuk-ray weights fetch saeed2022-v2s lite --to weights")
@click.argument("names", nargs=-1, required=True, metavar="RECIPE_OR_BACKBONE...")
@click.option("--to", "folder", type=_OUT, required=True, help="Folder of the files.")
@_command
def fetch(names: tuple[str, ...], folder: Path) -> tuple[dict, str]:
    """Save ImageNet weights as files, to carry to machines without internet."""
    from leuk_ray.config import backbone_name
    from leuk_ray.models.weights import fetch as run
    from leuk_ray.texts import fetch_text

    backbones = list(dict.fromkeys(backbone_name(name) for name in names))
    values = {"files": [str(path) for path in run(backbones, folder)]}
    return values, fetch_text(values)


@cli.command(
    epilog="Example: leuk-ray train lite --data cnmc.dataset --out runs/lite epochs=5 lr=5e-4"
)
@click.argument("recipe")
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@click.option("--data", required=True, help="A prepared dataset.")
@click.option("--out", type=_OUT, required=True, help="Folder of the run.")
@click.option("--protocol", help="Split protocol, instead of the recipe's.")
@click.option("--workers", default=1, show_default=True, type=click.IntRange(1))
@click.option("--gpus", is_flag=True, help="One GPU a worker.")
@click.option("--resume", is_flag=True, help="Go on with the run in --out.")
@click.option("--no-images", is_flag=True, help="No picture of a cell in the report.")
@_ADDRESS
@_command
def train(
    recipe: str,
    overrides: tuple[str, ...],
    data: str,
    out: Path,
    protocol: str | None,
    workers: int,
    gpus: bool,
    resume: bool,
    no_images: bool,
    address: str | None,
) -> tuple[dict, str]:
    """Train RECIPE, judge its best checkpoint on the test cells, and make a bundle."""
    from leuk_ray.config import load_recipe
    from leuk_ray.datasets.prepared import PreparedDataset

    wanted = [*overrides, *([f"protocol={protocol}"] if protocol else [])]
    resolved = load_recipe(recipe, wanted)
    dataset = PreparedDataset.open(data)

    from leuk_ray import cluster
    from leuk_ray.runs.run import train_and_judge
    from leuk_ray.texts import report_text

    cluster.connect(address, workers)
    report = train_and_judge(
        resolved, dataset, out, workers=workers, gpus=gpus, resume=resume, show_images=not no_images
    )
    return report, report_text(report, out / "report")


@cli.command(epilog="Example: leuk-ray evaluate runs/lite --data cnmc.dataset --out again")
@click.argument("judged", metavar="RUN_OR_BUNDLE", type=_OUT)
@click.option("--data", required=True, help="A prepared dataset.")
@click.option("--role", default="test", type=click.Choice(["validation", "test"]))
@click.option("--out", type=_OUT, required=True, help="Folder of the report.")
@click.option("--workers", default=1, show_default=True, type=click.IntRange(1))
@click.option("--gpus", is_flag=True)
@click.option("--no-images", is_flag=True, help="No picture of a cell in the report.")
@_ADDRESS
@_command
def evaluate(
    judged: Path,
    data: str,
    role: str,
    out: Path,
    workers: int,
    gpus: bool,
    no_images: bool,
    address: str | None,
) -> tuple[dict, str]:
    """Score a run's test cells, or a bundle on another dataset, and write a report."""
    from leuk_ray import cluster
    from leuk_ray.datasets.prepared import PreparedDataset
    from leuk_ray.judge import Judged, judge
    from leuk_ray.progress import bar
    from leuk_ray.texts import report_text

    subject, dataset = Judged.at(judged), PreparedDataset.open(data)
    cluster.connect(address, workers)
    with bar("judge: scoring", "cell") as progress:
        report = judge(
            subject,
            dataset,
            out,
            roles=(role,),
            actors=workers,
            gpus=gpus,
            show_images=not no_images,
            progress=progress,
        )
    return report, report_text(report, out)


@cli.command(epilog="Example: leuk-ray predict runs/lite/bundle cell.bmp")
@click.argument("bundle", type=_OUT)
@click.argument("images", nargs=-1, required=True, type=_OUT)
@_command
def predict(bundle: Path, images: tuple[Path, ...]) -> tuple[dict, str]:
    """Answer for image files."""
    from leuk_ray.inference.classifier import Classifier
    from leuk_ray.texts import predict_text

    files = _read_files(images)
    answers = Classifier.load(bundle).predict(files)
    values = {"predictions": [answer.as_dict() for answer in answers]}
    return values, predict_text(values)


@cli.command(epilog="Example: leuk-ray ensemble voted runs/efficientnet-b0 runs/vit-b16")
@click.argument("bundle", type=_OUT)
@click.argument("members", nargs=-1, required=True, metavar="RUN_OR_BUNDLE...", type=_OUT)
@click.option("--rule", type=click.Choice(["soft", "majority"]), default="soft", show_default=True)
@_command
def ensemble(bundle: Path, members: tuple[Path, ...], rule: Any) -> tuple[dict, str]:
    """Make one bundle that lets several vote."""
    from leuk_ray.bundle import find_bundle, write_ensemble
    from leuk_ray.storage import refuse_existing
    from leuk_ray.texts import ensemble_text

    refuse_existing(bundle, "bundle")
    facts = write_ensemble(bundle, [find_bundle(member) for member in members], rule)
    values = {"bundle": str(bundle), "rule": rule, "members": list(facts.members)}
    return values, ensemble_text(values)


@cli.command(epilog="Example: leuk-ray explain runs/lite cell.bmp --out why")
@click.argument("explained", metavar="RUN_OR_BUNDLE", type=_OUT)
@click.argument("images", nargs=-1, required=True, type=_OUT)
@click.option("--out", type=_OUT, required=True, help="Folder of the pictures.")
@click.option("--method", type=click.Choice(["gradcam", "hirescam"]), default="hirescam")
@_command
def explain(explained: Path, images: tuple[Path, ...], out: Path, method: Any) -> tuple[dict, str]:
    """Picture where the network looks, and how much of that lies in the cell."""
    from leuk_ray.bundle import find_bundle
    from leuk_ray.storage import directory_by_rename, refuse_existing
    from leuk_ray.texts import explain_text

    bundle, files = find_bundle(explained), _read_files(images)
    refuse_existing(out, "folder of explanations")

    from leuk_ray.inference.classifier import Classifier
    from leuk_ray.inference.explain import explain_files

    classifier = Classifier.load(bundle)
    with directory_by_rename(out) as partial:
        values = {"explanations": explain_files(classifier, files, partial, method)}
    return values | {"out": str(out)}, explain_text(values["explanations"], out)


def _read_files(paths: tuple[Path, ...]) -> list[tuple[str, bytes]]:
    for path in paths:
        if not path.is_file():
            raise UserError(f"{path}: there is no such file; give image files")
    return [(path.name, path.read_bytes()) for path in paths]


if __name__ == "__main__":
    main()
