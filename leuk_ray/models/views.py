"""Flips and quarter turns of an image: a cell has no up and no left."""

from __future__ import annotations

import torch
from torch import Tensor

from leuk_ray.models.settings import Views

_FLIPS = ((), (-1,), (-2,), (-2, -1))  # dims that are turned over
NUM_VIEWS: dict[Views, int] = {"one": 1, "flips": 4, "dihedral": 8}


def views_of(images: Tensor, views: Views) -> Tensor:
    """Stack the views of square images: (N, C, S, S) -> (V N, C, S, S), view by view."""
    if views == "one":
        return images
    flipped = [images.flip(dims) for dims in _FLIPS]
    if views == "dihedral":
        flipped += [one.transpose(-1, -2) for one in flipped]
    return torch.cat(flipped)


def mean_of_views(values: Tensor, views: Views) -> Tensor:
    """Average what was computed of `views_of`: (V N, ...) -> (N, ...)."""
    if views == "one":
        return values
    return values.unflatten(0, (NUM_VIEWS[views], -1)).mean(dim=0)


def sum_upright(maps: Tensor, views: Views) -> Tensor:
    """Turn maps of `views_of` back to the image and add them: (V N, h, h) -> (N, h, h)."""
    if views == "one":
        return maps
    parts = list(maps.unflatten(0, (NUM_VIEWS[views], -1)).unbind())
    parts[4:] = [one.transpose(-1, -2) for one in parts[4:]]
    upright = [one.flip(_FLIPS[number % 4]) for number, one in enumerate(parts)]
    return torch.stack(upright).sum(dim=0)
