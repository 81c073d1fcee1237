"""The wheel in a new environment, away from the repository: Python, the demo, a sweep.

On demand, about 8 minutes: `make test-wheel`.
"""

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import leuk_ray

ROOT = Path(__file__).parents[2]
CLEAN = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "VIRTUAL_ENV"))}


def run(*command: object, folder: Path, timeout: float = 900) -> str:
    done = subprocess.run(
        [*map(str, command)],
        cwd=folder, env=CLEAN, capture_output=True, text=True, timeout=timeout,
    )  # fmt: skip
    assert done.returncode == 0, f"{command}\n{done.stdout[-3000:]}{done.stderr[-3000:]}"
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from the files that git knows, so that nothing else on this machine is in it."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    listed = run("git", "ls-files", "-z", "--cached", folder=ROOT).split("\0")
    for name in filter(None, listed):
        target = source / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if (ROOT / name).is_symlink():
            target.symlink_to((ROOT / name).readlink())
        elif (ROOT / name).exists():
            target.write_bytes((ROOT / name).read_bytes())
    built = ["-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir"]
    run(sys.executable, *built, folder / "dist", source, folder=folder)
    (found,) = (folder / "dist").iterdir()
    return found


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of an environment's commands; the extras are those that its commands need."""
    folder = tmp_path_factory.mktemp("environment")
    run(sys.executable, "-m", "venv", folder / "venv", folder=folder)
    binaries = folder / "venv" / "bin"
    run(
        binaries / "pip", "install", "--quiet", "--constraint", ROOT / "constraints.txt",
        f"{wheel}[tune]", folder=folder,
    )  # fmt: skip
    return binaries


def test_every_file_of_the_package_is_in_it(wheel: Path):
    with zipfile.ZipFile(wheel) as opened:
        names = {name for name in opened.namelist() if name.startswith("leuk_ray/")}
    listed = run("git", "ls-files", "leuk_ray", folder=ROOT).split()
    wanted = {name for name in listed if not (ROOT / name).is_symlink()}
    sweeps = {f"leuk_ray/tuning/configs/{path.name}" for path in (ROOT / "tune_configs").iterdir()}
    assert names == wanted | sweeps


@pytest.mark.timeout(1800)
def test_six_lines_train_on_folders_of_images_and_answer(installed: Path, tmp_path: Path):
    run(installed / "leuk-ray", "synth", "c_nmc", "--cells", 120, folder=tmp_path)
    for image in (tmp_path / "c_nmc" / "training_data").glob("*/*/*.bmp"):
        patient = image.stem.split("_")[1]
        place = tmp_path / "cells" / image.parent.name / patient
        place.mkdir(parents=True, exist_ok=True)
        shutil.copy(image, place)
    new = tmp_path / "new_cells"
    new.mkdir()
    for image in sorted((tmp_path / "cells").rglob("*.bmp"))[:5]:
        shutil.copy(image, new)
    documented = str(leuk_ray.__doc__).splitlines()
    lines = [line.strip() for line in documented if line.startswith("    ")]
    assert len(lines) < 7
    lines.append("print(lr.__file__)")
    *said, where = run(installed / "python", "-c", "\n".join(lines), folder=tmp_path).splitlines()
    assert "classified correctly" in "\n".join(said)
    assert all(any(image.stem in line for line in said) for image in new.iterdir()), said
    assert Path(where).is_relative_to(installed.parent), "the repository's code, not the wheel's"


@pytest.mark.timeout(1800)
def test_the_demo_and_a_shipped_sweep_run(installed: Path, tmp_path: Path):
    command = installed / "leuk-ray"
    made = json.loads(run(command, "demo", "--out", "demo", "--json", folder=tmp_path))
    assert made["synthetic"]
    assert (tmp_path / made["paths"]["report"]).exists()
    short = ["--out", "sweep", "trials=2", "epochs=1", "top=1"]
    run(command, "tune", "quick", "--data", "demo/dataset", *short, folder=tmp_path)
    assert (tmp_path / "sweep" / "top" / "1" / "bundle.json").exists()
    assert "quick" in (tmp_path / "sweep" / "sweep.yaml").read_text()
