"""Image files to pixels. The only place that decodes, orients, crops or resizes files.

`headers` refuses what a header shows to be unusable before a pixel is decoded, `decoding` turns
a file into RGB, `colour` converts ICC profiles to sRGB, `storage` crops and resizes to the
pixels that a dataset stores and a network is served. `read` is all of them, for training,
batches and HTTP alike. `cost` finds the files that are known to
decode fast.
"""

from leuk_ray.datasets.images.cost import plain_pixels
from leuk_ray.datasets.images.decoding import Picture, decode, decode_picture
from leuk_ray.datasets.images.headers import (
    FORMATS,
    MAX_BYTES,
    MAX_PIXELS,
    BadImageError,
    file_bytes,
)
from leuk_ray.datasets.images.storage import (
    BLACK,
    CENTER_PIXELS,
    WHOLE,
    Crop,
    StorageSettings,
    cell_mask,
    cut_cell,
    read,
    to_storage,
)

__all__ = [
    "BLACK",
    "CENTER_PIXELS",
    "FORMATS",
    "MAX_BYTES",
    "MAX_PIXELS",
    "WHOLE",
    "BadImageError",
    "Crop",
    "Picture",
    "StorageSettings",
    "cell_mask",
    "cut_cell",
    "decode",
    "decode_picture",
    "file_bytes",
    "plain_pixels",
    "read",
    "to_storage",
]
