"""The benchmarks, one after another, each in a process of its own; one table and one JSON file.

    python benchmarks/run.py [--only training start ...] [--out bench.json]
    python benchmarks/run.py --long

The default sizes take less than half an hour on 2 cores that do nothing else. A benchmark that
fails is named, the others go on, and the exit code is 1. A goal that is missed is no failure.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from results import table

BUNDLE = "BUNDLE"  # stands for one that is made first, where a benchmark needs it
SHORT = {
    "training": ["--cells", "400", "--rounds", "2"],
    "loaders": ["--cells", "1024", "--repeats", "3"],
    "augmentation": [],
    "prepare": ["--cells", "2000", "--rounds", "2"],
    "start": ["--rounds", "2"],
    "scale": [],
    "predict": ["--bundle", BUNDLE, "--images", "800", "--repeats", "2"],
    "serve": ["--bundle", BUNDLE, "--seconds", "8"],
}
LONG = {
    "nodes": [],
    "prepare_scale": ["--cells", "10000", "100000", "1000000", "--side", "32"],
    "training": ["--cells", "1200", "--rounds", "2"],
    "prepare": ["--cells", "10661", "--rounds", "1"],
}
HERE = Path(__file__).parent


def run(name: str, arguments: list[str], scratch: Path) -> list[dict] | None:
    """What a benchmark found; None where it failed."""
    results = scratch / f"{name}.json"
    bundle = scratch / "lite.bundle"
    if BUNDLE in arguments and not bundle.exists():
        subprocess.run([sys.executable, HERE / "bundle.py", bundle], check=True)
    given = [str(bundle) if argument == BUNDLE else argument for argument in arguments]
    command = [sys.executable, str(HERE / f"{name}.py"), *given, "--results", str(results)]
    started = time.monotonic()
    print(f"\n{name}: {' '.join(given)}", flush=True)
    code = subprocess.run(command).returncode
    print(f"{name}: {time.monotonic() - started:.0f} s", flush=True)
    return json.loads(results.read_text()) if code == 0 else None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=sorted(SHORT | LONG), default=[])
    parser.add_argument("--long", action="store_true", help="the sizes that take an hour")
    parser.add_argument("--out", type=Path, default=Path("bench.json"))
    options = parser.parse_args()
    chosen = LONG if options.long else SHORT
    found: dict[str, list[dict] | None] = {}
    with tempfile.TemporaryDirectory(prefix="leuk_ray-bench-") as folder:
        for name, arguments in chosen.items():
            if not options.only or name in options.only:
                found[name] = run(name, arguments, Path(folder))
    machine = {"cores": os.cpu_count(), "machine": platform.machine(), "load": os.getloadavg()}
    options.out.write_text(json.dumps({"machine": machine, "found": found}, indent=2) + "\n")
    print(f"\n{table([result for results in found.values() for result in results or []])}")
    failed = [name for name, results in found.items() if results is None]
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
