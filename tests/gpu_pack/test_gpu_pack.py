"""The environment packed for a GPU machine, tried on a CPU: `make test-gpu-pack`."""

import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LARGEST = 64 * 2**20  # what is carried to such a machine in one call


def test_the_packed_environment_prepares_and_trains(tmp_path: Path):
    pack = ROOT / os.environ.get("GPU_PACK", ".gpu")
    if not (pack / "unpack.sh").exists():
        pytest.skip(f"{pack} has no unpack.sh: pack the environment first, or set GPU_PACK")
    python = os.environ.get("GPU_PYTHON", "python3.12")
    # Its own site-packages only: nothing of this environment may help.
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "VIRTUAL"))}
    look = "import sys, torch; print(sys.version_info[:2], torch.__version__)"
    try:
        subprocess.run([python, "-c", look], env=environment, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"GPU_PYTHON {python} is no Python with PyTorch: {error}")
    assert (pack / "site.tar.xz").stat().st_size < LARGEST
    site = tmp_path / "site"
    script = (pack / "unpack.sh").read_text().replace("/tmp/site", str(site))
    unpack = tmp_path / "unpack.sh"
    unpack.write_text(script)
    (tmp_path / "site.tar.xz").symlink_to(pack / "site.tar.xz")
    path = os.pathsep.join([str(Path(python).parent), environment["PATH"]])
    subprocess.run(["bash", str(unpack)], env=environment | {"PATH": path}, check=True)
    environment["PYTHONPATH"] = f"{site}:{ROOT}"

    def leuk_ray(*arguments: object) -> None:
        command = [python, "-m", "leuk_ray", *map(str, arguments)]
        subprocess.run(command, env=environment, cwd=tmp_path, check=True)

    leuk_ray("synth", "cells", "--cells", 60)
    leuk_ray("prepare", "cells", "dataset", "--layout", "c-nmc", "--size", 64)
    leuk_ray("train", "lite", "--data", "dataset", "--out", "run", "epochs=1", "input_size=64")
    leuk_ray("predict", "run", "cells", "--out", "answers.csv")
    assert len((tmp_path / "answers.csv").read_text().splitlines()) == 61
    command = [python, str(ROOT / "benchmarks" / "gpu.py"), "--device", "cpu", "--only", "augment"]
    subprocess.run([*command, "--out", str(tmp_path / "found")], env=environment, check=True)
