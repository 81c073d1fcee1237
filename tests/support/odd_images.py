"""Image files with odd headers, made from a seed, and what reading them may cost."""

from __future__ import annotations

import io
import random
import resource
import struct
import time
import zlib
from dataclasses import dataclass, field

import numpy as np
from PIL import Image

from leuk_ray.datasets import images
from leuk_ray.datasets.images import BadImageError, StorageSettings

CPU_SECONDS = 3.0  # of one file; 50 million pixels of a progressive JPEG take about two
MEMORY = 1.5 * 2**30  # beyond what the process had
_EXTREMES = (0, 1, 2, 7, 255, 256, 4097, 65535, 2**16, 2**31 - 1, 2**31, 2**32 - 1)
KINDS = ("BMP", "JPEG", "PNG", "TIFF", "WEBP")
_SETTINGS = StorageSettings(size=32, crop="full")


@dataclass
class Cost:
    """What reading some files came to: refused by reason, and the dearest file."""

    read: int = 0
    refused: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0
    dearest: int = -1
    memory: float = 0.0


def odd_image(seed: int) -> bytes:
    """A BMP, JPEG, PNG, TIFF or WebP whose header and body were changed here and there."""
    choose = random.Random(seed)
    kind = KINDS[seed % len(KINDS)]
    data = bytearray(_picture(kind, choose))
    for _ in range(choose.randint(1, 3)):
        _HEADERS[kind](data, choose)
    if choose.random() < 0.3:
        for _ in range(choose.randint(1, 8)):
            data[choose.randrange(len(data))] = choose.randrange(256)
    if choose.random() < 0.2:
        at = choose.randrange(len(data))
        part = data[at : at + choose.randint(1, 400)]
        data[at:at] = part * choose.randint(1, 2000)
    if choose.random() < 0.15:
        del data[choose.randrange(8, len(data)) :]
    if kind == "PNG":
        _right_checksums(data)
    return bytes(data)


def read_all(seeds: range) -> Cost:
    """Read the images of some seeds; what is raised but BadImageError passes through."""
    cost = Cost()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    for seed in seeds:
        data = odd_image(seed)
        started = time.process_time()
        try:
            pixels = images.read(data, _SETTINGS)
        except BadImageError as error:
            cost.refused[error.reason] = cost.refused.get(error.reason, 0) + 1
        else:
            assert pixels.shape == (32, 32, 3)
            cost.read += 1
        seconds = time.process_time() - started
        if seconds > cost.seconds:
            cost.seconds, cost.dearest = seconds, seed
    cost.memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before
    return cost


def _picture(kind: str, choose: random.Random) -> bytes:
    side = choose.choice((1, 16, 64, 200))
    pixels = np.random.default_rng(choose.randrange(2**32)).integers(0, 256, (side, side, 3))
    picture = Image.fromarray(pixels.astype(np.uint8))
    if kind in ("BMP", "PNG", "TIFF"):
        picture = picture.convert(choose.choice(("RGB", "L", "P", "1")))
    options = {
        "JPEG": {"progressive": choose.random() < 0.5},
        "TIFF": {"compression": choose.choice(("raw", "tiff_lzw", "tiff_deflate", "packbits"))},
        "WEBP": {"lossless": choose.random() < 0.5},
    }.get(kind, {})
    out = io.BytesIO()
    picture.save(out, kind, **options)
    return out.getvalue()


def _number(choose: random.Random, size: int) -> int:
    value = choose.choice(_EXTREMES) if choose.random() < 0.7 else choose.randrange(2**32)
    return value % 2 ** (8 * size)


def _put(data: bytearray, at: int, form: str, choose: random.Random) -> None:
    size = struct.calcsize(form)
    if at + size <= len(data):
        struct.pack_into(form, data, at, _number(choose, size))


def _bmp(data: bytearray, choose: random.Random) -> None:
    at, form = choose.choice(
        [(2, "<I"), (10, "<I"), (14, "<I"), (18, "<I"), (22, "<I"), (26, "<H"), (28, "<H"),
         (30, "<I"), (34, "<I"), (46, "<I")]
    )  # fmt: skip
    _put(data, at, form, choose)


def _png(data: bytearray, choose: random.Random) -> None:
    at, form = choose.choice(
        [(8, ">I"), (16, ">I"), (20, ">I"), (24, ">B"), (25, ">B"), (28, ">B"), (33, ">I")]
    )
    _put(data, at, form, choose)


def _jpeg(data: bytearray, choose: random.Random) -> None:
    frame = max(data.find(b"\xff\xc0"), data.find(b"\xff\xc2"))
    if frame < 0:
        return
    at, form = choose.choice(
        [(2, ">H"), (4, ">B"), (5, ">H"), (7, ">H"), (9, ">B"), (10, ">B"), (11, ">B")]
    )
    _put(data, frame + at, form, choose)


def _tiff(data: bytearray, choose: random.Random) -> None:
    (directory,) = struct.unpack_from("<I", data, 4)
    if directory + 2 > len(data):
        return
    (entries,) = struct.unpack_from("<H", data, directory)
    entry = directory + 2 + 12 * choose.randrange(max(1, min(entries, 20)))
    at, form = choose.choice([(0, "<H"), (2, "<H"), (4, "<I"), (8, "<I")])
    _put(data, entry + at, form, choose)


def _webp(data: bytearray, choose: random.Random) -> None:
    at, form = choose.choice(
        [(4, "<I"), (16, "<I"), (20, "<I"), (24, "<I"), (26, "<H"), (28, "<H")]
    )
    _put(data, at, form, choose)


_HEADERS = {"BMP": _bmp, "JPEG": _jpeg, "PNG": _png, "TIFF": _tiff, "WEBP": _webp}


def _right_checksums(data: bytearray) -> None:
    """So that what is odd in a chunk is met, and not refused for its sum."""
    at = 8
    while at + 12 <= len(data):
        (size,) = struct.unpack_from(">I", data, at)
        if at + 12 + size > len(data):
            return
        struct.pack_into(">I", data, at + 8 + size, zlib.crc32(data[at + 4 : at + 8 + size]))
        at += 12 + size
