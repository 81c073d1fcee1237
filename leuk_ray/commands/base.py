"""What all commands share: --json, and options that several take."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

import click

ADDRESS = click.option(
    "--address", help="Ray cluster to join; RAY_ADDRESS by default, else Ray starts here."
)
PATH = click.Path(path_type=Path)


class _LocationType(click.ParamType):
    name = "path or address"

    def convert(self, value: Any, param: Any, ctx: Any) -> Any:  # noqa: ARG002
        from leuk_ray.locations import parse

        return parse(value) if isinstance(value, str) else value


LOCATION = _LocationType()


def command(function: Callable[..., tuple[dict, str]]) -> Callable[..., Any]:
    """Give a command --json; it returns (plain values, text for people)."""

    @click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
    @wraps(function)
    def run(as_json: bool, **arguments: Any) -> None:
        values, text = function(**arguments)
        click.echo(json.dumps(values, allow_nan=False) if as_json else text)

    return run
