"""Blocks marked `bash` or `python` of README and documentation, page by page, and tutorials.

On demand, about 30 minutes: `make test-docs`.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from leuk_ray.datasets.synthetic import SyntheticSpec, write_c_nmc
from tests.support.readme_blocks import FENCE, ROOT, RUN, WRITTEN, blocks

BIN = Path(sys.executable).parent
RUNS = {"bash": ["bash", "-euo", "pipefail", "-c"], "python": [sys.executable, "-c"]}
TUTORIALS = sorted((ROOT / "docs" / "tutorials").glob("*.ipynb"))
PAGES = [page for page in WRITTEN if any(blocks(page, language) for language in RUN)]


@pytest.mark.timeout(600)
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_blocks_run(page: Path, tmp_path: Path):
    if page.name == "README.md":
        write_what_the_readme_downloads(tmp_path)
    found = FENCE.findall(page.read_text())
    wanted = [(language, text) for _, language, text in found if language in RUN]
    assert wanted
    for language, text in wanted:
        run([*RUNS[language], text], tmp_path)


@pytest.mark.timeout(900)
@pytest.mark.parametrize("tutorial", TUTORIALS, ids=lambda path: path.stem)
def test_tutorials_run(tutorial: Path, tmp_path: Path):
    """As one script: what the last line of a cell shows is computed, though not shown."""
    cells = json.loads(tutorial.read_text())["cells"]
    code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    assert any(cell.get("outputs") for cell in cells), "run it and save it with its results"
    run([*RUNS["python"], "\n".join(code)], tmp_path)


def write_what_the_readme_downloads(folder: Path) -> None:
    """SYNTHETIC cells under the names of C-NMC, and some of them as new ones."""
    write_c_nmc(folder / "C-NMC_Leukemia", SyntheticSpec(cells=120, subjects=24, seed=3))
    (folder / "cells").mkdir()
    for cell in sorted((folder / "C-NMC_Leukemia").rglob("*.bmp"))[:5]:
        shutil.copy(cell, folder / "cells")
        shutil.copy(cell, folder / "some_cell.bmp")


def run(command: list[str], folder: Path) -> None:
    environment = os.environ | {"PATH": f"{BIN}:{os.environ['PATH']}"}
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=800
    )
    assert done.returncode == 0, f"{command[-1]}\n{done.stdout}\n{done.stderr[-3000:]}"
