"""Sites as units of a split: hospitals, laboratories or microscopes that stay in one set."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from leuk_ray.datasets.holdout import ROLES, UnsuitableError
from leuk_ray.utils.wording import counted


def site_units(cells: pa.Table) -> npt.NDArray[np.object_]:
    """Return the unit of each cell, (N,): its site, joined with those that share a group with it.

    Args:
        cells: with the columns site and group.

    Raises:
        UnsuitableError: a cell names no site, or there are fewer than three units.
    """
    known = "site" in cells.column_names
    nameless = cells["site"].null_count if known else len(cells)
    if nameless:
        raise UnsuitableError(
            f"protocol site-disjoint: {nameless} of {counted(len(cells), 'cell')} name no site; "
            "give it in a column site (--layout csv)"
        )
    sites, site = np.unique(np.asarray(cells["site"].to_pylist(), object), return_inverse=True)
    _, group = np.unique(np.asarray(cells["group"].to_pylist(), object), return_inverse=True)
    size = len(sites) + int(group.max()) + 1
    edges = coo_array((np.ones(len(site)), (site, len(sites) + group)), shape=(size, size))
    _, part = connected_components(edges, directed=False)
    names = {int(part[number]): str(name) for number, name in enumerate(sites)}  # the last of each
    if len(names) < len(ROLES):
        raise UnsuitableError(
            f"protocol site-disjoint: {counted(len(sites), 'site')}, of which "
            f"{len(names)} share no patient or image; at least {len(ROLES)} are needed "
            f"({', '.join(ROLES)})"
        )
    return np.asarray([names[int(number)] for number in part[site]], object)
