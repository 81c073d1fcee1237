import io
import struct

import numpy as np
import pytest
from PIL import Image

from leuk_ray import images
from leuk_ray.images import BadImageError, StorageSettings


def encode(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def cell(size: int = 450, radius: int = 90) -> np.ndarray:
    y, x = np.mgrid[:size, :size] - (size - 1) / 2
    pixels = np.zeros((size, size, 3), np.uint8)
    pixels[y**2 + x**2 < radius**2] = (140, 60, 160)
    return pixels


def test_center_keeps_the_scale_of_450_and_600_pixel_files():
    for size in (450, 600):
        stored = images.read(encode(Image.fromarray(cell(size)), "BMP"), StorageSettings())
        assert stored.shape == (300, 300, 3)
        assert (stored.max(axis=2) > 0).sum() == (cell(size).max(axis=2) > 0).sum()


def test_tight_fills_the_frame_and_full_keeps_everything():
    data = encode(Image.fromarray(cell()))
    tight = images.read(data, StorageSettings(crop="tight"))
    full = images.read(data, StorageSettings(crop="full"))
    share = [(pixels.max(axis=2) > 0).mean() for pixels in (full, tight)]
    assert share[0] == pytest.approx(np.pi * 90**2 / 450**2, rel=0.05)
    assert share[1] == pytest.approx(np.pi / 4 / 1.1**2, rel=0.05)


def test_tight_of_a_black_image_is_black():
    data = encode(Image.fromarray(np.zeros((64, 64, 3), np.uint8)))
    assert not images.read(data, StorageSettings(size=32, crop="tight")).any()


@pytest.mark.parametrize("kind", ["BMP", "PNG", "TIFF"])
def test_lossless_containers_give_the_same_pixels(kind: str):
    assert np.array_equal(images.decode(encode(Image.fromarray(cell()), kind)), cell())


def test_greyscale_palette_and_opaque_alpha_become_rgb():
    grey = Image.fromarray(cell()).convert("L")
    for image in (grey, grey.convert("P"), Image.fromarray(cell()).convert("RGBA")):
        assert images.decode(encode(image)).shape == (450, 450, 3)


def test_exif_orientation_is_applied():
    wide = Image.fromarray(cell()[:200])
    exif = wide.getexif()
    exif[0x0112] = 6
    assert images.decode(encode(wide, "JPEG", exif=exif)).shape == (450, 200, 3)


def animation(kind: str) -> bytes:
    frames = [Image.fromarray(cell(64, r)) for r in (10, 20)]
    return encode(frames[0], kind, save_all=True, append_images=frames[1:])


def broken_pages() -> bytes:
    """A TIFF whose first page says that the next begins inside the header."""
    data = bytearray(encode(Image.fromarray(cell(64)), "TIFF"))
    (first,) = struct.unpack_from("<I", data, 4)
    (num_tags,) = struct.unpack_from("<H", data, first)
    struct.pack_into("<I", data, first + 2 + 12 * num_tags, 3)
    return bytes(data)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "not_an_image"),
        (encode(Image.fromarray(cell()), "BMP")[:5000], "truncated"),
        (encode(Image.fromarray(cell()), "PNG")[:400], "truncated"),
        (encode(Image.fromarray(cell()), "JPEG")[:3000], "truncated"),
        (encode(Image.new("CMYK", (8, 8)), "JPEG"), "pixel_type"),
        (encode(Image.new("I;16", (8, 8))), "pixel_type"),
        (encode(Image.new("RGBA", (8, 8), (9, 9, 9, 100))), "transparent"),
        (animation("TIFF"), "several_frames"),
        (animation("PNG"), "several_frames"),
        (animation("WEBP"), "several_frames"),
        (broken_pages(), "several_frames"),
        (encode(Image.new("1", (30_000, 30_000))), "too_large"),
        (bytes(images.MAX_BYTES + 1), "too_large"),
    ],
    ids=lambda value: value if isinstance(value, str) else "data",
)
def test_unusable_bytes_are_named(data: bytes, reason: str):
    with pytest.raises(BadImageError) as caught:
        images.decode(data)
    assert caught.value.reason == reason
    assert caught.value.detail


def test_a_long_thin_picture_makes_no_huge_square():
    data = encode(Image.new("L", (100_000, 320), 200))
    with pytest.raises(BadImageError, match="far longer than wide") as caught:
        images.read(data, StorageSettings(crop="tight"))
    assert caught.value.reason == "too_large"
