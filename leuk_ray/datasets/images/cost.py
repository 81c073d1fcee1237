"""How long a file can take to decode, from its header alone and without a decoder."""

from __future__ import annotations

import struct

_PARTS = 64  # chunks, markers or tags of an ordinary file, before its pixels
_PART_BYTES = 2**12  # of pixels, for each chunk more
_HEADER_BYTES = 2**20
_BMP_PLAIN = (0, 3)  # compressions that are none
_TIFF_FAST = (1, 5, 8, 32773, 32946)  # none, LZW, deflate, PackBits
_BASELINE = (0xC0, 0xC1)
_FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}
_SOS = 0xDA
_PNG = b"\x89PNG\r\n\x1a\n"
# Of a TIFF's types those of a byte, and all that are read as numbers with their size.
_BYTES, _NUMBERS = (1, 2, 6, 7), {3: "H", 4: "I"}
_TIFF_NUMBERS = 2**13  # in a tag, such as places of strips
_WIDTH, _HEIGHT, _COMPRESSION, _TILES = 256, 257, 259, 322


def plain_pixels(data: bytes) -> int | None:
    """Return the number of pixels of a file that decodes in a time proportional to it.

    These are uncompressed BMP, PNG, baseline JPEG of one scan, and TIFF of the usual
    compressions, in strips and on one page, whose header has as many parts as files by cameras
    and programs have. 0.1 s for 4 million pixels is more than any of them takes.

    Returns:
        None for any other file: it may decode as fast, but its header does not tell.
    """
    try:
        if data.startswith(b"BM"):
            return _bmp(data)
        if data.startswith(_PNG):
            return _png(data)
        if data.startswith(b"\xff\xd8"):
            return _jpeg(data)
        if data.startswith((b"II*\0", b"MM\0*")):
            return _tiff(data)
    except (struct.error, IndexError):  # cut off
        pass
    return None


def _bmp(data: bytes) -> int | None:
    size, width, height = struct.unpack_from("<Iii", data, 14)
    (compression,) = struct.unpack_from("<I", data, 30)
    return abs(width * height) if size >= 40 and compression in _BMP_PLAIN else None


def _png(data: bytes) -> int | None:
    width, height = struct.unpack_from(">II", data, 16)
    at, left = len(_PNG), _PARTS + len(data) // _PART_BYTES
    while at + 8 <= len(data):
        left -= 1
        if left < 0 or (data[at + 4 : at + 8] == b"IHDR") != (at == len(_PNG)):
            return None
        at += 12 + int.from_bytes(data[at : at + 4])
    return width * height


def _jpeg(data: bytes) -> int | None:
    at, pixels, components = 2, None, 0
    for _ in range(_PARTS):
        mark, code, length = struct.unpack_from(">BBH", data, at)
        if mark != 0xFF or code == 0xFF or at > _HEADER_BYTES:
            return None
        if code in _FRAMES:
            height, width, components = struct.unpack_from(">HHB", data, at + 5)
            pixels = width * height if code in _BASELINE and pixels is None else None
        if code == _SOS:
            return pixels if data[at + 4] == components else None
        at += 2 + length
    return None


def _tiff(data: bytes) -> int | None:
    order = "<" if data.startswith(b"II") else ">"
    (at,) = struct.unpack_from(f"{order}I", data, 4)
    (num_tags,) = struct.unpack_from(f"{order}H", data, at)
    (next_page,) = struct.unpack_from(f"{order}I", data, at + 2 + 12 * num_tags)
    if next_page or num_tags > _PARTS:
        return None
    found = {_COMPRESSION: 1}
    for number in range(num_tags):
        tag, kind, count = struct.unpack_from(f"{order}HHI", data, at + 2 + 12 * number)
        if count > (_HEADER_BYTES if kind in _BYTES else _TIFF_NUMBERS) or tag == _TILES:
            return None
        if tag in (_WIDTH, _HEIGHT, _COMPRESSION):
            if kind not in _NUMBERS or count != 1:
                return None
            place = at + 10 + 12 * number
            (found[tag],) = struct.unpack_from(f"{order}{_NUMBERS[kind]}", data, place)
    if found[_COMPRESSION] not in _TIFF_FAST or not {_WIDTH, _HEIGHT} <= found.keys():
        return None
    return found[_WIDTH] * found[_HEIGHT]
