"""What a dataset would leak or teach by accident: identical images, conflicts, balance."""

from __future__ import annotations

from collections import Counter

import pyarrow as pa

from leuk_ray.datasets.prepared import count_roles

LARGE_GROUP_SHARE = 0.2


def audit_cells(cells: pa.Table) -> dict:
    """Audit `PreparedDataset.cells`.

    Returns:
        Plain values: counts of cells, subjects and groups per class; `identical`, the list of
        images that occur more than once with their uids and subjects; `warnings`, sentences.
    """
    identical = _identical(cells)
    across = [item for item in identical if item["across_subjects"]]
    groups = Counter(cells["group"].to_pylist())
    largest, size = groups.most_common(1)[0]
    warnings = []
    if size > LARGE_GROUP_SHARE * len(cells):
        warnings.append(
            f"group {largest} holds {size} of {len(cells)} cells, more than "
            f"{LARGE_GROUP_SHARE:.0%}: one patient decides much of any result"
        )
    if across:
        warnings.append(
            f"{len(across)} images occur under several subjects: a split by subject alone leaks "
            "them; groups join those subjects"
        )
    roles = count_roles(cells)
    if roles.get("conflict"):
        warnings.append(f"{roles['conflict']} rows share an image but not a label: excluded")
    return {
        "cells": len(cells),
        "classes": {name: _class_counts(cells, label) for name, label in _CLASSES},
        "groups": len(groups),
        "largest_group": {"group": largest, "cells": size},
        "roles": roles,
        "sources": dict(Counter(cells["source"].to_pylist())),
        "identical_images": len(identical),
        "identical_images_across_subjects": len(across),
        "identical": identical,
        "warnings": warnings,
    }


_CLASSES = (("ALL", 1), ("healthy", 0), ("unlabelled", None))


def _class_counts(cells: pa.Table, label: int | None) -> dict[str, int]:
    columns = cells.select(["label", "subject", "group"])
    rows = [row for row in columns.to_pylist() if row["label"] == label]
    return {
        "cells": len(rows),
        "subjects": len({row["subject"] for row in rows} - {None}),
        "groups": len({row["group"] for row in rows}),
    }


def _identical(cells: pa.Table) -> list[dict]:
    members: dict[str, list[dict]] = {}
    for row in cells.select(["uid", "subject", "label", "pixels_sha256"]).to_pylist():
        members.setdefault(row["pixels_sha256"], []).append(row)
    return [
        {
            "uids": [row["uid"] for row in rows],
            "subjects": sorted({str(row["subject"]) for row in rows}),
            "across_subjects": len({row["subject"] for row in rows}) > 1,
            "labels_differ": len({row["label"] for row in rows} - {None}) > 1,
        }
        for rows in members.values()
        if len(rows) > 1
    ]
