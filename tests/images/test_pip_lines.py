"""What the Dockerfiles install, installed as they do it, into an environment that is new."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCKER = ROOT / "cluster" / "docker"


def stages(dockerfile: Path) -> dict[str, list[tuple[str, str]]]:
    """Name of a stage -> its instructions, in order, comments and line ends taken out."""
    text = re.sub(r"^#.*\n", "", dockerfile.read_text(), flags=re.MULTILINE).replace("\\\n", "")
    found: dict[str, list[tuple[str, str]]] = {}
    name = ""
    for line in filter(None, text.splitlines()):
        word, rest = line.split(maxsplit=1)
        if word == "FROM":
            name = rest.split()[-1]
            found[name] = []
        found[name].append((word, rest))
    return found


def run_stage(lines: list[tuple[str, str]], root: Path) -> None:
    """Do what the COPY and RUN lines say, with /opt and /src under `root`."""
    source = root / "src"
    source.mkdir(exist_ok=True)
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "VIRTUAL_ENV"))}
    clean |= {"TORCH_INDEX_URL": "", "PIP_NO_CACHE_DIR": "1"}
    for word, rest in lines:
        if word == "COPY" and not rest.startswith("--from"):
            *names, target = rest.split()
            names = [str(path.relative_to(ROOT)) for name in names for path in ROOT.glob(name)]
            for name in names:
                to = source / (Path(name).name if target == "./" else target)
                if (ROOT / name).is_dir():
                    shutil.copytree(ROOT / name, to, ignore=shutil.ignore_patterns("__pycache__"))
                else:
                    shutil.copy(ROOT / name, to)
        if word == "RUN":
            command = re.sub(r"(?<![\w.])/(opt|src|sbom)", rf"{root}/\1", rest)
            command = command.replace("python -m venv", f"{sys.executable} -m venv")
            done = subprocess.run(
                ["bash", "-euc", command], cwd=source, capture_output=True, text=True, env=clean
            )
            assert done.returncode == 0, f"{command}\n{done.stdout[-3000:]}{done.stderr[-3000:]}"


@pytest.mark.timeout(3600)
def test_the_lines_leave_a_command_that_runs_and_a_list_of_what_is_there(tmp_path: Path):
    cpu, cuda = (stages(DOCKER / f"Dockerfile.{kind}") for kind in ("cpu", "cuda"))
    extra = [("ARG", 'TORCH_INDEX_URL=""')]  # what the CPU image has beyond the other
    (chosen,) = (rest for word, rest in cpu["build"] if word == "RUN" and "TORCH_INDEX" in rest)
    (plain,) = (rest for _, rest in cuda["build"] if "--require-hashes" in rest)
    assert plain in chosen
    assert [
        (word, plain if rest == chosen else rest)
        for word, rest in cpu["build"] if (word, rest) not in extra
    ] == cuda["build"]  # fmt: skip
    assert cpu["list"] == cuda["list"]

    run_stage(cpu["build"], tmp_path)
    run_stage(cpu["list"], tmp_path)
    command = tmp_path / "opt" / "venv" / "bin" / "leuk-ray"
    helped = subprocess.run([command, "--help"], capture_output=True, text=True, timeout=60)
    assert "train" in helped.stdout, helped.stderr
    pinned = dict(
        line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines()
        if "==" in line and not line.startswith("#")
    )  # fmt: skip
    listed = json.loads((tmp_path / "sbom.cdx.json").read_text())["components"]
    versions = {part["name"].lower().replace("_", "-"): part.get("version") for part in listed}
    assert versions["ray"] == pinned["ray"]
    assert versions["torch"] == pinned["torch"]
    assert "pytest" not in versions, "what only tests need stays out"
