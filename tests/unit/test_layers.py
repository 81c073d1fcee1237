"""Imports point down only: the core is imported, and used, without Ray."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "leuk_ray"
CORE = [
    "settings", "errors", "locations", "parsing", "storage", "hashes", "manifest",
    "images.colour", "images.decoding",
    "images.headers", "images.storage", "inference.files", "inference.answers",
    "augment.keys", "augment.policies",
    "augment.draws", "augment.stain", "augment.settings", "bundle", "registry",
    "config",
    "datasets.layouts.catalogue", "datasets.layouts.c_nmc", "datasets.layouts.all_idb",
    "datasets.layouts.folders", "datasets.layouts.manifest",
    "datasets.synthetic", "datasets.prepared", "datasets.groups",
    "datasets.audit", "datasets.audit_page", "datasets.shortcuts", "datasets.splits",
    "datasets.holdout", "datasets.decoding", "datasets.near_duplicates", "datasets.slides",
    "datasets.correlation",
    "datasets.synthetic_fields",
    "datasets.cropping", "datasets.plan", "datasets.feeds", "datasets.host_cache",
    "datasets.staging",
    "models.settings", "models.attention", "models.multi_attention", "models.preprocess",
    "models.zoo", "models.weights", "models.network", "models.se_cnn", "models.alexnet",
    "models.summary", "models.ensemble", "inference.gradcam", "inference.explain",
    "augment.gallery",
    "pages",
    "inference.engines", "inference.classifier", "inference.scope", "inference.decide",
    "inference.onnx_export", "inference.onnx_graph", "inference.check",
    "evaluation.metrics", "evaluation.sources", "evaluation.subjects", "evaluation.formats",
    "evaluation.intervals", "evaluation.figures", "evaluation.report", "evaluation.repeats",
    "evaluation.decisions", "evaluation.probabilities", "evaluation.paired",
    "evaluation.checklist", "evaluation.published", "model_card", "baselines",
    "datasets.datasheet", "inference.challenge",
    "training.settings", "training.loop", "training.plateau", "training.state",
    "training.collective", "training.cells", "training.learner", "training.losses",
    "training.schedule", "training.validation", "device",
]  # fmt: skip
DRIVERS = (
    "training.trainer",
    "training.record",
    "serving",
    "training.attempts",
    "runs",
    "experiments",
    "judge",
    "calibrate",
    "compare",
    "prediction",
    "pool",
    "demo",
    "tuning",
    "cli",
    "commands",
    "cluster",
    "preflight",
    "submit",
)


def test_core_imports_without_ray():
    code = f"""
import sys
sys.modules["ray"] = None  # any import of ray now fails
import importlib
for name in {CORE!r}:
    importlib.import_module("leuk_ray." + name)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", CORE)
def test_core_imports_no_driver(name: str):
    tree = ast.parse((PACKAGE / f"{name.replace('.', '/')}.py").read_text())
    imported = {
        node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module
    }
    above = tuple(f"leuk_ray.{driver}." for driver in DRIVERS)
    assert not [module for module in imported if f"{module}.".startswith(above)]


def test_settings_import_without_torch_and_ray():
    """A misspelt setting is told at once, not after ten seconds of imports."""
    without = "import sys; sys.modules['torch'] = sys.modules['ray'] = None"
    code = f"{without}; import leuk_ray.recipes.recipe, leuk_ray.tuning.settings"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def test_command_line_imports_nothing_heavy():
    heavy = ("torch", "ray", "numpy")
    code = f"import sys, leuk_ray.cli.main; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "[]", done.stderr
