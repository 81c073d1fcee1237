"""Which cells may never be parted: those of one subject, and of every subject they share
an image with.

In C-NMC 2019, 99 pairs of identical images carry two different subject ids, so a split by
subject alone leaks. A group is a connected component of the graph that joins cells by
subject, by identical pixels and by the pairs that show the same picture or slide.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

import numpy as np
import pyarrow as pa
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

GROUPS_SCHEMA = pa.schema(
    [("uid", pa.string()), ("group", pa.string()), ("role", pa.string()), ("picture", pa.string())]
)


def assign_groups(
    cells: pa.Table,
    near: Iterable[tuple[str, str]] = (),
    slides: Iterable[tuple[str, str]] = (),
) -> pa.Table:
    """Group cells and pick the one row of each image that trains and scores.

    Args:
        cells: columns uid, subject (null: unknown, a subject of its own), label (null:
            unknown) and pixels_sha256, one row a cell.
        near: pairs of uids that show the same picture. They are joined and keep their roles.
        slides: pairs of uids that come from one slide. They are joined and keep their roles.

    Returns:
        GROUPS_SCHEMA in the order of `cells`. `group` is the first subject of the group.
        `role` is `keep`; `duplicate` for every further row of an image; `conflict` for all
        rows of an image that carries both labels. `picture` is the first uid of those with
        identical pixels and their near duplicates.
    """
    uids: list[str] = cells["uid"].to_pylist()  # pyright: ignore[reportAssignmentType]
    subjects = [
        subject if subject is not None else f"uid:{uid}"
        for subject, uid in zip(cells["subject"].to_pylist(), uids, strict=True)
    ]
    images = cells["pixels_sha256"].to_pylist()
    row_of = {uid: row for row, uid in enumerate(uids)}
    same_picture = [(row_of[first], row_of[second]) for first, second in near]
    same_slide = [(row_of[first], row_of[second]) for first, second in slides]
    component = _components(subjects, images, same_picture + same_slide)
    picture = _components(uids, images, same_picture)
    names: dict[int, str] = {}
    for subject, index in zip(subjects, component, strict=True):
        names[index] = min(names.get(index, subject), subject, key=natural)
    first_uid: dict[int, str] = {}
    for uid, index in zip(uids, picture, strict=True):
        first_uid[index] = min(first_uid.get(index, uid), uid, key=natural)
    return pa.table(
        {
            "uid": uids,
            "group": [names[index] for index in component],
            "role": _roles(uids, images, cells["label"].to_pylist()),
            "picture": [first_uid[index] for index in picture],
        },
        schema=GROUPS_SCHEMA,
    )


def natural(text: str) -> tuple[object, ...]:
    """Sort key that puts H2 before H10."""
    parts = re.split(r"(\d+)", text)
    return tuple((1, int(part), "") if part.isdigit() else (0, 0, part) for part in parts)


def _components(units: list[str], images: list[str], joined: list[tuple[int, int]]) -> list[int]:
    """Connected components of the graph row - unit, row - image, row - row, one number a row."""
    if not units:
        return []
    rows = np.arange(len(units))
    _, unit = np.unique(units, return_inverse=True)
    _, image = np.unique(images, return_inverse=True)
    unit_node = len(rows) + unit
    image_node = int(unit_node.max()) + 1 + image
    first, second = np.asarray(joined, np.int64).reshape(-1, 2).T
    start = np.concatenate([rows, rows, first])
    end = np.concatenate([unit_node, image_node, second])
    size = int(image_node.max()) + 1
    edges = coo_array((np.ones(len(start), np.int8), (start, end)), (size, size))
    _, component = connected_components(edges, directed=False)
    return component[: len(rows)].tolist()


def _roles(uids: list[str], images: list[str], labels: list[int | None]) -> list[str]:
    members: dict[str, list[int]] = {}
    for row, image in enumerate(images):
        members.setdefault(image, []).append(row)
    roles = ["keep"] * len(uids)
    for rows in members.values():
        known = {labels[row] for row in rows if labels[row] is not None}
        first = min(rows, key=lambda row: (labels[row] is None, natural(uids[row])))
        for row in rows:
            if len(known) > 1:
                roles[row] = "conflict"
            elif row != first:
                roles[row] = "duplicate"
    return roles
