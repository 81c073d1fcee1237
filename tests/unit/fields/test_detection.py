"""Cells found in rendered fields, and the scale that red cells give."""

import numpy as np
import pytest
from scipy.ndimage import rotate
from skimage.color import hsv2rgb, rgb2hsv

from leuk_ray.fields.annotated import AnnotatedCell
from leuk_ray.fields.detector import Scale
from leuk_ray.fields.field import FieldSettings, examine
from leuk_ray.fields.matching import match
from leuk_ray.fields.scale import estimate_scale
from leuk_ray.fields.stain import shrink
from leuk_ray.fields.stain_detector import StainDetector
from tests.support.small_fields import PIXELS_PER_UM, box, rendered

SETTINGS = FieldSettings()


def test_every_cell_of_rendered_fields_is_found_once():
    fields = {str(number): rendered(number) for number in range(3)}
    found = {name: examine(name, pixels, SETTINGS) for name, (pixels, _) in fields.items()}
    assert {field.status for field in found.values()} == {"ok"}
    annotated = {
        name: [AnnotatedCell(box(center)) for center in centers]
        for name, (_, centers) in fields.items()
    }
    counts = match({name: field.cells for name, field in found.items()}, annotated)
    assert (counts.found, counts.cells, counts.detections) == (15, 15, 15)
    assert counts.recall == counts.precision == 1
    for field in found.values():
        for cell in field.cells:
            assert 0 <= cell.x0 < cell.x1 <= field.width
            assert 0 <= cell.y0 < cell.y1 <= field.height
            assert 0.3 < cell.score <= 1
            assert 30 < cell.area < 160
            assert not cell.clump


@pytest.mark.parametrize("factor", [0.5, 2.0])
def test_the_scale_follows_the_magnification(factor: float):
    pixels, _ = rendered(0)
    whole = estimate_scale(pixels)
    assert whole is not None
    assert whole.pixels_per_um == pytest.approx(PIXELS_PER_UM, rel=0.15)
    assert 0.2 < whole.uncertainty < 0.4
    other = shrink(pixels, factor) if factor < 1 else pixels.repeat(2, 0).repeat(2, 1)
    scaled = estimate_scale(other)
    assert scaled is not None
    assert scaled.pixels_per_um == pytest.approx(factor * whole.pixels_per_um, rel=0.1)


@pytest.mark.parametrize(("degrees", "gain"), [(-10, 0.8), (10, 1.2)])
def test_hue_and_brightness_change_no_count(degrees: float, gain: float):
    pixels, centers = rendered(1)
    hsv = rgb2hsv(pixels)
    hue = (hsv[..., :1] + degrees / 360) % 1
    turned = 255 * gain * hsv2rgb(np.concatenate([hue, hsv[..., 1:]], axis=-1))
    changed = np.clip(np.rint(turned), 0, 255).astype(np.uint8)
    assert len(examine("field", changed, SETTINGS).cells) == len(centers)


def smear(nuclei: list[tuple[int, int, float]], side: int = 500) -> np.ndarray:
    """A pale field with round nuclei: y, x, radius in pixels."""
    pixels = np.full((side, side + 100, 3), (228, 214, 222), np.uint8)
    rows, columns = np.mgrid[:side, : side + 100]
    for y, x, radius in nuclei:
        pixels[np.hypot(rows - y, columns - x) < radius] = (110, 60, 150)
    return pixels


def detect(pixels: np.ndarray) -> list:
    return StainDetector().detect(pixels, Scale(10.0))


def test_touching_nuclei_are_two_and_lobes_are_one():
    assert len(detect(smear([(250, 200, 45), (250, 280, 45)]))) == 2  # 9 um wide, touching
    assert len(detect(smear([(250, 250, 22), (250, 285, 22), (280, 270, 22)]))) == 1  # 4.4 um
    # Platelets are none: 3 um.
    assert detect(smear([(100, 100, 15), (250, 250, 15)])) == []


def test_a_clump_is_flagged_and_not_counted_as_a_cell():
    ring = [(250 + 60 * y, 250 + 60 * x, 90.0) for y in (-1, 0, 1) for x in (-1, 0, 1)]
    (clump,) = detect(smear(ring))
    assert clump.clump
    assert clump.area > 400
    counts = match({"field": [clump]}, {"field": [AnnotatedCell((200, 200, 300, 300))]})
    assert (counts.found, counts.cells, counts.detections) == (0, 1, 0)


def test_a_nucleus_at_the_border_says_so():
    (cut,) = detect(smear([(0, 300, 50)]))
    assert (cut.y0, cut.touches_border) == (0, True)
    (inner,) = detect(smear([(250, 300, 50)]))
    assert not inner.touches_border


def test_a_field_turned_has_the_same_cells():
    pixels, centers = rendered(2)
    turned = np.ascontiguousarray(rotate(pixels, 90))
    assert len(examine("field", turned, SETTINGS).cells) == len(centers)
