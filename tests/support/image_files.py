"""Image files that Pillow does not write: 16 bits, planes, colour tables, profiles, odd BMPs."""

from __future__ import annotations

import struct
import zlib

import numpy as np


def tiff(samples: np.ndarray, *, planar: bool = False, **tags: list[int]) -> bytes:
    """An uncompressed little-endian TIFF of (H, W, C) samples; `tags` by number, as t258."""
    height, width, channels = samples.shape
    bits = 8 * samples.dtype.itemsize
    body = (np.moveaxis(samples, 2, 0) if planar else samples).tobytes()
    size = len(body) // (channels if planar else 1)
    starts = range(8, 8 + len(body), size)
    fields: dict[int, list[int]] = {
        256: [width], 257: [height], 258: [bits] * channels, 259: [1],
        262: [2 if channels == 3 else 1], 273: list(starts), 277: [channels], 278: [height],
        279: [size] * len(starts), 284: [2 if planar else 1],
    } | {int(name[1:]): values for name, values in tags.items()}  # fmt: skip
    directory, extra = struct.pack("<H", len(fields)), b""
    end = 8 + len(body) + 2 + 12 * len(fields) + 4
    for tag, values in sorted(fields.items()):
        short = tag not in (273, 279)
        packed = struct.pack(f"<{len(values)}{'H' if short else 'I'}", *values)
        if len(packed) > 4:
            packed, extra = struct.pack("<I", end + len(extra)), extra + packed
        directory += struct.pack("<HHI", tag, 3 if short else 4, len(values)) + packed.ljust(
            4, b"\0"
        )
    return b"II*\0" + struct.pack("<I", 8 + len(body)) + body + directory + bytes(4) + extra


def png16(samples: np.ndarray) -> bytes:
    """A PNG of (H, W, C) 16-bit samples: 1 grey, 2 grey and alpha, 3 colour, 4 with alpha."""
    height, width, channels = samples.shape
    rows = samples.astype(">u2").reshape(height, -1)
    data = zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))
    kind = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    out = b"\x89PNG\r\n\x1a\n"
    for name, body in (
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 16, kind, 0, 0, 0)),
        (b"IDAT", data),
        (b"IEND", b""),
    ):
        out += struct.pack(">I", len(body)) + name + body
        out += struct.pack(">I", zlib.crc32(name + body))
    return out


def bmp32(pixels: np.ndarray, alpha: int) -> bytes:
    """A BMP with a V4 header, whose fourth byte is named as alpha."""
    height, width = pixels.shape[:2]
    fourth = np.full((height, width, 1), alpha, np.uint8)
    body = np.concatenate([pixels[::-1, :, ::-1], fourth], axis=2).tobytes()
    masks = (0xFF0000, 0xFF00, 0xFF, 0xFF000000)
    header = struct.pack("<IiiHHIIiiII", 108, width, height, 1, 32, 3, len(body), 0, 0, 0, 0)
    header += struct.pack("<4I", *masks) + bytes(108 - len(header) - 16)
    return b"BM" + struct.pack("<IHHI", 14 + 108 + len(body), 0, 0, 14 + 108) + header + body


def run_length_bmp(width: int, height: int, rows: bytes = b"\xff\1") -> bytes:
    header = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 8, 1, 4, 0, 0, 256, 0)
    palette = b"".join(bytes((n, 0, 0, 0)) for n in range(256))
    return b"BM" + struct.pack("<IHHI", 1082, 0, 0, 1078) + header + palette + rows + b"\0\1"


def profile(space: bytes, gamma: float, primaries: tuple = ()) -> bytes:
    """A small ICC profile: one gamma for all channels, and their primaries as XYZ under D50."""

    def fixed(*values: float) -> bytes:
        return b"".join(struct.pack(">i", round(65536 * value)) for value in values)

    curve = b"curv" + bytes(4) + struct.pack(">IH", 1, round(256 * gamma)) + bytes(2)
    white = (0.9642, 1.0, 0.8249)
    xyz = {b"wtpt": white} | dict(zip((b"rXYZ", b"gXYZ", b"bXYZ"), primaries, strict=False))
    tags = {name: b"XYZ " + bytes(4) + fixed(*values) for name, values in xyz.items()}
    tags |= dict.fromkeys((b"rTRC", b"gTRC", b"bTRC") if primaries else (b"kTRC",), curve)
    tags[b"desc"] = b"desc" + bytes(4) + struct.pack(">I", 5) + b"test\0" + bytes(78)
    tags[b"cprt"] = b"text" + bytes(4) + b"none\0\0\0\0"
    table, data = struct.pack(">I", len(tags)), b""
    for name, body in tags.items():
        table += name + struct.pack(">II", 128 + 4 + 12 * len(tags) + len(data), len(body))
        data += body + bytes(-len(body) % 4)
    header = struct.pack(">I4sI4s4s4s", 132 + 12 * len(tags) + len(data), b"lcms", 0x02400000,
                         b"mntr", space, b"XYZ ")  # fmt: skip
    header = header.ljust(36, b"\0") + b"acsp"
    return header.ljust(68, b"\0") + fixed(*white) + bytes(48) + table + data


SRGB = ((0.4361, 0.2225, 0.0139), (0.3851, 0.7169, 0.0971), (0.1431, 0.0606, 0.7141))
ADOBE = ((0.6097, 0.3111, 0.0195), (0.2053, 0.6257, 0.0609), (0.1492, 0.0632, 0.7446))
