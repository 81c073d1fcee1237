"""What users import from `leuk_ray` itself: these names, loaded when they are used."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

import leuk_ray
from leuk_ray.inference.predictions import Failure, Prediction
from tests.support.serving_bundles import cells, encode, write_small_bundle

SURFACE = [
    "Classifier",
    "Client",
    "PreparedDataset",
    "UserError",
    "crossval",
    "detect",
    "evaluate",
    "load_bundle",
    "load_recipe",
    "prepare",
    "train",
    "tune",
]


def test_the_surface_is_these_names():
    assert leuk_ray.__all__ == SURFACE
    assert set(SURFACE) <= set(dir(leuk_ray))
    for name in SURFACE:
        assert getattr(leuk_ray, name).__doc__, name
    with pytest.raises(AttributeError, match="no attribute 'serve'"):
        _ = leuk_ray.serve  # pyright: ignore[reportAttributeAccessIssue]


def test_importing_the_package_imports_no_part_of_it():
    code = (
        "import sys, leuk_ray; before = {m for m in sys.modules if m.split('.')[0] == 'leuk_ray'};"
        "leuk_ray.UserError; print(before, 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "{'leuk_ray'} False", done.stderr


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> leuk_ray.Classifier:
    return leuk_ray.Classifier.load(
        str(write_small_bundle(tmp_path_factory.mktemp("b") / "bundle"))
    )


def test_images_of_every_kind_get_the_same_answer(classifier, tmp_path: Path):
    pixels = cells(1)[0]
    data = encode(pixels)
    path = tmp_path / "cell.png"
    path.write_bytes(data)
    kinds = {
        "image 0": [data, pixels, PIL.Image.fromarray(pixels), PIL.Image.open(path)],
        "cell.png": [path, str(path), tmp_path, str(tmp_path / "*.png"), ("cell.png", data)],
    }
    for name, images in kinds.items():
        for image in images:
            for given in (image, [image]):
                (answer,) = classifier.predict(given)
                assert answer.name == name, type(image)
                assert answer.probability == classifier.predict(data)[0].probability, type(image)
    several = classifier.predict([path, b"no image", np.stack([pixels, pixels])[0], path])
    assert [type(one) for one in several] == [Prediction, Failure, Prediction, Prediction]
    assert len(classifier.predict(np.stack([pixels, pixels]))) == 2
    assert len(classifier.predict([])) == 0


def test_answers_are_a_table(classifier, tmp_path: Path):
    answers = classifier.predict([encode(one) for one in cells(3)] + [b"no image"])
    table = answers.to_pandas()
    assert list(table["name"]) == [f"image {number}" for number in range(4)]
    assert list(table["error"].notna()) == [False] * 3 + [True]
    assert list(table["label"][:3]) == [answer.label for answer in answers[:3]]
    assert sum(answers.counts.values()) == 4
    assert answers.counts["failed"] == 1
    assert "1 failed" in repr(answers)
    assert answers._repr_html_().startswith("<table")


def test_what_is_no_image_is_refused_by_name(classifier, tmp_path: Path):
    for given, words in (
        (str(tmp_path / "nothing.png"), "no such file"),
        ([5], "int"),
        ([np.zeros((4, 4), np.uint8)], r"uint8, 4 x 4; give RGB pixels as \(height, width, 3\)"),
    ):
        with pytest.raises(leuk_ray.UserError, match=words):
            classifier.predict(given)
    with pytest.raises(leuk_ray.UserError):
        leuk_ray.load_bundle(tmp_path / "nothing")
    with pytest.raises(leuk_ray.UserError, match="neither a bundle nor a run"):
        leuk_ray.Classifier.load(tmp_path)
