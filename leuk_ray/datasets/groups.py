"""Which cells may never be parted: those of one subject, and of every subject they share
an image with.

In C-NMC 2019, 99 pairs of identical images carry two different subject ids, so a split by
subject alone leaks. A group is a connected component of the graph that joins cells by
subject and by identical pixels.
"""

from __future__ import annotations

import re

import numpy as np
import pyarrow as pa
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

GROUPS_SCHEMA = pa.schema([("uid", pa.string()), ("group", pa.string()), ("role", pa.string())])


def assign_groups(cells: pa.Table) -> pa.Table:
    """Group cells and pick the one row of each image that trains and scores.

    Args:
        cells: columns uid, subject (null: unknown, a subject of its own), label (null:
            unknown) and pixels_sha256, one row a cell.

    Returns:
        GROUPS_SCHEMA in the order of `cells`. `group` is the first subject of the group.
        `role` is `keep`; `duplicate` for every further row of an image; `conflict` for all
        rows of an image that carries both labels.
    """
    uids = cells["uid"].to_pylist()
    subjects = [
        subject if subject is not None else f"uid:{uid}"
        for subject, uid in zip(cells["subject"].to_pylist(), uids, strict=True)
    ]
    images = cells["pixels_sha256"].to_pylist()
    component = _components(subjects, images)
    names: dict[int, str] = {}
    for subject, index in zip(subjects, component, strict=True):
        names[index] = min(names.get(index, subject), subject, key=natural)
    return pa.table(
        {
            "uid": uids,
            "group": [names[index] for index in component],
            "role": _roles(uids, images, cells["label"].to_pylist()),
        },
        schema=GROUPS_SCHEMA,
    )


def natural(text: str) -> tuple[object, ...]:
    """Sort key that puts H2 before H10."""
    parts = re.split(r"(\d+)", text)
    return tuple((1, int(part), "") if part.isdigit() else (0, 0, part) for part in parts)


def _components(subjects: list[str], images: list[str]) -> list[int]:
    """Connected components of the bipartite graph subject - image, one number a row."""
    if not subjects:
        return []
    _, subject = np.unique(subjects, return_inverse=True)
    _, image = np.unique(images, return_inverse=True)
    offset = int(subject.max()) + 1
    size = offset + int(image.max()) + 1
    edges = coo_array((np.ones(len(subjects), np.int8), (subject, offset + image)), (size, size))
    _, component = connected_components(edges, directed=False)
    return component[subject].tolist()


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
