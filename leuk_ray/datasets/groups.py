"""Which cells may never be parted: those of one subject, and of every subject they share
an image or a field of view with.

In C-NMC 2019, 99 pairs of identical images carry two different subject ids, so a split by
subject alone leaks. A group is a connected component of the graph that joins cells by
subject, by identical pixels, by the field that they were cut from, and by the pairs that show the
same picture or slide.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from leuk_ray.datasets.columns import codes
from leuk_ray.utils.wording import natural

GROUPS_SCHEMA = pa.schema(
    [(name, pa.string()) for name in ("uid", "group", "status", "duplicate_id")]
)

_STATUSES = ["keep", "duplicate", "conflict"]
_KEEP, _DUPLICATE, _CONFLICT = range(len(_STATUSES))


def assign_groups(
    cells: pa.Table,
    near: Iterable[tuple[str, str]] = (),
    slides: Iterable[tuple[str, str]] = (),
) -> pa.Table:
    """Group cells and pick the one row of each image that trains and scores.

    Args:
        cells: columns uid, subject (null: unknown, a subject of its own), label (null:
            unknown), pixels_sha256 and, where it is known, source_image, one row a cell.
        near: pairs of uids that show the same picture. They are joined and keep their status.
        slides: pairs of uids that come from one slide. They are joined and keep their status.

    Returns:
        GROUPS_SCHEMA in the order of `cells`. `group` is the first subject of the group.
        `status` is `keep`; `duplicate` for every further row of an image; `conflict` for all
        rows of an image that carries both labels. `duplicate_id` is the first uid of those with
        identical pixels and their near duplicates.
    """
    uids = cells["uid"].combine_chunks()
    units = (
        subject if subject is not None else f"uid:{uid}"
        for subject, uid in zip(cells["subject"].to_pylist(), uids.to_pylist(), strict=True)
    )
    subjects = pa.array(units, pa.string())
    image = codes(cells["pixels_sha256"].combine_chunks())
    near_pairs, slide_pairs = _rows_of(near, uids), _rows_of(slides, uids)
    joined = np.concatenate([near_pairs, slide_pairs, _rows_of_one_field(cells)])
    group = _components(codes(subjects), image, joined)
    duplicates = _components(codes(uids), image, near_pairs)
    return pa.table(
        {
            "uid": uids,
            "group": _first_names(subjects, group),
            "status": _statuses(uids, image, cells["label"]),
            "duplicate_id": _first_names(uids, duplicates),
        },
        schema=GROUPS_SCHEMA,
    )


def _rows_of(pairs: Iterable[tuple[str, str]], uids: pa.Array) -> np.ndarray:
    """(m, 2) rows of m pairs of uids."""
    pairs = list(pairs)
    wanted = pa.array([uid for pair in pairs for uid in pair], pa.string())
    named = pa.table({"uid": uids, "row": np.arange(len(uids))}).filter(
        pc.field("uid").isin(wanted)
    )
    row = dict(zip(named["uid"].to_pylist(), named["row"].to_pylist(), strict=True))
    return np.asarray([(row[a], row[b]) for a, b in pairs], np.int64).reshape(-1, 2)


def _rows_of_one_field(cells: pa.Table) -> np.ndarray:
    """(m, 2) rows, each with the first of its field."""
    if "source_image" not in cells.column_names:
        return np.empty((0, 2), np.int64)
    rows = np.flatnonzero(cells["source_image"].is_valid().to_numpy())
    fields = codes(cells["source_image"].combine_chunks().take(pa.array(rows)))
    _, first, of = np.unique(fields, return_index=True, return_inverse=True)
    return np.stack([rows[first[of]], rows], axis=1)


def _components(unit: np.ndarray, image: np.ndarray, joined: np.ndarray) -> np.ndarray:
    """Number the connected components of row - unit, row - image, row - row, by row."""
    if not len(unit):
        return unit
    rows = np.arange(len(unit))
    unit_node = len(rows) + unit
    image_node = int(unit_node.max()) + 1 + image
    first, second = joined.T
    start = np.concatenate([rows, rows, first])
    end = np.concatenate([unit_node, image_node, second])
    size = int(image_node.max()) + 1
    edges = coo_array((np.ones(len(start), np.int8), (start, end)), (size, size))
    _, component = connected_components(edges, directed=False)
    return component[: len(rows)]


def _first_names(texts: pa.Array, component: np.ndarray) -> pa.Array:
    """For each row the first, in natural order, of the texts of its component."""
    encoded = texts.dictionary_encode()
    names = encoded.dictionary
    _, row = np.unique(encoded.indices.to_numpy(), return_index=True)
    of = component[row]  # a text lies in one component, a component may have several
    first = np.empty(len(component) and component.max() + 1, np.int64)
    first[of] = np.arange(len(of))
    rivals = np.flatnonzero(np.bincount(of)[of] > 1)
    words = names.take(pa.array(rivals)).to_pylist()
    order = sorted(range(len(rivals)), key=lambda place: natural(words[place]))
    last_to_first = rivals[order][::-1]
    first[of[last_to_first]] = last_to_first  # of several the last that is written stays
    return names.take(pa.array(first[component]))


def _statuses(uids: pa.Array, image: np.ndarray, labels: pa.ChunkedArray) -> pa.Array:
    statuses = np.full(len(image), _KEEP, np.int8)
    shared = np.flatnonzero(np.bincount(image)[image] > 1)
    chosen = pa.array(shared)
    members: dict[int, list[tuple[int, str, int | None]]] = {}
    for row, uid, label in zip(
        shared.tolist(), uids.take(chosen).to_pylist(), labels.take(chosen).to_pylist(), strict=True
    ):
        members.setdefault(int(image[row]), []).append((row, uid, label))
    for same in members.values():
        known = {label for _, _, label in same if label is not None}
        rows = [row for row, _, _ in same]
        if len(known) > 1:
            statuses[rows] = _CONFLICT
            continue
        first, _, _ = min(same, key=lambda one: (one[2] is None, natural(one[1])))
        statuses[rows] = _DUPLICATE
        statuses[first] = _KEEP
    return pa.DictionaryArray.from_arrays(statuses, _STATUSES).dictionary_decode()
