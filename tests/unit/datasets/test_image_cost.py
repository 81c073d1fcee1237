"""Which files decode in a time that their header bounds."""

from __future__ import annotations

import io
import resource
import struct
import time
import zlib
from contextlib import suppress

import numpy as np
import pytest
from PIL import Image

from leuk_ray.datasets import images
from leuk_ray.datasets.images import BadImageError, StorageSettings, plain_pixels
from tests.support.image_files import ADOBE, profile, run_length_bmp, tiff

COLOUR, GREY = profile(b"RGB ", 2.2, ADOBE), profile(b"GRAY", 2.2)
NOISE = np.random.default_rng(0).integers(0, 256, (90, 120, 3), np.uint8)


def encode(kind: str, mode: str = "RGB", **options) -> bytes:
    out = io.BytesIO()
    Image.fromarray(NOISE).convert(mode).save(out, kind, **options)
    return out.getvalue()


def chunk(name: bytes, data: bytes = b"") -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


PLAIN = {
    "BMP": encode("BMP"),
    "BMP, grey": encode("BMP", "L"),
    "PNG": encode("PNG"),
    "PNG, palette and profile": encode("PNG", "P", icc_profile=COLOUR),
    "JPEG": encode("JPEG"),
    "JPEG, grey with a profile": encode("JPEG", "L", icc_profile=GREY),
    "TIFF": encode("TIFF"),
    "TIFF, LZW": encode("TIFF", compression="tiff_lzw"),
    "TIFF, deflate": encode("TIFF", compression="tiff_adobe_deflate"),
}
PNG, JPEG = PLAIN["PNG"], PLAIN["JPEG"]
FRAME = JPEG.index(b"\xff\xc0")
OTHER = {
    "WebP": encode("WEBP"),
    "progressive JPEG": encode("JPEG", progressive=True),
    "TIFF, JPEG": encode("TIFF", compression="jpeg"),
    "TIFF, two pages": encode("TIFF", save_all=True, append_images=[Image.fromarray(NOISE)]),
    "run-length BMP": run_length_bmp(90, 120),
    "JPEG of many markers": JPEG[:2] + 100 * b"\xff\xfe\0\2" + JPEG[2:],
    "JPEG of two frames": JPEG[:FRAME] + JPEG[FRAME : FRAME + 19] + JPEG[FRAME:],
    "PNG of many chunks": PNG[:33] + 100 * chunk(b"teXt") + PNG[33:],
    "PNG of many chunks at its end": PNG[:-12] + 100 * chunk(b"teXt") + PNG[-12:],
    "PNG of two headers": PNG[:33] + PNG[8:33] + PNG[33:],
    "GIF": encode("GIF"),
    "nothing": b"",
}


@pytest.mark.parametrize("data", PLAIN.values(), ids=PLAIN.keys())
def test_ordinary_files_are_told_with_their_pixels(data: bytes):
    assert plain_pixels(data) == NOISE.shape[0] * NOISE.shape[1]
    assert images.decode(data).shape == NOISE.shape


@pytest.mark.parametrize("data", OTHER.values(), ids=OTHER.keys())
def test_others_are_not_told(data: bytes):
    assert plain_pixels(data) is None


@pytest.mark.filterwarnings("ignore")
def test_changed_headers_cost_bounded_time_and_memory():
    """Of 5,000 files; what is told takes 0.1 s for 4 million pixels, others what a process has."""
    generator = np.random.default_rng(0)
    whole = [*PLAIN.values(), tiff(NOISE), *OTHER.values()]
    told, before = 0, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for number in range(5000):
        data = bytearray(whole[number % len(whole)])
        for _ in range(int(generator.integers(1, 4)) if data else 0):
            data[int(generator.integers(min(len(data), 200)))] = int(generator.integers(256))
        pixels = plain_pixels(bytes(data))
        plain = pixels if pixels is not None and pixels <= 2**23 else None
        told += plain is not None
        started = time.thread_time()
        with suppress(BadImageError):
            images.read(bytes(data), StorageSettings(size=64, crop="full"))
        limit = 2 if plain is None else 0.05 + 0.1 * max(plain, 2**20) / 2**22
        assert time.thread_time() - started < limit, number
    assert 1500 < told < 4000
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 700 * 2**10, "KiB; what a process may take is 1 GiB"
