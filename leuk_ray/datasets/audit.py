"""What a dataset would leak or teach by accident: copies, conflicts, imbalance, shortcuts."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa

from leuk_ray.datasets.classes import ClassSet
from leuk_ray.datasets.leakage import crossings, find_leakage, origin_of, unknown_patients
from leuk_ray.datasets.prepared import PreparedDataset, count_statuses
from leuk_ray.datasets.protocols import PROTOCOLS
from leuk_ray.datasets.shortcuts import CHANCE, shortcut_baselines
from leuk_ray.datasets.split_summary import count_left_out, describe
from leuk_ray.datasets.splits import SplitSettings, split_cells
from leuk_ray.io.locations import join
from leuk_ray.io.storage import exists, read_json, write_json
from leuk_ray.utils.errors import UserError
from leuk_ray.utils.wording import counted

SCHEMA_VERSION = 5  # 3: shortcuts by permutation; 4: any number of classes; 5: statuses
LARGE_GROUP_SHARE = 0.2
_CHANCE = 0.01  # a size that one class alone has is named where chance would rarely give that
_MIN_OF_SIZE = 10


def known_audit(
    dataset: PreparedDataset, progress: Callable[[int, int], None] = lambda done, total: None
) -> dict[str, Any]:
    """Read the audit that lies in a dataset, or audit it and leave the audit there.

    A dataset that may not be written to is audited each time.
    """
    place = join(dataset.location, "audit.json")
    if exists(place):
        audit = read_json(place)
        if audit.get("schema_version") == SCHEMA_VERSION:
            return audit
    audit = audit_dataset(dataset, progress)
    with contextlib.suppress(OSError, UserError):
        write_json(place, audit)
    return audit


def audit_dataset(
    dataset: PreparedDataset, progress: Callable[[int, int], None] = lambda done, total: None
) -> dict[str, Any]:
    """Audit a dataset, pixels too.

    Returns:
        What `audit_cells` returns, and `near_pairs`, the pairs with their correlation;
        `slides`, how many crops were found in their field and which fields overlap;
        `protocols`, what each leaks and how many, or why it cannot be used; `shortcuts`, see
        `shortcuts.shortcut_baselines`, and `shortcuts_by_source`, the same of each source that
        has both classes, where there are several sources.
    """
    audit = audit_cells(dataset.cells, dataset.classes)
    shortcuts, of_source = shortcut_baselines(
        dataset.cells, dataset.classes, dataset.reader(), progress
    )
    audit["warnings"] += _shortcut_warnings(shortcuts, of_source, dataset.classes)
    return {
        "schema_version": SCHEMA_VERSION,
        **audit,
        "near_pairs": dataset.near_duplicates.to_pylist(),
        "slides": _slides(dataset.slides),
        "protocols": {name: _leaks(dataset.cells, name, dataset.classes) for name in PROTOCOLS},
        "shortcuts": shortcuts,
        "shortcuts_by_source": of_source,
    }


def _shortcut_warnings(
    shortcuts: dict[str, Any], of_source: dict[str, dict[str, Any]], classes: ClassSet
) -> list[str]:
    two = len(classes) == 2
    positive = " or ".join(classes.positive)
    others = classes.names[0] if two else "the other classes"
    places = {"": shortcuts} | {
        f" among the images of {name}": of_source[name] for name in of_source
    }
    warnings = []
    for where, own in places.items():
        for name, found in own.items():
            if found["p"] is None or not (
                found["p"] <= CHANCE or (found["few"] and found["auc"] >= found["chance"])
            ):
                continue
            chance = (
                f"with so few subjects chance reaches that in {found['p']:.0%}"
                if found["few"]
                else f"labels exchanged between subjects exceed {found['chance']:.2f} in "
                f"{CHANCE:.0%} of permutations"
            )
            warnings.append(
                f"{name} alone separates {positive} from {others}: area under ROC "
                f"{found['auc']:.2f}{where} (cross-validated by group; {chance}): a network can be "
                "right for that reason"
            )
    return warnings


def _slides(pairs: pa.Table) -> dict[str, Any]:
    kinds = pairs.to_pylist()
    return {
        "crops_found": sum(pair["kind"] == "crop" for pair in kinds),
        "overlapping": [
            {"uids": [pair["uid_a"], pair["uid_b"]], "correlation": pair["correlation"]}
            for pair in kinds
            if pair["kind"] == "overlap"
        ],
    }


def _leaks(cells: pa.Table, protocol: str, classes: ClassSet) -> dict[str, Any]:
    settings = SplitSettings.model_validate({"protocol": protocol})
    try:
        split = split_cells(cells, settings, classes)
    except UserError as error:
        return {"error": str(error)}
    found = find_leakage(split, cells)
    return {
        "leaky": found.leaky,
        "leakage": found.text,
        "roles": describe(split, cells, classes),
        "crossings": crossings(split, cells),
        "left_out": count_left_out(split, cells),
    }


def audit_cells(cells: pa.Table, known: ClassSet) -> dict[str, Any]:
    """Audit `PreparedDataset.cells`, whose labels mean the `known` classes.

    Returns:
        Plain values: counts of cells, subjects and groups per class; `identical`, the list of
        images that occur more than once with their uids and subjects; `near_duplicates`, the
        pictures that several images show; `balance`, column -> value -> cells of each class;
        `image_sizes`, cells of each class by source, width, height and format; `origin`, what all
        cells are known to come from (subject, field, or image alone); `warnings`, sentences.
    """
    identical = _identical(cells)
    near = _near(cells)
    near_across = [item for item in near if item["across_subjects"]]
    across = [item for item in identical if item["across_subjects"]]
    groups = Counter(cells["group"].to_pylist())
    largest, size = groups.most_common(1)[0]
    names: _Names = {**dict(enumerate(known.names)), None: UNLABELLED}
    classes = {name: _class_counts(cells, label) for label, name in names.items()}
    warnings = [
        f"no cell is labelled {name}: nothing can be split or trained"
        for name in known.names
        if not classes[name]["cells"]
    ]
    if unknown := unknown_patients(cells):
        warnings.append(unknown)
    if size > LARGE_GROUP_SHARE * len(cells):
        warnings.append(
            f"group {largest} holds {size} of {counted(len(cells), 'cell')}, more than "
            f"{LARGE_GROUP_SHARE:.0%}: one patient decides much of any result"
        )
    if across:
        warnings.append(
            f"{counted(len(across), 'image')} stored under several subjects: a split by subject "
            "alone leaks them; groups join those subjects"
        )
    if near_across:
        warnings.append(
            f"{counted(len(near_across), 'set')} of near-duplicate images under several subjects; "
            "groups join those subjects"
        )
    statuses = count_statuses(cells)
    if statuses.get("conflict"):
        warnings.append(
            f"{counted(statuses['conflict'], 'row')} share an image but not a label: excluded"
        )
    sizes = _image_sizes(cells, names)
    warnings += _one_class_sizes(sizes, known)
    return {
        "cells": len(cells),
        "classes": classes,
        "groups": len(groups),
        "largest_group": {"group": largest, "cells": size},
        "statuses": statuses,
        "sources": dict(Counter(cells["source"].fill_null("unknown").to_pylist())),
        "balance": {name: _balance(cells, name, names) for name in _BALANCED},
        "image_sizes": sizes,
        "origin": origin_of(cells, np.arange(len(cells))),
        "identical_images": len(identical),
        "identical_images_across_subjects": len(across),
        "identical": identical,
        "near_duplicates": near,
        "warnings": warnings,
    }


UNLABELLED = "unlabelled"
_Names = dict[int | None, str]  # label -> class


def _class_counts(cells: pa.Table, label: int | None) -> dict[str, int]:
    columns = cells.select(["label", "subject", "group"])
    rows = [row for row in columns.to_pylist() if row["label"] == label]
    return {
        "cells": len(rows),
        "subjects": len({row["subject"] for row in rows} - {None}),
        "groups": len({row["group"] for row in rows}),
    }


_BALANCED = ("subject", "source", "official_split", "site", "stain", "format")


def _balance(cells: pa.Table, column: str, names: _Names) -> dict[str, dict[str, int]]:
    """value -> cells of each class."""
    out: dict[str, dict[str, int]] = {}
    for value, label in zip(cells[column].to_pylist(), cells["label"].to_pylist(), strict=True):
        counts = out.setdefault("unknown" if value is None else str(value), Counter())
        counts[names[label]] += 1
    return {value: dict(counts) for value, counts in out.items()}


def _image_sizes(cells: pa.Table, names: _Names) -> list[dict[str, Any]]:
    """Cells of each class by source, width, height and format of their files, most first."""
    columns = ["source", "width", "height", "format"]
    found: dict[tuple[Any, ...], Counter[str]] = {}
    for row in cells.select([*columns, "label"]).to_pylist():
        key = tuple(row[name] for name in columns)
        found.setdefault(key, Counter())[names[row["label"]]] += 1
    return [
        dict(zip(columns, key, strict=True))
        | {"classes": {name: counts[name] for name in names.values()}}
        for key, counts in sorted(found.items(), key=lambda item: (-item[1].total(), str(item[0])))
    ]


def _one_class_sizes(sizes: list[dict[str, Any]], known: ClassSet) -> list[str]:
    """Sizes that one class alone has in a source that has several."""
    warnings = []
    for source in dict.fromkeys(item["source"] for item in sizes):
        own = [item for item in sizes if item["source"] == source]
        total = {name: sum(item["classes"][name] for item in own) for name in known.names}
        for item in own:
            found = {name: n for name in known.names if (n := item["classes"][name])}
            for name, images in found.items() if len(found) == 1 else ():
                share = total[name] / sum(total.values())
                if share < 1 and images >= _MIN_OF_SIZE and share**images < _CHANCE:
                    warnings.append(
                        f"all {counted(images, 'image')} of {item['width']} x {item['height']} "
                        f"pixels ({item['format']}, {source}) are {name}: image resolution can "
                        "stand in for the class"
                    )
    return warnings


def _identical(cells: pa.Table) -> list[dict[str, Any]]:
    return [
        {**_described(rows), "labels_differ": len({row["label"] for row in rows} - {None}) > 1}
        for rows in _members(cells, "pixels_sha256")
        if len(rows) > 1
    ]


def _near(cells: pa.Table) -> list[dict[str, Any]]:
    """Pictures that several different images show, each image by its first uid."""
    out = []
    for rows in _members(cells, "duplicate_id"):
        first = {row["pixels_sha256"]: row for row in reversed(rows)}
        if len(first) > 1:
            out.append(_described(sorted(first.values(), key=lambda row: row["uid"])))
    return out


def _members(cells: pa.Table, column: str) -> list[list[dict[str, Any]]]:
    members: dict[str, list[dict[str, Any]]] = {}
    columns = ["uid", "subject", "label", "pixels_sha256", "duplicate_id"]
    for row in cells.select(columns).to_pylist():
        members.setdefault(row[column], []).append(row)
    return list(members.values())


def _described(rows: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "uids": [row["uid"] for row in rows],
        "subjects": sorted({str(row["subject"]) for row in rows}),
        "across_subjects": len({row["subject"] for row in rows}) > 1,
    }
