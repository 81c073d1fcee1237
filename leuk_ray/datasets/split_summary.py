"""Count what a split holds, and how far it is from the shares that were asked for."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from leuk_ray.datasets.classes import ClassSet
from leuk_ray.datasets.holdout import ROLES
from leuk_ray.datasets.leakage import unknown_patients
from leuk_ray.datasets.splits import SplitSettings, split_cells
from leuk_ray.utils.errors import UserError


def describe(split: pa.Table, cells: pa.Table, classes: ClassSet) -> dict[str, dict[str, Any]]:
    """Count the rows of each role.

    Returns:
        role -> {cells: rows, which are copies of cells under `paper-literal`; classes: the same by
        class; distinct_cells; subjects: that are named; without_subject: distinct cells
        that name none; groups}.
    """
    label = dict(zip(cells["uid"].to_pylist(), cells["label"].to_pylist(), strict=True))
    out = {}
    for role in ROLES:
        rows = split.filter(pc.field("role") == role)
        labels = [label[uid] for uid in rows["uid"].to_pylist()]
        nameless = rows.filter(pc.field("subject").is_null())
        out[role] = {
            "cells": len(rows),
            "classes": classes.count(labels),
            "distinct_cells": len(rows["uid"].unique()),
            "subjects": len(rows["subject"].unique().drop_null()),
            "without_subject": len(nameless["uid"].unique()),
            "groups": len(rows["group"].unique()),
        }
    return out


def count_left_out(split: pa.Table, cells: pa.Table) -> int:
    """Count the cells that have no role: duplicates, conflicts, unlabelled or official sets."""
    return len(cells) - len(split["uid"].unique())


def largest_gap(
    split: pa.Table, settings: SplitSettings, classes: ClassSet
) -> dict[str, Any] | None:
    """Find the role and class whose share of cells is furthest from what was asked for.

    Returns:
        role, class, share and asked, 0..1; None under `official-folds`, which asks for no shares.
    """
    if settings.protocol == "official-folds":
        return None
    label, role = split["label"].to_numpy(), np.asarray(split["role"].to_pylist())
    found: list[dict[str, Any]] = [
        {
            "role": name,
            "class": class_name,
            "share": float((role[label == number] == name).mean()),
            "asked": asked,
        }
        for number, class_name in enumerate(classes.names)
        for name, asked in zip(ROLES, settings.asked, strict=True)
    ]
    return max(found, key=lambda gap: abs(gap["share"] - gap["asked"]))


def count_test_groups(split: pa.Table, classes: ClassSet) -> dict[str, int]:
    """Count the groups of each class in the test set; a group of several counts for each."""
    test = split.filter(pc.field("role") == "test")
    return {
        name: len(test.filter(pc.field("label") == number)["group"].unique())
        for number, name in enumerate(classes.names)
    }


def default_split(cells: pa.Table, classes: ClassSet) -> dict[str, Any]:
    """Summarise the split that `train` makes where nothing else is asked for.

    Returns:
        unknown_patients: a warning, empty where cells name subjects or fields; and largest_gap
        and test_groups, or error, where the default protocol cannot split the cells.
    """
    settings, unknown = SplitSettings(), {"unknown_patients": unknown_patients(cells)}
    try:
        split = split_cells(cells, settings, classes)
    except UserError as error:
        return unknown | {"error": str(error)}
    return unknown | {
        "largest_gap": largest_gap(split, settings, classes),
        "test_groups": count_test_groups(split, classes),
    }
