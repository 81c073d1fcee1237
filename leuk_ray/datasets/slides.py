"""Which cells come from which field of view, and which fields show the same part of a slide.

ALL-IDB names no patients, so the slide stands for one: a cell is joined with the field it was
cut from, and fields that repeat or overlap are joined. Files are compared coarse to fine by
normalised cross-correlation, at every place at once: all with all on thumbnails, the likely ones
at 1/4 or 1/8 of their size, and the files' own pixels decide.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import chain, count
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image

from leuk_ray.datasets.correlation import Shiftable, TemplateBank, best_overlaps
from leuk_ray.datasets.decoding import ON_SLIDES, REDUCED
from leuk_ray.datasets.layouts.all_idb import CELLS, FIELDS
from leuk_ray.datasets.near_duplicates import aligned_correlation

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
_MIN_OVERLAP = 0.8  # of two fields at about 1/8: strangers stay below 0.7
_CROP_SIDE, _FIELD_SIDE = 16, 60  # pixels of the shorter side, of thumbnails
_FINER_SIDE = 240  # of fields that a thumbnail proposes
_CANDIDATES = 8  # fields that a crop is compared with at 1/4
_FIELD_SCALE = 4  # of the files' pixels that decide on fields: 5 megapixels say no more

Decode = Callable[[str], np.ndarray]


Pair = tuple[str, str, str, float]


@dataclass(frozen=True)
class _File:
    """A field or a crop: its size in pixels, (height, width), and its grey levels at 1/4."""

    uid: str
    size: tuple[int, int]
    grey: np.ndarray

    @classmethod
    def of(cls, row: dict[str, Any]) -> _File:
        size = row["height"], row["width"]
        shape = [-(-side // REDUCED) for side in size]
        return cls(row["uid"], size, np.frombuffer(row["reduced"], np.uint8).reshape(shape))

    @cached_property
    def shiftable(self) -> Shiftable:
        return Shiftable.of(_shrink(self.grey, self.coarse))

    @property
    def coarse(self) -> int:
        """By how much a field is reduced further for its thumbnail."""
        return _times(self.grey, _FIELD_SIDE)


@dataclass(frozen=True)
class _Place:
    """Where in a field a crop may lie: correlation, and its corner in pixels of the file."""

    value: float
    field: _File
    top: int
    left: int


def find_slides(
    cells: pa.Table,
    decode: Decode,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> pa.Table:
    """Find pairs of images from one slide, on all CPUs of this machine.

    Memory: 1 MB a field, 0.1 MB a crop, and a few decoded files at a time.

    Args:
        cells: columns uid, source, width, height and reduced (`decoding.reduced_grey`), one row
            an image.
        decode: uid -> the file's pixels, (H, W, 3) uint8; called from several threads.
        progress: called with (files compared, comparisons in all), where there are fields.

    Returns:
        SLIDES_SCHEMA: `crop`, a cell (uid_b) cut from a field (uid_a); `overlap`, two fields
        that share a quarter of their area or more.
    """
    chosen = [row for row in cells.to_pylist() if row["source"] in ON_SLIDES]
    fields = [_File.of(row) for row in chosen if row["source"] == FIELDS]
    crops = [_File.of(row) for row in chosen if row["source"] == CELLS]
    if not fields:
        return SLIDES_SCHEMA.empty_table()
    decode = lru_cache(maxsize=4)(decode)
    factor = min((_times(crop.grey, _CROP_SIDE) for crop in crops), default=1)
    bank = TemplateBank([_shrink(crop.grey, factor) for crop in crops])
    done, total = count(1), 2 * (len(fields) + len(crops))
    with ThreadPoolExecutor(os.cpu_count()) as pool:

        def each(function: Callable[[Any], Any], over: Iterable[Any]) -> list[Any]:
            """In threads: transforms, arithmetic on arrays and decoders let others run."""
            results = []
            for result in pool.map(function, over):
                progress(next(done), total)
                results.append(result)
            return results

        coarse = each(lambda field: bank.search(_shrink(field.grey, factor)), fields)
        values = np.stack([value for value, _ in coarse], axis=1)
        corners = factor * np.stack([corner for _, corner in coarse], axis=1)
        places = each(
            lambda n: _find_crop(crops[n], fields, values[n], corners[n], factor),
            range(len(crops)),
        )
        # Crops of a field one after the other, so that it is decoded once.
        order = sorted(range(len(crops)), key=lambda n: places[n].field.uid)
        pairs = each(lambda n: _check_crop(crops[n], places[n], decode), order)
        overlaps = each(
            lambda n: _find_overlaps(fields[n], fields[n + 1 :], decode), range(len(fields))
        )
    found = [pair for pair in [*pairs, *chain(*overlaps)] if pair[-1] >= MIN_CORRELATION]
    rows = [dict(zip(SLIDES_SCHEMA.names, pair, strict=True)) for pair in found]
    return pa.Table.from_pylist(rows, schema=SLIDES_SCHEMA)


def _find_crop(
    crop: _File, fields: Sequence[_File], values: np.ndarray, corners: np.ndarray, slack: int
) -> _Place:
    """Find the best place of a crop at 1/4, near those of thumbnails in the likeliest fields."""
    bank = TemplateBank([crop.grey])
    found = []
    for number in np.argsort(-values, kind="stable")[:_CANDIDATES]:
        field = fields[number]
        top, left = np.maximum(corners[number] - slack, 0)
        bottom, right = np.asarray([top, left]) + crop.grey.shape + 2 * slack
        (value,), (corner,) = bank.search(field.grey[top:bottom, left:right])
        found.append(
            _Place(value, field, REDUCED * int(corner[0] + top), REDUCED * int(corner[1] + left))
        )
    return max(found, key=lambda place: place.value)


def _check_crop(crop: _File, place: _Place, decode: Decode) -> Pair:
    """Return the correlation of a crop with its best place, of the files' pixels."""
    correlation = -1.0
    if place.value >= _MIN_PROPOSAL:
        height, width = crop.size
        top = min(place.top, place.field.size[0] - height)
        left = min(place.left, place.field.size[1] - width)
        window = decode(place.field.uid)[top : top + height, left : left + width]
        correlation = aligned_correlation(window, decode(crop.uid))
    return place.field.uid, crop.uid, "crop", correlation


def _find_overlaps(first: _File, others: Sequence[_File], decode: Decode) -> list[Pair]:
    """Return the correlations of a field with those that share a part of it."""
    others = [other for other in others if other.size == first.size]
    values, shifts = best_overlaps(first.shiftable, [other.shiftable for other in others])
    pairs = []
    for other, value, (down, right) in zip(others, values, first.coarse * shifts, strict=True):
        if value < _MIN_PROPOSAL or _finer(first, other, down, right) < _MIN_OVERLAP:
            continue
        whole = decode(first.uid), decode(other.uid)
        parts = _shared(*whole, REDUCED * down, REDUCED * right)
        correlation = aligned_correlation(*(_shrink(part, _FIELD_SCALE) for part in parts))
        pairs.append((first.uid, other.uid, "overlap", correlation))
    return pairs


def _finer(first: _File, other: _File, down: int, right: int) -> float:
    """Return the correlation of what two fields share, at about 1/8 and to a pixel of it."""
    factor = _times(first.grey, _FINER_SIDE)
    one, two = (_shrink(part, factor) for part in _shared(first.grey, other.grey, down, right))
    slack = -(-first.coarse // factor)
    inner = slice(slack, -slack)
    return float(TemplateBank([one[inner, inner]]).search(two)[0][0])


def _shared(
    first: np.ndarray, second: np.ndarray, down: int, right: int
) -> tuple[np.ndarray, np.ndarray]:
    """Say what two images both show when `second` lies `down` and `right` of `first`."""
    rows, columns = len(first) - abs(down), first.shape[1] - abs(right)
    one = first[max(down, 0) :, max(right, 0) :][:rows, :columns]
    return one, second[max(-down, 0) :, max(-right, 0) :][:rows, :columns]


def _times(image: np.ndarray, side: int) -> int:
    """How many times longer the shorter side is than `side`, as a whole number from 1 on."""
    return max(1, min(image.shape[:2]) // side)


def _shrink(image: np.ndarray, factor: int) -> np.ndarray:
    return np.asarray(Image.fromarray(image).reduce(factor))
