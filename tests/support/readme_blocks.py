"""The shell blocks of a README, as they stand there."""

from __future__ import annotations

import re
import shlex
import textwrap
from pathlib import Path

FENCE = re.compile(r"^( *)```(\w*)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)


def blocks(readme: Path, language: str) -> list[str]:
    """Texts of the blocks that are marked with a language."""
    found = FENCE.findall(readme.read_text())
    return [textwrap.dedent(text) for _, marked, text in found if marked == language]


def commands(block: str) -> list[list[str]]:
    """The words of each line that is not a comment."""
    lines = (line for line in block.splitlines() if line.strip())
    return [shlex.split(line, comments=True) for line in lines]
