"""The command line: the commands together, and how they end.

Everything heavy is imported inside a command, after what the user typed has been checked.
"""

from __future__ import annotations

import sys

import click

from leuk_ray import __version__
from leuk_ray.cli import (
    cluster,
    crossval,
    data,
    experiment,
    fields,
    models,
    run_folders,
    runs,
    serving,
    trace,
    tuning,
)
from leuk_ray.utils.errors import UserError
from leuk_ray.utils.interrupts import interruptible

_EPILOG = "For research. Not a medical device, not a diagnosis."


@click.group(
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog=_EPILOG,
)
@click.version_option(__version__)
def cli() -> None:
    """Train, search, evaluate and serve leukemia cell classifiers on Ray.

    \b
    Try it:       leuk-ray demo --out demo
    Your images:  leuk-ray prepare C-NMC_Leukemia cnmc.dataset --layout c-nmc
                  leuk-ray train lite --data cnmc.dataset --out runs/lite --workers 2
    """


def main() -> None:
    """Entry point: exit status 0 done, 2 a mistake of the user (one line), 130 Ctrl-C, 1 else."""
    with interruptible(_say_interrupted):
        try:
            cli(standalone_mode=False)
        except UserError as error:
            _fail(str(error))
        except click.UsageError as error:
            where = f" (see: {error.ctx.command_path} --help)" if error.ctx else ""
            _fail(f"{error.format_message()}{where}")
        except click.ClickException as error:
            _fail(error.format_message())
        except click.Abort as error:  # which click makes of Ctrl-C
            raise KeyboardInterrupt(*getattr(error.__cause__, "args", ())) from error


def _say_interrupted(left: str) -> None:
    click.echo(f"leuk-ray: interrupted. {left or 'No partial output was left.'}", err=True)


def _fail(message: str) -> None:
    click.echo(f"leuk-ray: {' '.join(message.split())}", err=True)
    sys.exit(2)


for _command in (
    runs.demo,
    data.synth,
    data.prepare,
    data.crop,
    fields.detect,
    data.audit,
    data.split,
    runs.recipes,
    models.weights,
    runs.train,
    crossval.crossval,
    runs.evaluate,
    runs.compare,
    run_folders.run_folders,
    experiment.experiment,
    tuning.tune,
    models.predict,
    models.explain,
    models.ensemble,
    models.registry,
    cluster.submit,
    cluster.doctor,
    serving.calibrate,
    serving.export,
    serving.serve,
    serving.imaging_server,
    trace.trace,
):
    cli.add_command(_command)
