"""What users import from `leuk_ray` itself: these names, loaded when they are used."""

import hashlib
import subprocess
import sys
from pathlib import Path
from typing import Any

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
    "calibrate",
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
        "cell.png": [path, str(path), tmp_path, str(tmp_path / "*.png")],
    }
    for name, images in kinds.items():
        for image in images:
            for given in (image, [image]):
                (answer,) = classifier.predict(given)
                assert answer.name == name, type(image)
                assert answer.probability == classifier.predict(data)[0].probability, type(image)
    (named,) = classifier.predict([("mine", data)])
    assert named.name == "mine"
    several = classifier.predict((path, b"no image", np.stack([pixels, pixels])[0], path))
    assert [type(one) for one in several] == [Prediction, Failure, Prediction, Prediction]
    assert len(classifier.predict(np.stack([pixels, pixels]))) == 2
    assert len(classifier.predict([])) == 0


def test_files_of_one_name_are_told_apart(classifier, tmp_path: Path):
    data = [encode(one) for one in cells(2)]
    for number in range(2):
        (tmp_path / str(number)).mkdir()
        (tmp_path / str(number) / "1.png").write_bytes(data[number])
    both = classifier.predict((tmp_path / "0" / "1.png", tmp_path / "1" / "1.png"))
    assert [one.name for one in both] == [str(tmp_path / str(n) / "1.png") for n in range(2)]
    assert [one.sha256 for one in both] == [hashlib.sha256(one).hexdigest() for one in data]


def test_a_pil_image_is_upright_and_an_unreadable_one_is_an_item(classifier, tmp_path: Path):
    pixels = cells(1)[0]
    exif = PIL.Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees
    PIL.Image.fromarray(pixels).save(tmp_path / "turned.png", exif=exif)
    by_path, by_pil = (
        classifier.predict(one)[0]
        for one in (tmp_path / "turned.png", PIL.Image.open(tmp_path / "turned.png"))
    )
    assert by_path.probability == by_pil.probability
    assert by_path.probability != classifier.predict(pixels)[0].probability
    (tmp_path / "cut.png").write_bytes(encode(pixels)[:-200])
    bad = [PIL.Image.new("CMYK", (50, 50)), PIL.Image.open(tmp_path / "cut.png"), pixels]
    answers = classifier.predict(bad)
    assert [type(one) for one in answers] == [Failure, Failure, Prediction]
    assert answers[0].error.startswith("pixel_type: is a PIL image of mode CMYK")


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
        (None, "NoneType"),
        ([()], "a tuple is a name"),
        ("", "empty"),
        ([np.zeros((0, 0, 3), np.uint8)], "0 x 0 x 3"),
        ([np.zeros((4, 4), np.uint8)], r"uint8, 4 x 4; give RGB pixels as \(height, width, 3\)"),
    ):
        with pytest.raises(leuk_ray.UserError, match=words):
            classifier.predict(given)
    with pytest.raises(leuk_ray.UserError, match="no image was given"):
        leuk_ray.detect([], tmp_path / "found")
    bundle = classifier.bundle.path
    refusals: list[tuple[dict[str, Any], str]] = [
        ({"device": "gpu0"}, "device 'gpu0': PyTorch finds none here"),
        ({"device": "cuda:99"}, "device 'cuda:99': PyTorch finds none here"),
        ({"engine": "onx"}, "engine 'onx' is not known; did you mean onnx?"),
        ({"trusted": str(tmp_path / "keys")}, "keys: no such file"),
    ]
    for options, words in refusals:
        with pytest.raises(leuk_ray.UserError, match=words) as caught:
            leuk_ray.Classifier.load(bundle, **options)
        assert "\n" not in str(caught.value)
    with pytest.raises(leuk_ray.UserError):
        leuk_ray.load_bundle(tmp_path / "nothing")
    with pytest.raises(leuk_ray.UserError, match="neither a bundle nor a run"):
        leuk_ray.Classifier.load(tmp_path)
