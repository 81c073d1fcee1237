import io
import struct
import time
from typing import Literal

import numpy as np
import pytest
from PIL import Image, ImageCms

from leuk_ray.datasets import images
from leuk_ray.datasets.images import BadImageError, StorageSettings
from tests.support.image_files import ADOBE, SRGB, bmp32, png16, profile, run_length_bmp, tiff


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


def noise(*shape: int, top: int = 256) -> np.ndarray:
    return np.random.default_rng(0).integers(0, top, shape)


@pytest.mark.parametrize("top", [256, 1024, 4096, 65536])
@pytest.mark.parametrize("channels", [1, 3])
def test_sixteen_bits_are_refused_whatever_part_of_them_the_camera_fills(top: int, channels: int):
    samples = noise(16, 16, channels, top=top).astype(np.uint16)
    opaque = np.full((16, 16, 1), 65535, np.uint16)
    files = [tiff(samples), png16(samples), png16(np.concatenate([samples, opaque], axis=2))]
    for data in [*files, tiff(samples, planar=True)] if channels == 3 else files:
        with pytest.raises(BadImageError, match="16 bits a sample") as caught:
            images.decode(data)
        assert caught.value.reason == "pixel_type"


def test_eight_bits_in_planes_and_in_colour_tables_of_both_depths_are_read():
    samples = noise(16, 16, 3).astype(np.uint8)
    for planar in (False, True):
        assert np.array_equal(images.decode(tiff(samples, planar=planar)), samples)
    index, table = noise(16, 16, 1).astype(np.uint8), noise(3, 256)
    for depth in (1, 257):  # stored as 0..255, and as the standard wants it, 0..65535
        data = tiff(index, t262=[3], t320=(depth * table).ravel().tolist())
        assert np.array_equal(images.decode(data), table.T[index[:, :, 0]])


def test_signed_samples_and_reduced_previews_are_refused():
    samples = noise(16, 16, 1).astype(np.uint8)
    assert np.array_equal(images.decode(tiff(samples))[:, :, :1], samples)
    refused = (
        (tiff(samples, t339=[2]), "pixel_type"),
        (tiff(samples, t254=[1]), "unsupported_format"),
    )
    for data, reason in refused:
        with pytest.raises(BadImageError) as caught:
            images.decode(data)
        assert caught.value.reason == reason


def test_what_cameras_and_paint_programs_write_is_an_ordinary_picture():
    picture = cell(64)
    first, other = Image.fromarray(picture), Image.fromarray(255 - picture)
    mpo = encode(first, "MPO", save_all=True, append_images=[other], quality=95)
    assert Image.open(io.BytesIO(mpo)).format == "MPO"
    assert images.decode_picture(mpo).format == "JPEG"
    assert np.array_equal(images.decode(mpo), images.decode(encode(first, "JPEG", quality=95)))
    grey = first.convert("LA")
    assert np.array_equal(images.decode(encode(grey)), np.asarray(grey.convert("RGB")))
    for alpha in (0, 255):
        assert np.array_equal(images.decode(bmp32(picture, alpha)), picture)
    with pytest.raises(BadImageError, match="transparent"):
        images.decode(bmp32(picture, 100))


def test_jpegs_have_the_pixels_of_pillow():
    picture = noise(40, 50, 3).astype(np.uint8)
    for options in ({}, {"progressive": True}, {"subsampling": 0}, {"keep_rgb": True}):
        for image in (Image.fromarray(picture), Image.fromarray(picture).convert("L")):
            data = encode(image, "JPEG", **(options if image.mode == "RGB" else {}))
            expected = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
            assert np.array_equal(images.decode(data), expected)


@pytest.mark.parametrize("progressive", [False, True])
def test_a_jpeg_damaged_in_the_middle_is_refused(progressive: bool):
    good = encode(Image.fromarray(cell()), "JPEG", quality=95, progressive=progressive)
    middle = len(good) // 2
    assert images.decode(good).shape == (450, 450, 3)
    damaged = {
        "a piece is missing": good[:middle] + good[middle + 200 :],
        "cut off, then ended": good[:middle] + b"\xff\xd9",
        "zeros": good[:middle] + bytes(200) + good[middle + 200 :],
    }
    for what, data in damaged.items():
        Image.open(io.BytesIO(data)).load()  # Pillow says nothing
        with pytest.raises(BadImageError) as caught:
            images.decode(data)
        assert caught.value.reason == "truncated", what


def test_a_progressive_jpeg_without_its_last_scan_is_refused():
    good = encode(Image.fromarray(cell()), "JPEG", progressive=True)
    with pytest.raises(BadImageError, match="last scans"):
        images.decode(good[: good.rindex(b"\xff\xda")] + b"\xff\xd9")
    assert images.decode(good + b"\xff\xda" * 100).any()  # what follows the end counts for nothing


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF"])
def test_colours_of_another_profile_become_srgb(kind: str):
    """Against the definition: through linear light and XYZ, by hand."""
    pixels = np.zeros((32, 32, 3), np.uint8)
    pixels[8:24, 8:24] = (120, 70, 160)
    options = {"quality": 100, "subsampling": 0} if kind == "JPEG" else {}
    data = encode(
        Image.fromarray(pixels), kind, icc_profile=profile(b"RGB ", 2.2, ADOBE), **options
    )
    picture = images.decode_picture(data)
    light = np.linalg.solve(np.transpose(SRGB), np.transpose(ADOBE) @ (pixels[16, 16] / 255) ** 2.2)
    expected = 255 * np.where(
        light < 0.0031308, 12.92 * light, 1.055 * light.clip(0) ** (1 / 2.4) - 0.055
    )
    assert picture.converted
    assert np.abs(picture.pixels[16, 16] - expected).max() < 2
    assert np.abs(expected - pixels[16, 16]).max() > 8, "as stored it would be another colour"
    assert not picture.pixels[0, 0].any(), "black stays black"
    assert np.array_equal(images.read(data, StorageSettings(size=32)), picture.pixels)


def test_srgb_by_any_name_and_grey_profiles():
    picture = Image.fromarray(noise(16, 16, 3).astype(np.uint8))
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    assert np.array_equal(images.decode(encode(picture, icc_profile=srgb)), np.asarray(picture))
    grey = picture.convert("L")
    linear = images.decode(encode(grey, icc_profile=profile(b"GRAY", 1.0)))
    assert linear.mean() > np.asarray(grey).mean() + 20
    assert np.array_equal(linear[:, :, 0], linear[:, :, 2])
    as_rgb = images.decode(encode(grey, icc_profile=srgb))
    assert np.array_equal(as_rgb, np.asarray(grey.convert("RGB")))


@pytest.mark.parametrize("broken", [b"no profile", profile(b"GRAY", 1.0)])
def test_a_profile_that_tells_nothing_is_a_rejection(broken: bytes):
    data = encode(Image.fromarray(cell(16)), "TIFF", tiffinfo={34675: broken})
    with pytest.raises(BadImageError) as caught:
        images.decode(data)
    assert caught.value.reason == "colour_profile"


@pytest.mark.parametrize(
    ("data", "named"),
    [
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "HEIC"),
        (b"\0\0\0\x1cftypavif", "AVIF"),
        (b"\0\0\0\x0cjP  \r\n\x87\n", "JPEG 2000"),
        (encode(Image.new("RGB", (4, 4)), "GIF"), "GIF"),
        (b"ZISRAWFILE", "CZI"),
        (bytes(128) + b"DICM", "DICOM"),
        (tiff(np.zeros((4, 4, 1), np.float32), t339=[3], t258=[64]), "TIFF"),
    ],
    ids=lambda value: value if isinstance(value, str) else "data",
)
def test_formats_that_are_not_read_are_named(data: bytes, named: str):
    with pytest.raises(BadImageError, match=named) as caught:
        images.decode(data)
    assert caught.value.reason == "unsupported_format"


def scans(number: int) -> bytes:
    """A progressive JPEG whose last scan, a refinement, comes again and again."""
    good = encode(Image.fromarray(cell()), "JPEG", progressive=True)
    last = good.rindex(b"\xff\xda")
    return good[:last] + number * good[last:-2] + b"\xff\xd9"


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (run_length_bmp(31_999_999, 1), "too_long"),
        (run_length_bmp(4000, 4000), "too_large"),
        (scans(5000), "too_slow"),
        (encode(Image.new("L", (100_000, 320), 200)), "too_long"),
        (encode(Image.new("1", (5700, 5700))), "too_large"),
    ],
    ids=["run-length line", "run-length field", "scans", "long", "large"],
)
def test_small_files_that_cost_much_are_refused_by_their_header(data: bytes, reason: str):
    start = time.process_time()
    with pytest.raises(BadImageError) as caught:
        images.decode(data)
    assert caught.value.reason == reason
    assert time.process_time() - start < 0.1


def test_run_length_bmps_of_a_cell_are_read():
    rows = b"".join(bytes((225, row % 256, 225, 7, 0, 0)) for row in range(450))
    blue = images.decode(run_length_bmp(450, 450, rows))[:, :, 2]
    assert np.array_equal(blue[::-1, 0], np.arange(450) % 256)
    assert (blue[:, 225:] == 7).all()


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


@pytest.mark.parametrize("crop", ["tight", "pad"])
def test_a_long_thin_picture_makes_no_huge_square(crop: Literal["tight", "pad"]):
    data = encode(Image.new("L", (20_000, 1300), 200))
    with pytest.raises(BadImageError, match="far longer than wide") as caught:
        images.read(data, StorageSettings(crop=crop))
    assert caught.value.reason == "too_large"


@pytest.mark.parametrize("shape", [(60, 80), (80, 60), (70, 70)])
def test_pad_keeps_shapes_and_mirrors_at_the_borders(shape: tuple[int, int]):
    pixels = noise(*shape, 3).astype(np.uint8)
    data, side = encode(Image.fromarray(pixels)), max(shape)
    padded = images.read(data, StorageSettings(size=side, crop="pad"))
    top, left = (side - shape[0]) // 2, (side - shape[1]) // 2
    assert np.array_equal(padded[top : side - top, left : side - left], pixels)
    assert np.array_equal(padded[:top], padded[top : 2 * top][::-1])
    assert np.array_equal(padded[:, :left], padded[:, left : 2 * left][:, ::-1])
    squeezed = images.read(data, StorageSettings(size=side, crop="full"))
    assert np.array_equal(squeezed, padded) == (shape == (70, 70))
