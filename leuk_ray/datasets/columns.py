"""Columns of Arrow as arrays of NumPy, and back; pixels without a copy."""

from __future__ import annotations

import numpy as np
import pyarrow as pa


def as_pixels(column: pa.Array | pa.ChunkedArray, size: int) -> np.ndarray:
    """View a fixed-size binary column as (N, size, size, 3) uint8; no copy of a single chunk."""
    return as_bytes(column, size * size * 3).reshape(-1, size, size, 3)


def as_bytes(column: pa.Array | pa.ChunkedArray, width: int) -> np.ndarray:
    """View a column of binary of `width` bytes as (N, width) uint8; no copy of a single chunk."""
    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    if not len(array):
        return np.empty((0, width), np.uint8)
    buffer = np.frombuffer(array.buffers()[1], np.uint8)
    return buffer[array.offset * width :][: len(array) * width].reshape(len(array), width)


def as_column(pixels: np.ndarray) -> pa.Array:
    """View (N, size, size, 3) uint8, C-contiguous, as a fixed-size binary column; no copy."""
    width = int(np.prod(pixels.shape[1:]))
    buffers = [None, pa.py_buffer(pixels)]
    return pa.Array.from_buffers(pa.binary(width), len(pixels), buffers)


def gather(pixels: np.ndarray, places: np.ndarray, out: np.ndarray) -> np.ndarray:
    """Copy `pixels[places]` into `out`, an image at a time; return `out`."""
    assert not len(places) or (places.min() >= 0 and places.max() < len(pixels)), "no such row"
    return np.take(pixels, places, axis=0, out=out, mode="clip")  # "raise" would copy twice


def codes(values: pa.Array) -> np.ndarray:
    """Number equal values from 0, in the order in which they first appear: (n,) int32."""
    return values.dictionary_encode().indices.to_numpy()
