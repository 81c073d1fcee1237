"""What all commands share: --json, and options that several take."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager, redirect_stdout
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from leuk_ray.utils.errors import DataError, UserError, near

if TYPE_CHECKING:
    from leuk_ray.io.locations import Location

ADDRESS = click.option(
    "--address", help="Ray cluster to join; RAY_ADDRESS by default, else Ray starts here."
)
GPUS = click.option("--gpus", is_flag=True, help="Use one GPU per worker.")
WORKERS_PER_RUN = click.option(
    "--workers", default=1, show_default=True, type=click.IntRange(1), help="Workers per run."
)
NO_IMAGES = click.option("--no-images", is_flag=True, help="Omit images of cells from the report.")
PATH = click.Path(path_type=Path)


class _LocationType(click.ParamType[Any]):
    name = "path or address"

    def convert(self, value: Any, param: Any, ctx: Any) -> Any:  # noqa: ARG002
        from leuk_ray.io.locations import parse

        return parse(value) if isinstance(value, str) else value


LOCATION = _LocationType()


TRUSTED = click.option(
    "--trusted",
    type=PATH,
    metavar="KEYS",
    help="Accept only bundles signed by a key in this file of NAME PUBLIC_KEY lines (OpenSSH).",
)
SIGN = click.option(
    "--sign", "key", type=PATH, metavar="KEY", help="Sign the copy with an OpenSSH private key."
)


class Choice(click.Choice[str]):
    """One of a few words; of another the near one is suggested."""

    def convert(self, value: Any, param: Any, ctx: Any) -> Any:
        """Return the word itself."""
        if isinstance(value, str) and value not in self.choices:
            self.fail(f"{value!r} is not known; {near(value, self.choices)}", param, ctx)
        return super().convert(value, param, ctx)


class _WorkersType(click.ParamType[Any]):
    name = "N or MIN:MAX"

    def convert(self, value: Any, param: Any, ctx: Any) -> Any:
        """Return a number, or (fewest, most) for MIN:MAX."""
        if not isinstance(value, str):
            return value
        least, colon, most = value.partition(":")
        numbers = [least, most] if colon else [least]
        if not all(number.isdecimal() and int(number) > 0 for number in numbers):
            self.fail(f"{value!r}: give a number from 1 on, or MIN:MAX", param, ctx)
        if colon and int(least) > int(most):
            self.fail(f"{value!r}: MIN is larger than MAX", param, ctx)
        return (int(least), int(most)) if colon else int(least)


WORKERS = _WorkersType()


def _given_once(ctx: Any, param: Any, overrides: tuple[str, ...]) -> tuple[str, ...]:
    keys = [text.partition("=")[0] for text in overrides]
    for number, key in enumerate(keys):
        for other in keys[:number]:
            if f".{key}".endswith(f".{other}") or f".{other}".endswith(f".{key}"):
                raise click.BadParameter(f"{key} is given twice", ctx, param)
    return overrides


OVERRIDES = click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...", callback=_given_once)


def command(function: Callable[..., tuple[dict[str, Any], str]]) -> Callable[..., Any]:
    """Give a command --json; it returns (plain values, text for people).

    With --json an error that the user can fix is an object too: `error`, its message, and `kind`.

    Standard output holds the result alone: what libraries and their processes print while the
    command runs goes to standard error.
    """

    @click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
    @wraps(function)
    def run(as_json: bool, **arguments: Any) -> None:
        try:
            with _stdout_to_stderr():
                values, text = function(**arguments)
        except KeyboardInterrupt as error:
            raise KeyboardInterrupt(_left(arguments)) from error
        except UserError as error:
            if as_json:
                click.echo(json.dumps({"error": " ".join(str(error).split()), "kind": error.kind}))
            raise
        click.echo(json.dumps(values, allow_nan=False) if as_json else text)

    return run


def read_files(places: tuple[Location, ...]) -> list[tuple[str, bytes]]:
    """Names and contents of the files of an argument; UserError for one that is not there."""
    from leuk_ray.io.locations import name_of
    from leuk_ray.io.storage import is_file, read_bytes

    for place in places:
        if not is_file(place):
            raise DataError(f"{place}: there is no such file; give image files")
    return [(name_of(place), read_bytes(place)) for place in places]


@contextmanager
def _stdout_to_stderr() -> Generator[None]:
    sys.stdout.flush()
    kept = os.dup(1)
    os.dup2(2, 1)
    try:
        with redirect_stdout(sys.stderr):
            yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)


def _left(arguments: dict[str, Any]) -> str:
    """Say what an interrupted command leaves, and how to continue it; empty where it is nothing."""
    out = arguments.get("out")
    if "resume" not in arguments or out is None:
        return ""

    from leuk_ray.io.locations import join, name_of, parent
    from leuk_ray.io.storage import exists

    for place in (out, join(parent(out), f"{name_of(out)}.parts")):
        if exists(place):
            return f"{place} is intact; run the same command with --resume to continue."
    return ""
