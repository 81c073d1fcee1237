"""What is no field of a smear gets a reason, and no cells."""

import time

import numpy as np
import pytest
import sklearn.datasets
from scipy.ndimage import gaussian_filter
from skimage import data

from leuk_ray.fields.field import FieldSettings, examine, read_field
from leuk_ray.fields.quality import REASONS
from leuk_ray.fields.stain import level_percentiles, shrink
from tests.support.small_fields import PIXELS_PER_UM, rendered
from tests.unit.fields.test_detection import smear


def reasons(pixels: np.ndarray, pixels_per_um: float | None = None) -> tuple[str, ...]:
    field = examine("field", pixels, FieldSettings(pixels_per_um=pixels_per_um))
    assert (field.status == "refused") == bool(field.reasons)
    assert not field.cells or field.status == "ok"
    assert set(field.reasons) <= set(REASONS)
    return field.reasons


PHOTOGRAPHS = {
    "astronaut": data.astronaut,
    "coffee": data.coffee,
    "cat": data.chelsea,
    "china": lambda: sklearn.datasets.load_sample_image("china.jpg"),
    "flower": lambda: sklearn.datasets.load_sample_image("flower.jpg"),
    "grey": lambda: np.stack([data.camera()] * 3, axis=-1),
}


@pytest.mark.parametrize("name", PHOTOGRAPHS)
def test_photographs_are_no_smears(name: str):
    pixels = np.ascontiguousarray(PHOTOGRAPHS[name]())
    assert reasons(pixels) == ("not_a_smear",)
    assert reasons(pixels, 10.0) == ("not_a_smear",)


def test_exposure_and_focus():
    pixels, _ = rendered(0)
    assert reasons(pixels) == ()
    bright = np.clip(2.0 * pixels.astype(float), 0, 255).astype(np.uint8)
    assert reasons(bright) == ("overexposed",)
    assert reasons((0.3 * pixels).astype(np.uint8)) == ("underexposed",)
    for um in (0.8, 1.5):
        blurred = gaussian_filter(pixels, (um * PIXELS_PER_UM, um * PIXELS_PER_UM, 0))
        assert reasons(blurred, PIXELS_PER_UM) == ("out_of_focus",)
    # Coarse, but in focus.
    assert reasons(shrink(pixels, 2.2 / PIXELS_PER_UM), 2.2) == ()


def test_a_given_scale_must_be_that_of_the_red_cells():
    pixels, _ = rendered(0)
    assert reasons(pixels, PIXELS_PER_UM) == ()
    assert reasons(pixels, 3 * PIXELS_PER_UM) == ("scale_differs",)
    assert reasons(pixels, PIXELS_PER_UM / 3) == ("scale_differs",)


def test_without_red_cells_the_scale_must_be_given():
    nuclei = smear([(150, 150, 45), (350, 400, 45)])
    assert reasons(nuclei) == ("scale_unknown",)
    assert reasons(nuclei, 10.0) == ()
    assert reasons(nuclei, 1.0) == ("too_coarse",)
    assert reasons(nuclei, 30.0) == ("too_small",)


def test_an_empty_field_is_empty_and_clumps_are_none():
    empty, _ = rendered(3, cells=0)
    field = examine("field", empty, FieldSettings())
    assert (field.status, field.reasons, field.cells) == ("empty", (), ())
    clump = [(250 + 60 * y, 300 + 60 * x, 90.0) for y in (-1, 0, 1) for x in (-1, 0, 1)]
    assert reasons(smear(clump), 10.0) == ("clumps",)


def test_a_crop_of_one_cell_is_no_field():
    pixels, centers = rendered(0)
    x, y = min(centers, key=lambda center: abs(center[0] - 650) + abs(center[1] - 486))
    crop = np.ascontiguousarray(pixels[y - 150 : y + 150, x - 150 : x + 150])
    assert reasons(crop, PIXELS_PER_UM) == ("single_cell",)


def test_a_file_that_cannot_be_read_is_a_refused_field():
    field, pixels = read_field("notes.txt", b"not an image", FieldSettings())
    assert (field.status, field.reasons, pixels) == ("refused", ("unreadable",), None)
    assert field.detail is not None
    assert field.detail.startswith("not_an_image")


def test_an_image_of_countless_specks_takes_bounded_time():
    """A service decodes what anybody sends: specks are dropped before they are looked at singly."""
    rows, columns = np.mgrid[:1200, :1200]
    speck = np.hypot(rows % 14 - 7, columns % 14 - 7) < 5
    for color in ((214, 160, 168), (110, 60, 150)):
        pixels = np.full((1200, 1200, 3), (228, 214, 222), np.uint8)
        pixels[speck] = color
        start = time.process_time()
        field = examine("field", pixels, FieldSettings(pixels_per_um=5.0))
        assert field.status != "ok"
        assert time.process_time() - start < 5


def test_percentiles_of_levels_are_those_of_numpy():
    numbers = np.random.default_rng(0)
    for shape in ((1, 1, 3), (2, 3, 3), (40, 31, 3)):
        pixels = numbers.integers(0, 256, shape, np.uint8)
        for percent in (0, 50, 95, 100):
            expected = np.percentile(pixels.reshape(-1, 3), percent, axis=0)
            np.testing.assert_allclose(level_percentiles(pixels, percent), expected)
