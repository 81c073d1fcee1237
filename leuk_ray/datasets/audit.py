"""What a dataset would leak or teach by accident: copies, conflicts, imbalance, shortcuts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import pyarrow as pa

from leuk_ray.datasets.prepared import PreparedDataset, count_roles
from leuk_ray.datasets.shortcuts import shortcut_baselines
from leuk_ray.datasets.splits import PROTOCOLS, SplitSettings, crossings, describe, split_cells
from leuk_ray.errors import UserError

LARGE_GROUP_SHARE = 0.2
SHORTCUT_AUC = 0.7


def audit_dataset(
    dataset: PreparedDataset, progress: Callable[[int, int], None] = lambda done, total: None
) -> dict:
    """Audit a dataset, pixels too.

    Returns:
        What `audit_cells` returns, and `near_pairs`, the pairs with their correlation;
        `slides`, how many crops were found in their field and which fields overlap;
        `protocols`, what each leaks and how many, or why it cannot be used; `shortcuts`, see
        `shortcuts.shortcut_baselines`.
    """
    audit = audit_cells(dataset.cells)
    shortcuts = shortcut_baselines(dataset.cells, dataset.reader(), progress)
    for name, found in shortcuts.items():
        best = max(found["logistic_regression"] or 0, found["gradient_boosting"] or 0)
        if best >= SHORTCUT_AUC:
            audit["warnings"].append(
                f"{name} alone reaches an area under ROC of {best:.2f} in group cross-validation: "
                "a network can be right for that reason"
            )
    return {
        **audit,
        "near_pairs": dataset.near_duplicates.to_pylist(),
        "slides": _slides(dataset.slides),
        "protocols": {name: _leaks(dataset.cells, name) for name in PROTOCOLS},
        "shortcuts": shortcuts,
    }


def _slides(pairs: pa.Table) -> dict:
    kinds = pairs.to_pylist()
    return {
        "crops_found": sum(pair["kind"] == "crop" for pair in kinds),
        "overlapping": [
            {"uids": [pair["uid_a"], pair["uid_b"]], "correlation": pair["correlation"]}
            for pair in kinds
            if pair["kind"] == "overlap"
        ],
    }


def _leaks(cells: pa.Table, protocol: str) -> dict:
    try:
        split = split_cells(cells, SplitSettings.model_validate({"protocol": protocol}))
    except UserError as error:
        return {"error": str(error)}
    return {
        "leaky": PROTOCOLS[protocol].leaky,
        "roles": describe(split, cells),
        "crossings": crossings(split, cells),
        "left_out": len(cells) - len(split),
    }


def audit_cells(cells: pa.Table) -> dict:
    """Audit `PreparedDataset.cells`.

    Returns:
        Plain values: counts of cells, subjects and groups per class; `identical`, the list of
        images that occur more than once with their uids and subjects; `near_duplicates`, the
        pictures that several images show; `balance`, column -> value -> cells of each class;
        `warnings`, sentences.
    """
    identical = _identical(cells)
    near = _near(cells)
    near_across = [item for item in near if item["across_subjects"]]
    across = [item for item in identical if item["across_subjects"]]
    groups = Counter(cells["group"].to_pylist())
    largest, size = groups.most_common(1)[0]
    classes = {name: _class_counts(cells, label) for name, label in _CLASSES}
    warnings = [
        f"no cell is labelled {name}: nothing can be split or trained"
        for name in ("ALL", "healthy")
        if not classes[name]["cells"]
    ]
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
    if near_across:
        warnings.append(
            f"{len(near_across)} pictures occur under several subjects as near duplicates; groups "
            "join those subjects"
        )
    roles = count_roles(cells)
    if roles.get("conflict"):
        warnings.append(f"{roles['conflict']} rows share an image but not a label: excluded")
    return {
        "cells": len(cells),
        "classes": classes,
        "groups": len(groups),
        "largest_group": {"group": largest, "cells": size},
        "roles": roles,
        "sources": dict(Counter(cells["source"].to_pylist())),
        "balance": {name: _balance(cells, name) for name in _BALANCED},
        "identical_images": len(identical),
        "identical_images_across_subjects": len(across),
        "identical": identical,
        "near_duplicates": near,
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


_BALANCED = ("subject", "source", "official_split", "site", "stain", "format")


def _balance(cells: pa.Table, column: str) -> dict[str, dict[str, int]]:
    """value -> cells of each class."""
    out: dict[str, dict[str, int]] = {}
    names = {label: name for name, label in _CLASSES}
    for value, label in zip(cells[column].to_pylist(), cells["label"].to_pylist(), strict=True):
        counts = out.setdefault("unknown" if value is None else str(value), Counter())
        counts[names[label]] += 1
    return {value: dict(counts) for value, counts in out.items()}


def _identical(cells: pa.Table) -> list[dict]:
    return [
        {**_described(rows), "labels_differ": len({row["label"] for row in rows} - {None}) > 1}
        for rows in _members(cells, "pixels_sha256")
        if len(rows) > 1
    ]


def _near(cells: pa.Table) -> list[dict]:
    """Pictures that several different images show, each image by its first uid."""
    out = []
    for rows in _members(cells, "picture"):
        first = {row["pixels_sha256"]: row for row in reversed(rows)}
        if len(first) > 1:
            out.append(_described(sorted(first.values(), key=lambda row: row["uid"])))
    return out


def _members(cells: pa.Table, column: str) -> list[list[dict]]:
    members: dict[str, list[dict]] = {}
    columns = ["uid", "subject", "label", "pixels_sha256", "picture"]
    for row in cells.select(columns).to_pylist():
        members.setdefault(row[column], []).append(row)
    return list(members.values())


def _described(rows: list[dict]) -> dict:
    return {
        "uids": [row["uid"] for row in rows],
        "subjects": sorted({str(row["subject"]) for row in rows}),
        "across_subjects": len({row["subject"] for row in rows}) > 1,
    }
