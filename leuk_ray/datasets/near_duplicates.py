"""Pictures of the same cell that are not the same file: encoded again, moved by a pixel, retouched.

A perceptual hash alone joins strangers: among stained cells on black, distance 8 would put all
subjects of C-NMC 2019 into one group. So the hash only proposes pairs, and aligned pixels of
the cell decide: 0.98 and more is the same picture. Real near duplicates lie above 0.998 and
the next pair of cells near 0.77. A copy that lost more is no near duplicate by this rule: a
JPEG of quality 50 correlates at about 0.975 with its original.

Not all pairs are looked at. By the pigeonhole principle two 64-bit hashes at distance 11 or
less agree in at least one of four 16-bit bands but for 2 bits (multi-index hashing, Norouzi,
Punjani and Fleet 2012), so a sorted list of each band finds them. Pixels are compared in the
order in which thumbnails agree, only for cells that no chain of copies joins yet, and a cell
that was no copy of the MAX_STRANGERS most alike is compared no more: a set of many copies, or
of cells that all look alike, costs a fixed number of comparisons a cell.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from itertools import combinations

import numpy as np
import pyarrow as pa
from scipy import ndimage
from scipy.cluster.hierarchy import DisjointSet

from leuk_ray.datasets.columns import codes
from leuk_ray.datasets.images import BLACK
from leuk_ray.datasets.prepared import PixelReader

NEAR_SCHEMA = pa.schema(
    [("uid_a", pa.string()), ("uid_b", pa.string()), ("correlation", pa.float64())]
)
MAX_DISTANCE = 11
MIN_CORRELATION = 0.98
MAX_STRANGERS = 16

_BANDS = 4
_BAND_BITS = 16
_FLIPS = 2
_MIN_THUMB_CORRELATION = 0.9  # real strangers stay below 0.8, copies above 0.97
_MAX_SHIFT = 0.05
_ROWS_PER_READ = 64
_PAIRS_PER_CHUNK = 4096
_MATCHES_PER_PART = 2**16
_LIKELY_PER_CELL = 64  # on average; the most alike are kept


def find_near_duplicates(
    cells: pa.Table,
    thumbs: np.ndarray,
    reader: PixelReader,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> pa.Table:
    """Find pairs of cells with different pixels that show the same picture.

    Memory, beside what it is given: about 1 kB a cell, of cells that all look alike 3 kB, and 64
    images; only those of likely pairs are read.

    Args:
        cells: columns uid, phash (64 bits in hex) and pixels_sha256, one row a cell.
        thumbs: (n, THUMB ** 2) uint8, `decoding.thumbnail` of each.
        reader: reads the pixels of these rows, numbered alike.
        progress: called with (likely pairs done, likely pairs in all) where there are any.

    Returns:
        NEAR_SCHEMA ordered by uid_a, uid_b. Pairs join all copies of a picture, but not each
        with each. Cells with identical pixels are not listed; of those the first row speaks
        for all.
    """
    _, rows = np.unique(codes(cells["pixels_sha256"].combine_chunks()), return_index=True)
    rows.sort()
    phash = _numbers(cells["phash"])[rows]
    likely = _likely_pairs(phash, thumbs, rows)
    joined, strangers = DisjointSet(np.unique(likely).tolist()), np.zeros(len(rows), np.int64)

    def open_question(pair: np.ndarray) -> bool:
        asked_enough = bool((strangers[pair] >= MAX_STRANGERS).any())
        return not asked_enough and not joined.connected(*pair.tolist())

    found, done = [], 0
    for chunk in np.array_split(likely, -(-len(likely) // (_ROWS_PER_READ // 2)) or 1):
        asked = np.asarray([pair for pair in chunk if open_question(pair)], np.int64)
        members, place = np.unique(asked, return_inverse=True)
        pixels = reader.read(rows[members])
        for pair, (first, second) in zip(asked, place.reshape(-1, 2), strict=True):
            if not open_question(pair):
                continue
            correlation = aligned_correlation(pixels[first], pixels[second])
            if correlation >= MIN_CORRELATION:
                joined.merge(*pair.tolist())
                a, b = sorted(cells["uid"][row].as_py() for row in rows[pair].tolist())
                found.append({"uid_a": a, "uid_b": b, "correlation": correlation})
            else:
                strangers[pair] += 1
        done += len(chunk)
        if done:
            progress(done, len(likely))
    found.sort(key=lambda pair: (pair["uid_a"], pair["uid_b"]))
    return pa.Table.from_pylist(found, schema=NEAR_SCHEMA)


def aligned_correlation(first: np.ndarray, second: np.ndarray) -> float:
    """Compute Pearson's correlation of two pictures over the cell, after the best shift.

    Args:
        first, second: (H, W, 3) uint8. The cell is what is not black in either, the whole
            picture where nothing is black.

    Returns:
        -1..1; 0 where a picture has no contrast. Shifts reach 5% of the side and are found to
        a fraction of a pixel, since a shift of the file is no whole number after resizing.
    """
    as_they_are = _cell_correlation(first, second)
    down, right = _best_shift(_grey(first), _grey(second))
    moved = (
        np.stack(  # a channel at a time: in three dimensions the spline takes seven times as long
            [
                ndimage.shift(channel, (-down, -right), np.float32, order=3, mode="nearest")
                for channel in np.moveaxis(second, 2, 0)
            ],
            axis=2,
        )
    )
    margin = math.ceil(max(abs(down), abs(right)))
    inner = slice(margin, -margin or None)
    return max(as_they_are, _cell_correlation(first[inner, inner], moved[inner, inner]))


def candidate_pairs(phash: np.ndarray) -> Iterator[np.ndarray]:
    """Find every pair of hashes at distance MAX_DISTANCE or less, each once.

    Args:
        phash: (n,) uint64.

    Yields:
        (m, 2) int64 with first < second.
    """
    shifts = np.arange(_BANDS, dtype=np.uint64) * np.uint64(_BAND_BITS)
    bands = ((phash[:, None] >> shifts) & np.uint64(2**_BAND_BITS - 1)).astype(np.uint16)
    for band in range(_BANDS):
        # Rows in the order of this band, so that those with one value lie together.
        order = np.argsort(bands[:, band], kind="stable")
        value, hashes = bands[order, band], phash[order]
        starts = np.searchsorted(value, np.arange(2**_BAND_BITS + 1))
        for flip in _flips():
            wanted = value ^ flip
            # Each pair from one side: the later row of one value, the larger of two values.
            low = starts[wanted] if flip else np.arange(1, len(phash) + 1)
            count = np.where(wanted >= value, starts[wanted.astype(np.int64) + 1] - low, 0)
            for part in _parts(count):
                length = count[part]
                first = np.repeat(part, length)
                second = np.repeat(low[part] - (length.cumsum() - length), length)
                second += np.arange(len(first))
                close = np.bitwise_count(hashes[first] ^ hashes[second]) <= MAX_DISTANCE
                pairs = np.sort(order[np.stack([first[close], second[close]], axis=1)], axis=1)
                earlier = bands[pairs[:, 0], :band] ^ bands[pairs[:, 1], :band]
                yield pairs[(np.bitwise_count(earlier) > _FLIPS).all(axis=1)]


def _flips() -> list[np.uint16]:
    """All numbers of 16 bits with at most 2 of them set."""
    bits = [1 << bit for bit in range(_BAND_BITS)]
    return [np.uint16(sum(chosen)) for n in range(_FLIPS + 1) for chosen in combinations(bits, n)]


def _parts(count: np.ndarray) -> Iterator[np.ndarray]:
    """Rows with a match, cut so that what is made of each part stays in the processor's cache."""
    rows = np.flatnonzero(count)
    cuts = np.flatnonzero(np.diff(count[rows].cumsum() // _MATCHES_PER_PART)) + 1
    yield from np.split(rows, cuts)


def _numbers(hashes: pa.ChunkedArray) -> np.ndarray:
    """Hashes in hexadecimal as (n,) uint64."""
    return np.fromiter((int(text, 16) for text in hashes.to_pylist()), np.uint64, len(hashes))


def _likely_pairs(phash: np.ndarray, thumbs: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Candidates whose thumbnails, `thumbs[rows]`, agree: (m, 2) int64, the most alike first."""
    likely, alike = np.empty((0, 2), np.int64), np.empty(0)
    for pairs in candidate_pairs(phash):
        for start in range(0, len(pairs), _PAIRS_PER_CHUNK):
            chunk = pairs[start : start + _PAIRS_PER_CHUNK]
            first, second = (thumbs[rows[side]].astype(np.float32) for side in chunk.T)
            agree = _correlations(first, second, (first >= BLACK) | (second >= BLACK))
            keep = agree >= _MIN_THUMB_CORRELATION
            likely = np.concatenate([likely, chunk[keep]])
            alike = np.concatenate([alike, agree[keep]])
            if len(likely) > 2 * _LIKELY_PER_CELL * len(phash):
                best = np.argsort(-alike, kind="stable")[: _LIKELY_PER_CELL * len(phash)]
                likely, alike = likely[best], alike[best]
    return likely[np.lexsort((likely[:, 1], likely[:, 0], -alike))]


def _correlations(first: np.ndarray, second: np.ndarray, cell: np.ndarray) -> np.ndarray:
    """Pearson correlation of each row over its own mask: three (n, d) arrays to (n,)."""
    number = np.maximum(cell.sum(axis=1, keepdims=True), 1)
    first = np.where(cell, first - (first * cell).sum(axis=1, keepdims=True) / number, 0)
    second = np.where(cell, second - (second * cell).sum(axis=1, keepdims=True) / number, 0)
    scale = np.sqrt((first**2).sum(axis=1) * (second**2).sum(axis=1))
    return np.where(scale > 0, (first * second).sum(axis=1) / np.maximum(scale, 1e-12), 0)


def _cell_correlation(first: np.ndarray, second: np.ndarray) -> float:
    cell = np.maximum(first, second).max(axis=2) >= BLACK
    a, b = (image[cell].reshape(1, -1).astype(np.float64) for image in (first, second))
    return float(_correlations(a, b, np.ones_like(a, bool))[0])


def _grey(image: np.ndarray) -> np.ndarray:
    return image.mean(axis=2, dtype=np.float32)


def _best_shift(first: np.ndarray, second: np.ndarray) -> tuple[float, float]:
    """Rows and columns by which `second` lies below and right of `first`."""
    spectra = [np.fft.rfft2(grey - grey.mean()) for grey in (first, second)]
    match = np.fft.irfft2(spectra[0].conj() * spectra[1], first.shape)
    reach = max(1, int(_MAX_SHIFT * min(first.shape)))
    steps = np.arange(-reach, reach + 1)
    near = match[np.ix_(steps, steps)]
    down, right = map(int, np.unravel_index(np.argmax(near), near.shape))
    column, row = match[:, steps[right]], match[steps[down]]
    return float(steps[down] + _vertex(column, steps[down])), float(
        steps[right] + _vertex(row, steps[right])
    )


def _vertex(values: np.ndarray, peak: int) -> float:
    """Where, within half a step of `peak`, the parabola through it and its neighbours peaks."""
    left, middle, right = (float(values[(peak + step) % len(values)]) for step in (-1, 0, 1))
    curvature = left - 2 * middle + right
    return float(np.clip((left - right) / (2 * curvature), -0.5, 0.5)) if curvature < 0 else 0.0
