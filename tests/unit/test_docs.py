"""The documentation builds without a warning, loads nothing from elsewhere, names what is there."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from leuk_ray.recipes.recipe import load_recipe, recipe_names
from tests.support.readme_blocks import FENCE, blocks, commands, parse_leuk_ray

ROOT = Path(__file__).parents[2]
MADE = {"cli.md", "files.md", "http.md", "index.md", "python.md", "results.md"}  # and contents
PAGES = [
    page
    for page in sorted((ROOT / "docs").rglob("*.md"))
    if page.name not in MADE and page.parent.name != "tutorials"
]
# bash, python: run by tests/docs. console: needs a cluster, GPUs, a download or a running service.
LANGUAGES = {"bash", "python", "console", "text"}


def indented(readme: str) -> list[str]:
    return re.findall(r"^    (leuk-ray .*)$", readme, re.MULTILINE)


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


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_block_says_who_runs_it_and_its_commands_parse(page: Path):
    text = page.read_text()
    assert {language for _, language, _ in FENCE.findall(text)} <= LANGUAGES
    for language in ("bash", "console"):
        for words in (line for block in blocks(page, language) for line in commands(block)):
            if words[0] == "leuk-ray":
                taken = parse_leuk_ray(words[1:])
                if overrides := taken.get("overrides"):
                    recipe = taken["recipe"] if taken["recipe"] in recipe_names() else "lite"
                    load_recipe(recipe, overrides)


def test_commands_of_the_readme_parse():
    found = indented((ROOT / "README.md").read_text())
    assert len(found) >= 8
    for (words,) in (commands(line) for line in found):
        parse_leuk_ray(words[1:])
