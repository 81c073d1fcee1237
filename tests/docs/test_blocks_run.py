"""Blocks of the documentation marked `bash` or `python`, page by page in order, and tutorials.

On demand, about 20 minutes: `make test-docs`.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.readme_blocks import FENCE, blocks

DOCS = Path(__file__).parents[2] / "docs"
BIN = Path(sys.executable).parent
RUN = {"bash": ["bash", "-euo", "pipefail", "-c"], "python": [sys.executable, "-c"]}
WRITTEN = [
    page
    for page in sorted(DOCS.rglob("*.md"))
    if page.parent.name not in ("reference", "tutorials")
]
TUTORIALS = sorted((DOCS / "tutorials").glob("*.ipynb"))
PAGES = [page for page in WRITTEN if blocks(page, "bash") or blocks(page, "python")]


@pytest.mark.timeout(600)
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_blocks_run(page: Path, tmp_path: Path):
    found = FENCE.findall(page.read_text())
    wanted = [(language, text) for _, language, text in found if language in RUN]
    assert wanted
    for language, text in wanted:
        run([*RUN[language], text], tmp_path)


@pytest.mark.timeout(900)
@pytest.mark.parametrize("tutorial", TUTORIALS, ids=lambda path: path.stem)
def test_tutorials_run(tutorial: Path, tmp_path: Path):
    """As one script: what the last line of a cell shows is computed, though not shown."""
    cells = json.loads(tutorial.read_text())["cells"]
    code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    assert any(cell.get("outputs") for cell in cells), "run it and save it with its results"
    run([*RUN["python"], "\n".join(code)], tmp_path)


def run(command: list[str], folder: Path) -> None:
    environment = os.environ | {"PATH": f"{BIN}:{os.environ['PATH']}"}
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=800
    )
    assert done.returncode == 0, f"{command[-1]}\n{done.stdout}\n{done.stderr[-3000:]}"
