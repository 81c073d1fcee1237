"""The files that a public project has: they are read by others, so they must say what is there."""

import re
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
