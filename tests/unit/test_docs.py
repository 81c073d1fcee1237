"""The documentation builds without a warning, loads nothing from elsewhere, names what is there."""

import json
import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from leuk_ray.recipes.recipe import load_recipe, recipe_names
from tests.support.readme_blocks import (
    FENCE,
    MARKED,
    NO_CODE,
    ROOT,
    RUN,
    WRITTEN,
    blocks,
    commands,
    parse_leuk_ray,
)

CODE = re.compile(r"^\s*(leuk-ray|make|pip|curl|import|from) ", re.MULTILINE)


def test_it_builds_without_a_warning_and_loads_nothing_from_elsewhere(tmp_path: Path):
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-b", "html"]
    done = subprocess.run(
        [*command, "-d", str(tmp_path / "trees"), str(ROOT / "docs"), str(tmp_path / "site")],
        capture_output=True,
        text=True,
        timeout=200,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    pages = list((tmp_path / "site").rglob("*.html"))
    assert len(pages) > 25
    loaded = re.compile(
        r"<(?:script|img|iframe)[^>]+src=\"https?:|<link[^>]+href=\"https?:|@import"
    )
    for page in pages:
        assert not loaded.search(page.read_text()), page.name
    cli = (tmp_path / "site" / "reference" / "cli.html").read_text()
    assert "leuk-ray runs diff" in cli
    settings = (tmp_path / "site" / "reference" / "settings.html").read_text()
    assert "training.lr" in settings


@pytest.mark.parametrize("page", WRITTEN, ids=lambda page: page.stem)
def test_commands_of_a_page_parse(page: Path):
    for language in ("bash", "console"):
        for words in (line for block in blocks(page, language) for line in commands(block)):
            if words[0] == "leuk-ray":
                taken = parse_leuk_ray(words[1:])
                if taken.get("recipe") and taken.get("overrides"):
                    recipe = taken["recipe"] if taken["recipe"] in recipe_names() else "lite"
                    load_recipe(recipe, taken["overrides"])


def test_every_block_runs_in_a_test_or_is_marked_as_needing_more_than_a_machine():
    """tests/docs runs the blocks of WRITTEN and the tutorials, tests/newcomer cluster/README.md."""
    counted, neither = Counter(), []
    others = [ROOT / "cluster/README.md", ROOT / "SECURITY.md", ROOT / "ARCHITECTURE.md"]
    for page in [*WRITTEN, *others]:
        text = page.read_text()
        for _, mark, block in FENCE.findall(text):
            kind = "run" if mark in RUN else "marked" if mark in MARKED else "no code"
            counted[kind] += 1
            if kind == "no code" and (mark not in NO_CODE or CODE.search(block)):
                neither.append(f"{page.name}: {block}")
        indented = re.findall(r"^    \S.*$", FENCE.sub("", text), re.MULTILINE)
        neither += [f"{page.name}: {line}" for line in indented if CODE.search(line)]
    for made in (ROOT / "docs/reference").glob("*.md*"):
        neither += [f"{made.name}: {block}" for block in blocks(made, "bash")]
    for notebook in (ROOT / "docs/tutorials").glob("*.ipynb"):
        cells = json.loads(notebook.read_text())["cells"]
        counted["run"] += sum(cell["cell_type"] == "code" for cell in cells)
    assert neither == []
    assert counted["run"] >= 45
    assert 0 < counted["marked"] <= 30
