"""What users import from `leuk_ray` itself: these names, loaded when they are used."""

import subprocess
import sys
from pathlib import Path

import pytest

import leuk_ray
from tests.support.serving_bundles import cells, encode, write_small_bundle

SURFACE = ["Classifier", "PreparedDataset", "UserError", "load_bundle", "load_recipe"]


def test_the_surface_is_these_names():
    assert leuk_ray.__all__ == SURFACE
    assert set(SURFACE) <= set(dir(leuk_ray))
    for name in SURFACE:
        assert getattr(leuk_ray, name).__doc__, name
    with pytest.raises(AttributeError, match="no attribute 'train'"):
        _ = leuk_ray.train  # pyright: ignore[reportAttributeAccessIssue]


def test_importing_the_package_imports_no_part_of_it():
    code = (
        "import sys, leuk_ray; before = {m for m in sys.modules if m.split('.')[0] == 'leuk_ray'};"
        "leuk_ray.UserError; print(before, 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "{'leuk_ray'} False", done.stderr


def test_a_bundle_answers_in_three_lines(tmp_path: Path):
    bundle = write_small_bundle(tmp_path / "bundle")
    classifier = leuk_ray.Classifier.load(bundle)
    (answer,) = classifier.predict([("cell.png", encode(cells(1)[0]))])
    assert 0 <= answer.as_dict()["probability"] <= 1, answer
    with pytest.raises(leuk_ray.UserError):
        leuk_ray.load_bundle(tmp_path / "nothing")
