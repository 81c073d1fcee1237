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
@_command
def synth(
    directory: Path, cells: int, subjects: int, seed: int, best_auc: float
) -> tuple[dict, str]:
    """Render SYNTHETIC cells with a known best AUC."""
    from leuk_ray.datasets.synthetic import SyntheticSpec, write_c_nmc
    from leuk_ray.progress import bar
    from leuk_ray.storage import refuse_existing
    from leuk_ray.texts import synth_text

    spec = SyntheticSpec(cells, subjects, seed, best_auc)
    refuse_existing(directory, "folder of cells")
    with bar("synth: rendering cells", "cell") as progress:
        values = write_c_nmc(directory, spec, progress)
    return values, synth_text(directory, values)


@cli.command(epilog="Example: leuk-ray prepare C-NMC_Leukemia cnmc.dataset --layout c-nmc")
@click.argument("source", type=_OUT)
@click.argument("dataset", type=_OUT)
@click.option("--layout", required=True, help="How the files are named and placed: c-nmc.")
@click.option("--size", default=300, show_default=True, help="Side of the stored square, pixels.")
@click.option("--crop", type=click.Choice(["center", "tight", "full"]), default="center")
@_ADDRESS
@_command
def prepare(
    source: Path, dataset: Path, layout: str, size: int, crop: Any, address: str | None
) -> tuple[dict, str]:
    """Decode image files into a dataset that trains fast: rows in = rows out + rejected."""
    from leuk_ray.datasets.layouts import read_layout
    from leuk_ray.storage import refuse_existing

    refuse_existing(dataset, "dataset")
    read_layout(layout, source)

    from leuk_ray import cluster
    from leuk_ray.datasets.prepare import prepare as run
    from leuk_ray.images import StorageSettings
    from leuk_ray.progress import bar
    from leuk_ray.texts import prepare_text

    cluster.connect(address)
    with bar("prepare: decoding", "cell") as progress:
        values = run(source, dataset, layout, StorageSettings(size=size, crop=crop), progress)
    return values, prepare_text(dataset, values)


@cli.command(epilog="Example: leuk-ray audit cnmc.dataset")
@click.argument("dataset")
@_command
def audit(dataset: str) -> tuple[dict, str]:
    """Name identical images, conflicts and imbalance; writes DATASET/audit.json."""
    from leuk_ray.datasets.audit import audit_cells
    from leuk_ray.datasets.prepared import PreparedDataset
    from leuk_ray.storage import write_json
    from leuk_ray.texts import audit_text

    opened = PreparedDataset.open(dataset)
    values = audit_cells(opened.cells)
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
    """Give every cell a role; no patient and no image in two of them."""
    from leuk_ray.config import load_recipe
    from leuk_ray.datasets.prepared import PreparedDataset
    from leuk_ray.datasets.splits import describe, split_cells, write_split
    from leuk_ray.texts import split_text

    overrides = {"protocol": protocol, "folds": folds, "fold": fold, "split.seed": seed}
    settings = load_recipe("lite", [f"{key}={value}" for key, value in overrides.items()]).split
    opened = PreparedDataset.open(dataset)
    roles = split_cells(opened.cells, settings)
    write_split(roles, out)
    values = {"protocol": protocol, "roles": describe(roles, opened.cells), "out": str(out)}
    return values, split_text(values)


@cli.command(epilog="Example: leuk-ray recipes lite")
@click.argument("name", required=False)
@_command
def recipes(name: str | None) -> tuple[dict, str]:
    """List the recipes, or print one."""
    from leuk_ray.config import load_recipe, recipe_names, recipe_text

    if name is None:
        return {"recipes": recipe_names()}, "\n".join(recipe_names())
    return load_recipe(name).model_dump(mode="json"), recipe_text(name).rstrip()


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

    missing = [str(path) for path in images if not path.is_file()]
    if missing:
        raise UserError(f"{missing[0]}: there is no such file; give image files")
    classifier = Classifier.load(bundle)
    answers = classifier.predict([(path.name, path.read_bytes()) for path in images])
    values = {"predictions": [answer.as_dict() for answer in answers]}
    return values, predict_text(values)


if __name__ == "__main__":
    main()
