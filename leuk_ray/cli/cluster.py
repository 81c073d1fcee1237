"""Commands on clusters."""

from __future__ import annotations

import json
import sys
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import click

from leuk_ray.utils.errors import UserError


@click.command(epilog="Example: leuk-ray doctor")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
def doctor(as_json: bool) -> None:
    """Look at this machine: versions, GPUs, memory, disk, ports, Ray; say what to mend.

    Changes nothing. Exits with 1 if there is a problem, with 0 if there are warnings at most.
    With --json, `problems` and `warnings` count what was found.
    """
    from leuk_ray.cli.run_messages import doctor_text
    from leuk_ray.cluster.doctor import examine

    checks = examine(Path.cwd())
    counts = Counter(check.status for check in checks)
    values = {
        "problems": counts["problem"],
        "warnings": counts["warning"],
        "checks": [asdict(check) for check in checks],
    }
    click.echo(json.dumps(values) if as_json else doctor_text(checks))
    sys.exit(int(counts["problem"] > 0))


@click.command(
    context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False},
    epilog="Example: leuk-ray submit train lite --data /shared/my.dataset --out /shared/runs/lite",
)
@click.option(
    "--address",
    help="The cluster's dashboard; RAY_API_SERVER_ADDRESS by default, or port 8265.",
)
@click.option("--name", help="Job ID (default: generated).")
@click.option(
    "--working-dir",
    help="Upload and run this checkout instead of the version installed on the nodes.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
@click.argument("words", nargs=-1, required=True, metavar="COMMAND ...")
@click.pass_context
def submit(
    context: click.Context,
    address: str | None,
    name: str | None,
    working_dir: str | None,
    as_json: bool,
    words: tuple[str, ...],
) -> None:
    """Run COMMAND as a job on a cluster, stream its log, and exit with its exit code.

    Versions, CPUs, GPUs and shared folders are checked on the cluster first. Paths are those of
    the cluster's nodes.
    """
    settings = _parsed(context, words)

    from leuk_ray.cluster import submit as jobs

    asked = jobs.asked_for(words, settings)
    outcome = jobs.submit(
        jobs.connect(address),
        asked,
        name=name,
        working_dir=working_dir,
        log=lambda text: click.echo(text, nl=False, err=True),
        interrupted=_ask,
    )
    text = f"job {outcome.job}: {outcome.status.lower()}"
    if outcome.exit_code is None:
        text += f"; ray job logs --follow {outcome.job}"
    click.echo(json.dumps(vars(outcome)) if as_json else text)
    sys.exit(outcome.exit_code or 0)


def _parsed(context: click.Context, words: tuple[str, ...]) -> dict[str, Any]:
    """Return the settings of a command, parsed here, so that a typo never reaches the cluster."""
    command: click.Command = context.find_root().command
    rest = list(words)
    while isinstance(command, click.Group):
        if not rest or rest[0] not in command.commands or rest[0] == "submit":
            known = ", ".join(sorted(set(command.commands) - {"submit"}))
            raise UserError(f"submit {' '.join(words)}: no such command; there are: {known}")
        command = command.commands[rest.pop(0)]
    return command.make_context(command.name, rest).params


def _ask(job: str) -> Literal["stop", "detach"]:
    if not sys.stdin.isatty():
        return "detach"
    click.echo(err=True)
    answer = click.prompt(
        f"job {job} still runs: stop it, or detach and leave it running?",
        type=click.Choice(["stop", "detach"]),
        default="detach",
        err=True,
    )
    return "stop" if answer == "stop" else "detach"
