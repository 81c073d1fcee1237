"""The files that a public project has: they are read by others, so they must say what is there."""

import re
import subprocess
from pathlib import Path

import pytest
import yaml

from leuk_ray import __version__

ROOT = Path(__file__).parents[2]
YAML_FILES = sorted(ROOT.glob(".github/**/*.yml"))


@pytest.mark.parametrize("path", YAML_FILES, ids=lambda path: path.name)
def test_workflows_and_forms_are_yaml(path: Path):
    assert isinstance(yaml.safe_load(path.read_text()), dict)


def test_workflows_run_targets_that_the_makefile_has():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for path in ROOT.glob(".github/workflows/*.yml"):
        jobs = yaml.safe_load(path.read_text())["jobs"]
        for job in jobs.values():
            tiers = job.get("strategy", {}).get("matrix", {}).get("tier", [])
            assert set(tiers) <= targets
            for step in job["steps"]:
                named = re.findall(r"make ([a-z-]+)", step.get("run", ""))
                assert set(named) <= targets, step
    assert {path.name for path in YAML_FILES} >= {"ci.yml", "nightly.yml", "bug.yml"}


def test_architecture_names_every_module_and_no_other():
    """In the table of packages; `cli` has a module for each group of commands instead."""
    text = (ROOT / "ARCHITECTURE.md").read_text()
    rows = dict(re.findall(r"^\| `(\w+)/` \| (.+) \|$", text, re.MULTILINE))
    package = ROOT / "leuk_ray"
    assert set(rows) == {path.parent.name for path in package.glob("*/__init__.py")}
    for name, row in rows.items():
        named = {
            word for word in re.findall(r"`([\w*/.]+)`", row) if word.endswith((".py", ".yaml"))
        }
        there = {path.name for path in (package / name).glob("*.py")} - {"__init__.py"}
        assert (
            not [word for word in named if not list((package / name).glob(word))] or name == "cli"
        )
        assert name == "cli" or there <= named, f"{name}: {sorted(there - named)}"


def test_walks_of_architecture_name_files_that_are_there():
    text = (ROOT / "ARCHITECTURE.md").read_text()
    walks = re.findall(
        r"^- \*\*(?:An|A) .+?\*\*: (.+?)\.\n(?=- |\n)", text, re.MULTILINE | re.DOTALL
    )
    assert len(walks) == 3
    for walk in walks:
        folder = ""
        for place in re.findall(r"`([\w/.]+)`", walk):
            folder = place.rpartition("/")[0] if "/" in place else folder
            assert (ROOT / "leuk_ray" / folder / place.rpartition("/")[2]).exists(), place


def test_help_names_every_target_with_what_it_does():
    done = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True)
    said = dict(re.findall(r"^make ([a-z-]+) +(\S.*)$", done.stdout, re.MULTILINE))
    makefile = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"^([a-z-]+):(?!=)", makefile, re.MULTILINE))
    assert set(said) == targets - {"help"}
    (phony,) = re.findall(r"^\.PHONY: (.*)$", makefile, re.MULTILINE)
    assert set(phony.split()) == targets


def test_a_release_is_refused_until_everything_names_its_version(tmp_path: Path):
    """Up to the tests, which here are a Makefile that fails."""
    files = {
        "leuk_ray/__init__.py": '__version__ = "1.0.0"\n',
        "CITATION.cff": "version: 1.0.0\ndate-released: 2030-01-02\n",
        "CHANGELOG.md": "## Unreleased\n\n- More.\n\n## 1.0.0 (2030-01-02)\n",
        "Makefile": "lint test:\n\t@echo the tests ran; exit 1\n",
        ".ci/release": (ROOT / ".ci/release").read_text(),
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)

    def git(*words: str) -> None:
        who = ["-c", "user.name=x", "-c", "user.email=x@x"]
        subprocess.run(["git", *who, *words], cwd=tmp_path, check=True, capture_output=True)

    def released(version: str) -> str:
        command = ["bash", ".ci/release", version]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 2
        return done.stdout + done.stderr

    git("init", "--quiet")
    assert "uncommitted changes" in released("1.0.0")
    git("add", ".")
    git("commit", "--quiet", "--message", "x")
    assert "__init__.py names another version than 1.0.1" in released("1.0.1")
    assert "changes under Unreleased" in released("1.0.0")
    (tmp_path / "CHANGELOG.md").write_text("## 1.0.0 (2030-01-03)\n")
    git("commit", "--all", "--quiet", "--message", "x")
    assert "has no section" in released("1.0.0")
    (tmp_path / "CHANGELOG.md").write_text("## 1.0.0 (2030-01-02)\n")
    git("commit", "--all", "--quiet", "--message", "x")
    assert "the tests ran" in released("1.0.0")
    git("tag", "v1.0.0")
    assert "tagged already" in released("1.0.0")


def test_versions_agree():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == __version__
    supported = re.search(
        r'requires-python = ">=3\.(\d+),<3\.(\d+)"', (ROOT / "pyproject.toml").read_text()
    )
    assert supported is not None
    wanted = [f"3.{minor}" for minor in range(int(supported[1]), int(supported[2]))]
    jobs = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())["jobs"]
    assert jobs["test"]["strategy"]["matrix"]["python"] == wanted
