"""Rendered smears of patients whose share of blasts is known: several fields of view each.

A patient's cells are blasts with the patient's share, which runs through SHARES; the share of a
field is drawn around it (beta, intraclass correlation CLUSTERING), so cells of a field resemble
each other. Each field has its own stain. Blasts and healthy cells look as in `synthetic`, so the
best classifier that calls a cell by one threshold between the classes errs on 1 - Phi(d/2) of
either kind. Some cells, blasts more often, are planted so pale that detectors by stain miss them.

Beside fields/ lie cells.csv, the centre and class of every cell in its field; crops/ and crops.csv,
every cell that is not pale cut out with its class, to train on; and patients.csv.
"""

from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np
from PIL import Image

from leuk_ray.datasets.images import CENTER_PIXELS, cut_cell
from leuk_ray.datasets.layouts.catalogue import SYNTHETIC_MARKER
from leuk_ray.datasets.synthetic import SyntheticCell, SyntheticSpec, draw_cells, separation
from leuk_ray.datasets.synthetic_fields import MAX_CELLS_A_FIELD, WIDTH, render_field
from leuk_ray.io.storage import directory_by_rename, refuse_existing
from leuk_ray.utils.errors import ConfigError

SHARES = (0.0, 0.02, 0.05, 0.2, 0.5, 0.9)
CLUSTERING = 0.05
PALE = (0.02, 0.05)  # share of healthy cells and of blasts
PIXELS_PER_UM = 8.8  # of red cells 66 pixels wide
CROP_UM = 20
LABELS = ("healthy", "ALL")
_STAIN, _QUALITY, _FADED = 0.05, 92, 3.2


@dataclass(frozen=True, slots=True)
class SmearCell:
    """A cell of a field, and whether it was planted so pale that a detector misses it."""

    cell: SyntheticCell
    pale: bool


def draw_smears(spec: SyntheticSpec) -> list[list[SmearCell]]:
    """Draw the cells of every field; their `label` is 1 ALL, 0 healthy.

    Raises:
        ConfigError: the signal is in the nucleoli alone, which fields are too small for.
    """
    if spec.signal != "everywhere":
        raise ConfigError(f"signal is {spec.signal}: too small for fields; give everywhere")
    apart = separation(spec.best_auc)
    by_patient: dict[int, list[SyntheticCell]] = {}
    for cell in draw_cells(spec):
        by_patient.setdefault(cell.key[0], []).append(cell)
    fields = []
    for patient, cells in by_patient.items():
        rng = np.random.default_rng([spec.seed, patient, 3])
        share = SHARES[patient % len(SHARES)]
        for start in range(0, len(cells), MAX_CELLS_A_FIELD):
            local = share
            if share:
                scale = (1 - CLUSTERING) / CLUSTERING
                local = rng.beta(share * scale, (1 - share) * scale)
            stain = np.exp(_STAIN * rng.standard_normal(3))
            own = cells[start : start + MAX_CELLS_A_FIELD]
            fields.append([_recast(cell, rng, local, stain, apart) for cell in own])
    return fields


def _recast(
    cell: SyntheticCell, rng: np.random.Generator, share: float, stain: np.ndarray, apart: float
) -> SmearCell:
    """Give the cell a random class, at the share of its field, in the field's stain."""
    label = int(rng.random() < share)
    pale = bool(rng.random() < PALE[label])
    colour = np.asarray(cell.mean_color) * stain * (_FADED if pale else 1)
    recast = replace(
        cell,
        subject=f"P{cell.key[0] + 1:02}",
        label=label,
        latent=cell.latent + (label - cell.label) * apart,
        mean_color=tuple(colour.tolist()),
    )
    return SmearCell(recast, pale)


def write_smears(
    directory: Path,
    spec: SyntheticSpec,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Any]:
    """Write fields, crops and tables into a new folder; see the module.

    Returns:
        What SYNTHETIC.json holds: spec, shares, counts, and how often the best threshold errs.

    Raises:
        UserError: the folder exists, or the signal is in the nucleoli alone.
    """
    refuse_existing(directory, "folder of fields")
    fields = draw_smears(spec)
    counts: Counter[str] = Counter()
    rows: list[dict[str, Any]] = []
    with directory_by_rename(directory.absolute(), new="folder of fields") as root:
        numbers: Counter[str] = Counter()
        for done, cells in enumerate(fields, start=1):
            subject = cells[0].cell.subject
            numbers[subject] += 1
            name = f"{subject}/{subject}_{numbers[subject]:02}"
            rows += _write_field(root, name, cells, spec.seed, done)
            progress(done, len(fields))
        cropped = [row for row in rows if row["crop"]]
        _write_csv(
            root / "crops.csv",
            [
                {
                    "path": row["crop"],
                    "label": row["label"],
                    "subject": row["subject"],
                    "source_image": row["file"],
                }
                for row in cropped
            ],
        )
        _write_csv(root / "cells.csv", rows)
        _write_csv(root / "patients.csv", list(_patients(rows)))
        counts.update(fields=len(fields), cells=len(rows), crops=len(cropped))
        values = {
            "synthetic": True,
            "spec": asdict(spec),
            "shares": SHARES,
            "pixels_per_um": PIXELS_PER_UM,
            "best_auc": spec.best_auc,
            "threshold_error": NormalDist().cdf(-separation(spec.best_auc) / 2),
            "counts": dict(counts),
        }
        text = json.dumps(values, indent=2) + "\n"
        (root / SYNTHETIC_MARKER).write_text(text, encoding="utf-8")
    return values


def _write_field(
    root: Path, name: str, cells: list[SmearCell], seed: int, number: int
) -> Iterator[dict[str, Any]]:
    """Write a field and its crops; yield a row for each cell."""
    strip, centers = render_field([one.cell for one in cells], seed, number)
    path = root / "fields" / f"{name}.jpg"
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(strip[:, :WIDTH]).save(path, quality=_QUALITY)
    with Image.open(path) as image:
        field = np.asarray(image)
    for place, (one, (x, y)) in enumerate(zip(cells, centers, strict=True), start=1):
        crop = "" if one.pale else f"crops/{name}_{place:02}.png"
        if crop:
            side = round(CROP_UM * PIXELS_PER_UM)
            cut = Image.fromarray(cut_cell(field, (x, y), side))
            (root / crop).parent.mkdir(parents=True, exist_ok=True)
            cut = cut.resize((CENTER_PIXELS, CENTER_PIXELS), Image.Resampling.BICUBIC)
            cut.save(root / crop, compress_level=1)
        yield {
            "file": f"{name}.jpg",
            "x": x,
            "y": y,
            "label": LABELS[one.cell.label],
            "subject": one.cell.subject,
            "latent": one.cell.latent,
            "crop": crop,
        }


def _patients(rows: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Return a row for each patient: the share used for its cells, and the cells."""
    cells = Counter(row["subject"] for row in rows)
    blasts = Counter(row["subject"] for row in rows if row["label"] == LABELS[1])
    for subject in cells:
        yield {
            "subject": subject,
            "share": SHARES[(int(subject[1:]) - 1) % len(SHARES)],
            "cells": cells[subject],
            "blasts": blasts[subject],
        }


def _write_csv(path: Path, rows: list[dict[str, Any]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
