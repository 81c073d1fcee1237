"""Where something lies, as callers name it."""

from __future__ import annotations

from collections.abc import Sequence

from leuk_ray.datasets.prepared import PreparedDataset
from leuk_ray.io.locations import Location, parse


def place(given: Location) -> Location:
    """Return a path or an address, from text as well."""
    return parse(given) if isinstance(given, str) else given


def places(given: Location | Sequence[Location]) -> list[Location]:
    """Return one path or address, or several."""
    several = [given] if isinstance(given, Location) else given
    return [place(one) for one in several]


def opened(data: Location | PreparedDataset) -> PreparedDataset:
    """Return a dataset that may be open already."""
    return data if isinstance(data, PreparedDataset) else PreparedDataset.open(place(data))
