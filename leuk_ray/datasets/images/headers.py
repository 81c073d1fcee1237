"""Open image files and refuse, by their headers alone, what must not or cannot be decoded."""

from __future__ import annotations

import io
import re
import stat
from collections.abc import Iterator
from pathlib import Path

from PIL import Image, TiffImagePlugin

FORMATS = ("BMP", "PNG", "JPEG", "TIFF", "WEBP")
MAX_BYTES = 32 * 2**20
MAX_PIXELS = 32_000_000  # more than any camera on a microscope gives
MAX_ASPECT = 16  # longer side in shorter sides
MAX_RLE_PIXELS = 2**20  # Pillow decodes run-length BMP in Python
MAX_SCANS = 32  # of a progressive JPEG: encoders write about 10, and each costs a pass

_MODES = ("RGB", "L", "P", "PA", "LA", "RGBA", "1")
_BMP_RLE = (1, 2)
_REDUCED = 1  # bit of a TIFF's NewSubfileType
_UNSIGNED = 1  # SampleFormat

# What cameras and microscopes write and this package does not read: offset, first bytes, name.
_UNREAD = (
    (0, b"GIF8", "GIF"),
    (4, b"ftypavif", "AVIF"),
    (4, b"ftypcrx", "camera raw (CR3)"),
    (4, b"ftyp", "HEIC or a video"),
    (0, b"\0\0\0\x0cjP  ", "JPEG 2000"),
    (0, b"\xff\x4f\xff\x51", "JPEG 2000"),
    (0, b"\0\0\0\x0cJXL ", "JPEG XL"),
    (0, b"\xff\x0a", "JPEG XL"),
    (0, b"\xff\xd8\xff", "a JPEG of an unusual kind (12 bits, or a broken header)"),
    (0, b"FUJIFILMCCD-RAW", "camera raw (RAF)"),
    (0, b"ZISRAWFILE", "Zeiss CZI"),
    (0, b"\xda\xce\xbe\x0a", "Nikon ND2"),
    (0, b"\x70\0\0\0", "Leica LIF"),
    (128, b"DICM", "DICOM"),
    (0, b"II*\0", "a TIFF of an unusual kind (float, JPEG 2000, camera raw)"),
    (0, b"MM\0*", "a TIFF of an unusual kind (float, JPEG 2000, camera raw)"),
    (0, b"8BPS", "Photoshop"),
    (0, b"P5", "PGM"),
    (0, b"P6", "PPM"),
    (0, b"%PDF", "PDF"),
)
# A marker of a JPEG that is neither a stuffed byte nor a restart.
_MARKER = re.compile(rb"\xff+([^\x00\xff\xd0-\xd7])")
_EOI, _SOS, _ALONE = 0xD9, 0xDA, (0x01, 0xD8)


class BadImageError(ValueError):
    """Bytes that are no usable image. `reason` is a short code, `detail` is for people."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail

    def __reduce__(self) -> tuple[type[BadImageError], tuple[str, str]]:
        return BadImageError, (self.reason, self.detail)


def file_bytes(path: Path) -> bytes:
    """Read a file, or as much of it as shows that it is too large.

    Raises:
        BadImageError: it is no regular file, or cannot be read.
    """
    try:
        # Opening a pipe would wait for whoever writes into it.
        if not stat.S_ISREG(path.stat().st_mode):
            raise BadImageError("unreadable", "is a pipe, a device or a folder, not a file")
        with path.open("rb") as stream:
            return stream.read(MAX_BYTES + 1)
    except OSError as error:
        leads = f"is a link to {path.readlink()}: " if path.is_symlink() else ""
        raise BadImageError("unreadable", f"{leads}{error.strerror or error}") from error


def open_image(data: bytes) -> Image.Image:
    """Open an image file without decoding its pixels.

    Raises:
        BadImageError: empty, not of FORMATS, several pages, too large or too long, more than 8
            bits a sample, CMYK and the like, or a header that asks for absurd work.
    """
    if not data:
        raise BadImageError("empty", "the file has no bytes")
    if len(data) > MAX_BYTES:
        raise BadImageError("too_large", f"{len(data)} bytes, the limit is {MAX_BYTES}")
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
    except Image.DecompressionBombError as error:
        raise BadImageError("too_large", str(error)) from error
    except Exception as error:
        raise _not_read(data) from error
    _check_size(*image.size)
    try:
        # n_frames would walk through every page of a TIFF. An MPO is a JPEG with a preview, or
        # the other eye's view, behind it.
        if image.format != "MPO" and getattr(image, "is_animated", False):
            raise BadImageError("several_frames", "an animation or several pages; give one image")
        if isinstance(image, TiffImagePlugin.TiffImageFile):
            _check_tiff(image)
    except BadImageError:
        raise
    except Exception as error:
        raise BadImageError("truncated", f"the header is broken: {error}") from error
    if image.format == "PNG" and ";16" in str(image.tile and image.tile[0].args):
        raise _too_deep(16)
    if image.mode not in _MODES:
        raise BadImageError("pixel_type", f"mode {image.mode}; give 8-bit RGB or greyscale")
    if image.format == "BMP":
        _check_bmp(image)
    if image.info.get("progressive"):
        _check_scans(image, data)
    return image


def _not_read(data: bytes) -> BadImageError:
    for offset, magic, name in _UNREAD:
        if data.startswith(magic, offset):
            detail = f"{name} is not read; save the image as PNG, TIFF or BMP with 8 bits a sample"
            return BadImageError("unsupported_format", detail)
    return BadImageError("not_an_image", f"no {', '.join(FORMATS)} image in it")


def _check_size(width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise BadImageError("too_large", f"{width} x {height}, the limit is {MAX_PIXELS} pixels")
    if max(width, height) > MAX_ASPECT * min(width, height):
        detail = f"{width} x {height}: the sides may differ by a factor of {MAX_ASPECT}"
        raise BadImageError("too_long", detail)


def _check_tiff(image: TiffImagePlugin.TiffImageFile) -> None:
    """Depth and kind by the file's own tags: Pillow keeps the high byte of 16 bits, whatever
    part of them the camera fills, and mixes up planes of 16 bits."""
    tags = image.tag_v2
    bits = max(tags.get(TiffImagePlugin.BITSPERSAMPLE, (1,)))
    if bits > 8:
        raise _too_deep(bits)
    if set(tags.get(TiffImagePlugin.SAMPLEFORMAT, (_UNSIGNED,))) != {_UNSIGNED}:
        raise BadImageError("pixel_type", "signed or float samples; give 8-bit RGB or greyscale")
    if tags.get(254, 0) & _REDUCED:
        detail = "its first page is a reduced preview, as in camera raw; export the image itself"
        raise BadImageError("unsupported_format", detail)
    if image.info["compression"] == "webp":
        raise BadImageError("unsupported_format", "a TIFF compressed by WebP; compress it by LZW")


def _check_bmp(image: Image.Image) -> None:
    pixels = image.width * image.height
    if image.info["compression"] in _BMP_RLE and pixels > MAX_RLE_PIXELS:
        size = f"{image.width} x {image.height}"
        detail = f"{size}, the limit of a run-length BMP is {MAX_RLE_PIXELS} pixels"
        raise BadImageError("too_large", detail)


def _check_scans(image: Image.Image, data: bytes) -> None:
    """Refuse a progressive JPEG of absurdly many scans, or whose last ones are missing.

    libjpeg says nothing of a file that was cut between two scans: the picture is coarse.
    """
    missing = {id: [True] * 64 for id, *_ in getattr(image, "layer", ())}
    for number, scan in enumerate(_scan_headers(data), start=1):
        if number > MAX_SCANS:
            raise BadImageError("too_slow", f"a progressive JPEG of more than {MAX_SCANS} scans")
        first, last, bits = scan[-3:]
        for component in scan[1 : 1 + 2 * scan[0] : 2]:
            if component in missing and last < 64:
                missing[component][first : last + 1] = [bits & 15 > 0] * (last + 1 - first)
    if any(map(any, missing.values())):
        raise BadImageError("truncated", "the last scans of a progressive JPEG are missing")


def _scan_headers(data: bytes) -> Iterator[bytes]:
    """Parameters of each scan of a JPEG: number of components, two bytes each, and three more."""
    at = 2
    while marker := _MARKER.search(data, at):
        code, at = marker[1][0], marker.end()
        if code == _EOI:
            return
        if code in _ALONE:
            continue
        segment = data[at + 2 : at + int.from_bytes(data[at : at + 2])]
        if code == _SOS and len(segment) >= 4:
            yield segment
        at += 2 + len(segment)


def _too_deep(bits: int) -> BadImageError:
    detail = f"{bits} bits a sample, of which the camera may fill 10 or 12; save it with 8"
    return BadImageError("pixel_type", detail)
