"""The blocks of a page in Markdown, as they stand there."""

from __future__ import annotations

import re
import shlex
import textwrap
from pathlib import Path
from typing import Any

import click

from leuk_ray.cli.main import cli

FENCE = re.compile(r"^( *)```([\w{} ]*)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
ROOT = Path(__file__).parents[2]
# Pages that people write, whose blocks marked RUN are run by tests/docs in order. The others are
# made from the code, or, as cluster/README.md, have a test of their own.
WRITTEN = [ROOT / "README.md", ROOT / "CONTRIBUTING.md"] + [
    page
    for page in sorted((ROOT / "docs").rglob("*.md"))
    if page.parent.name not in ("reference", "tutorials") and page.name != "results.md"
]
RUN = {"bash", "python"}
MARKED = {"console", "python service"}  # a cluster, GPUs, a download, an installation or a service
NO_CODE = {"text", "{toctree}"}


def blocks(readme: Path, language: str) -> list[str]:
    """Texts of the blocks that are marked with a language."""
    found = FENCE.findall(readme.read_text())
    return [textwrap.dedent(text) for _, marked, text in found if marked == language]


def commands(block: str) -> list[list[str]]:
    """The words of each line that is not a comment."""
    lines = (line for line in block.splitlines() if line.strip())
    return [shlex.split(line, comments=True) for line in lines]


def parse_leuk_ray(words: list[str]) -> dict[str, Any]:
    """What the command line takes of some words; raises click's errors for what it would not."""
    command: click.Command = cli.commands[words[0]]
    rest = words[1:]
    while isinstance(command, click.Group):
        command = command.commands[rest.pop(0)]
    taken = command.make_context(command.name, list(rest)).params
    return parse_leuk_ray(list(taken["words"])) if command.name == "submit" else taken
