"""Which cells come from which field of view, and which fields show the same part of a slide.

ALL-IDB names no patients, so the slide stands for one: a cell is joined with the field it was
cut from, and fields that repeat or overlap are joined. Stored pixels propose by normalised
cross-correlation, at every place at once by Fourier transform; the files' own pixels decide.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from PIL import Image

from leuk_ray.datasets.layouts.all_idb import CELLS, FIELDS
from leuk_ray.datasets.near_duplicates import aligned_correlation
from leuk_ray.datasets.prepared import PixelReader

SLIDES_SCHEMA = pa.schema(
    [
        ("uid_a", pa.string()),
        ("uid_b", pa.string()),
        ("kind", pa.string()),
        ("correlation", pa.float64()),
    ]
)
MIN_CORRELATION = 0.95  # of the files' pixels; what was cut from a field is above 0.99
_MIN_PROPOSAL = 0.6
_MIN_OVERLAP = 0.25
_SMALL = 150  # fields are compared with each other at this side

Decode = Callable[[str], np.ndarray]


def find_slides(cells: pa.Table, reader: PixelReader, decode: Decode) -> pa.Table:
    """Pairs of images from one slide.

    Memory: the stored fields in grey, and two decoded files at a time.

    Args:
        cells: columns uid, source, width and height, one row an image.
        reader: reads the stored pixels of these rows; they must show whole files.
        decode: uid -> the file's pixels, (H, W, 3) uint8.

    Returns:
        SLIDES_SCHEMA: `crop`, a cell (uid_b) cut from a field (uid_a); `overlap`, two fields
        that share a quarter of their area or more.
    """
    numbered = cells.append_column("row", pa.array(np.arange(len(cells))))
    chosen = numbered.filter(pc.field("source").isin([FIELDS, CELLS])).to_pylist()
    uids = {cell["row"]: cell["uid"] for cell in chosen}
    sizes = {cell["row"]: (cell["height"], cell["width"]) for cell in chosen}
    fields = [cell["row"] for cell in chosen if cell["source"] == FIELDS]
    crops = [cell["row"] for cell in chosen if cell["source"] == CELLS]
    grey = {row: _grey(reader.read(np.asarray([row]))[0]) for row in fields}
    decode = lru_cache(maxsize=2)(decode)
    found = []
    for crop in crops:
        (stored,) = reader.read(np.asarray([crop]))
        best = max(
            ((*_find_template(grey[row], stored, sizes[crop], sizes[row]), row) for row in fields),
            default=None,
        )
        if best is None or best[0] < _MIN_PROPOSAL:
            continue
        _, top, left, field = best
        window = _window(decode(uids[field]), top, left, sizes[crop])
        correlation = aligned_correlation(window, decode(uids[crop]))
        found.append((uids[field], uids[crop], "crop", correlation))
    for number, first in enumerate(fields):
        for second in fields[number + 1 :]:
            if sizes[first] == sizes[second]:
                value, down, right = best_overlap(_small(grey[first]), _small(grey[second]))
                if value >= _MIN_PROPOSAL:
                    height, width = sizes[first]
                    shift = round(down * height / _SMALL), round(right * width / _SMALL)
                    parts = _shared(decode(uids[first]), decode(uids[second]), *shift)
                    correlation = aligned_correlation(*parts)
                    found.append((uids[first], uids[second], "overlap", correlation))
    slides = [
        dict(zip(SLIDES_SCHEMA.names, pair, strict=True))
        for pair in found
        if pair[3] >= MIN_CORRELATION
    ]
    return pa.Table.from_pylist(slides, schema=SLIDES_SCHEMA)


def match_template(image: np.ndarray, template: np.ndarray) -> tuple[float, int, int]:
    """The best normalised cross-correlation of a template within an image.

    Args:
        image: (H, W) float. template: (h, w) float, not larger.

    Returns:
        Correlation -1..1, and the row and column of the template's corner.
    """
    height, width = template.shape
    template = template - template.mean()
    spectrum = np.fft.rfft2(image) * np.conj(np.fft.rfft2(template, image.shape))
    rows, columns = image.shape[0] - height + 1, image.shape[1] - width + 1
    product = np.fft.irfft2(spectrum, image.shape)[:rows, :columns]
    total, squares = (_box_sums(values, height, width) for values in (image, image**2))
    variance = np.maximum(squares - total**2 / template.size, 1e-6)
    match = product / np.sqrt(variance * max(float((template**2).sum()), 1e-6))
    top, left = np.unravel_index(int(match.argmax()), match.shape)
    return float(match[top, left]), int(top), int(left)


def best_overlap(first: np.ndarray, second: np.ndarray) -> tuple[float, int, int]:
    """The best correlation of two images of one size over what they share when shifted.

    Returns:
        Correlation -1..1 over a quarter of the area or more, and how far below and right of
        `first`'s corner that of `second` lies.
    """
    side = len(first)
    shape = (2 * side, 2 * side)
    spectrum = np.fft.rfft2(first, shape) * np.conj(np.fft.rfft2(second, shape))
    product = np.fft.irfft2(spectrum, shape)
    shift = np.arange(-side + 1, side)
    low, high = np.maximum(shift, 0), np.minimum(side + shift, side)  # in first
    number = np.outer(high - low, high - low)
    sums = [
        _rectangles(image, start, start + high - low)
        for image, start in ((first, low), (second, low - shift))
    ]
    squares = [
        _rectangles(image**2, start, start + high - low)
        for image, start in ((first, low), (second, low - shift))
    ]
    spread = [s2 - s**2 / number for s, s2 in zip(sums, squares, strict=True)]
    covariance = product[np.ix_(shift, shift)] - sums[0] * sums[1] / number
    match = covariance / np.sqrt(np.maximum(spread[0] * spread[1], 1e-6))
    match[number < _MIN_OVERLAP * side**2] = -1
    down, right = np.unravel_index(int(match.argmax()), match.shape)
    return float(match[down, right]), int(shift[down]), int(shift[right])


def _find_template(
    field: np.ndarray, stored: np.ndarray, crop: tuple[int, int], whole: tuple[int, int]
) -> tuple[float, int, int]:
    """Where a crop lies in a field: correlation, and its corner in pixels of the file."""
    side = len(field)
    height, width = (max(1, round(side * c / w)) for c, w in zip(crop, whole, strict=True))
    if height > side or width > side:
        return -1.0, 0, 0
    small = Image.fromarray(stored).convert("L").resize((width, height), Image.Resampling.BOX)
    value, top, left = match_template(field, np.asarray(small, np.float64))
    return value, round(top * whole[0] / side), round(left * whole[1] / side)


def _window(field: np.ndarray, top: int, left: int, size: tuple[int, int]) -> np.ndarray:
    top = min(top, len(field) - size[0])
    left = min(left, field.shape[1] - size[1])
    return field[top : top + size[0], left : left + size[1]]


def _shared(
    first: np.ndarray, second: np.ndarray, down: int, right: int
) -> tuple[np.ndarray, np.ndarray]:
    """What two files both show when `second` lies `down` and `right` of `first`."""
    rows, columns = len(first) - abs(down), first.shape[1] - abs(right)
    one = first[max(down, 0) :, max(right, 0) :][:rows, :columns]
    return one, second[max(-down, 0) :, max(-right, 0) :][:rows, :columns]


def _box_sums(image: np.ndarray, height: int, width: int) -> np.ndarray:
    total = _integral(image)
    return (
        total[height:, width:] - total[:-height, width:]
        - total[height:, :-width] + total[:-height, :-width]
    )  # fmt: skip


def _rectangles(image: np.ndarray, start: np.ndarray, stop: np.ndarray) -> np.ndarray:
    """Sums over [start[i], stop[i]) x [start[j], stop[j]) for all i, j."""
    total = _integral(image)
    return (
        total[np.ix_(stop, stop)] - total[np.ix_(start, stop)]
        - total[np.ix_(stop, start)] + total[np.ix_(start, start)]
    )  # fmt: skip


def _integral(image: np.ndarray) -> np.ndarray:
    return np.pad(image.cumsum(axis=0).cumsum(axis=1), ((1, 0), (1, 0)))


def _grey(image: np.ndarray) -> np.ndarray:
    grey = image.mean(axis=2, dtype=np.float64)
    return grey - grey.mean()


def _small(grey: np.ndarray) -> np.ndarray:
    image = Image.fromarray(grey.astype(np.float32))
    small = np.asarray(image.resize((_SMALL, _SMALL), Image.Resampling.BOX), np.float64)
    return small - small.mean()
