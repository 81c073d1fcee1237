"""What must be importable without what. Which package may import which is in pyproject.toml."""

import subprocess
import sys

from leuk_ray.utils.extras import MODULES

OPTIONAL = tuple(module for modules in MODULES.values() for module in modules)


def imports(code: str, without: tuple[str, ...]) -> None:
    """Run code in a new process where importing any of `without` fails."""
    blocked = f"import sys; sys.modules.update(dict.fromkeys({without}))\n"
    command = [sys.executable, "-c", blocked + code]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


def test_the_core_imports_without_ray_and_training_without_extras():
    """Every module of the core; `prepare` is the one of its package that runs on Ray."""
    imports(
        """
import importlib, pkgutil, leuk_ray
core = "recipes inference fields bundles evaluation models augment datasets io utils".split()
names = ["leuk_ray.training.loop"]
for package in core:
    path = [f"{leuk_ray.__path__[0]}/{package}"]
    names += [found.name for found in pkgutil.walk_packages(path, f"leuk_ray.{package}.")]
names.remove("leuk_ray.datasets.prepare")
assert len(names) > 80, names
for name in names:
    importlib.import_module(name)
del sys.modules["ray"]
for name in ("predict", "train", "evaluate", "compare", "calibrate", "demo"):
    importlib.import_module(f"leuk_ray.workflows.{name}")
import leuk_ray.experiments.experiment
""",
        ("ray", *OPTIONAL),
    )


def test_settings_import_without_torch_and_ray():
    """A misspelt setting is reported at once, not after ten seconds of imports."""
    imports("import leuk_ray.recipes.recipe, leuk_ray.tuning.settings", ("ray", "torch"))


def test_command_line_imports_nothing_heavy():
    heavy = ("torch", "ray", "numpy")
    code = f"import sys, leuk_ray.cli.main; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "[]", done.stderr
