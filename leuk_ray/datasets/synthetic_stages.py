"""Rendered cells of K stages of maturation, whose best possible balanced accuracy is known.

As `synthetic`, but the latent of a cell of stage k = 0..K-1 has the mean (k - (K - 1) / 2) d:
neighbouring stages lie d apart. Every subject has cells of all stages, equally many but for a rest
of one each, so stages are equally frequent and a subject's stain says nothing about them.

With equal frequencies and variances the best rule calls the stage whose mean is nearest (Bayes), so
the outer stages are called correctly with Phi(d/2), the K - 2 inner ones with 2 Phi(d/2) - 1, and

    best balanced accuracy = (2 (K - 1) Phi(d/2) - (K - 2)) / K

The pixels inherit the bound, since an image depends on the stage only through the latent. For K = 2
it is that of a single threshold, Phi(d/2).
"""

from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from statistics import NormalDist

import numpy as np
from PIL import Image

from leuk_ray.datasets.layouts.catalogue import SYNTHETIC_FILES
from leuk_ray.datasets.synthetic import (
    SyntheticCell,
    SyntheticSpec,
    draw_cells,
    render,
    separation,
)
from leuk_ray.io.storage import directory_by_rename
from leuk_ray.utils.errors import ConfigError

MAX_STAGES = 20
DERIVATION = (
    "latent s ~ N((k - (K - 1) / 2) d, 1) for cells of stage k = 0..K-1, equally frequent; the "
    "image depends on the stage only through s; so no classifier of single cells has an expected "
    "balanced accuracy above (2 (K - 1) Phi(d / 2) - (K - 2)) / K = best_balanced_accuracy"
)


def best_balanced_accuracy(stages: int, neighbour_auc: float) -> float:
    """Compute the best expected balanced accuracy; `neighbour_auc` is that of two neighbours."""
    outer = NormalDist().cdf(separation(neighbour_auc) / 2)
    return (2 * (stages - 1) * outer - (stages - 2)) / stages


def draw_stages(spec: SyntheticSpec, stages: int) -> list[SyntheticCell]:
    """Draw a spec's cells, subject by subject; `label` is the stage, 0..stages-1.

    Args:
        spec: `best_auc` is that of two neighbouring stages.
        stages: how many there are.

    Raises:
        ConfigError: fewer than 3 or too many stages, or the signal in the nucleoli alone.
    """
    if not 3 <= stages <= MAX_STAGES:
        raise ConfigError(f"classes is {stages}; give 2, or 3 to {MAX_STAGES} stages")
    if spec.signal != "everywhere":
        raise ConfigError(f"signal is {spec.signal}; stages show in all cues: give everywhere")
    apart = separation(spec.best_auc)
    # The outermost stages show as the two classes of `synthetic` do, those between in between.
    scale = ((stages - 1) / 2 * apart + 1) / (apart / 2 + 1)
    cells = []
    for cell in draw_cells(spec):
        subject, number = cell.key
        stage = (subject + number) % stages
        noise = cell.latent - (cell.label - 0.5) * apart
        cells.append(
            replace(
                cell,
                uid=f"S{subject + 1}_{number + 1}",
                subject=f"S{subject + 1}",
                label=stage,
                latent=noise + (stage - (stages - 1) / 2) * apart,
                scale=scale,
            )
        )
    return cells


def oracle_balanced_accuracy(cells: list[SyntheticCell], stages: int, apart: float) -> float:
    """Compute the balanced accuracy on these very cells of the rule that sees their latents."""
    label = np.asarray([cell.label for cell in cells])
    latent = np.asarray([cell.latent for cell in cells])
    called = np.clip(np.rint(latent / apart + (stages - 1) / 2), 0, stages - 1)
    return float(np.mean([(called == label)[label == stage].mean() for stage in set(label)]))


def write_stages(
    directory: Path,
    spec: SyntheticSpec,
    progress: Callable[[int, int], None] = lambda done, total: None,
    *,
    stages: int,
) -> dict[str, object]:
    """Write cells as class folders, STAGE/SUBJECT/CELL.png, and return what SYNTHETIC.json holds.

    The directory appears whole or not at all. Calls `progress(done, total)` after each cell.

    Raises:
        UserError: as `draw_stages`, or the directory cannot be written.
    """
    cells = draw_stages(spec, stages)
    counts = Counter(cell.label for cell in cells)
    summary: dict[str, object] = {
        "synthetic": True,
        "spec": asdict(spec),
        "classes": [stage_name(stage) for stage in range(stages)],
        "derivation": DERIVATION,
        "neighbour_auc": spec.best_auc,
        "best_balanced_accuracy": best_balanced_accuracy(stages, spec.best_auc),
        "oracle_balanced_accuracy": oracle_balanced_accuracy(
            cells, stages, separation(spec.best_auc)
        ),
        "subject_share": spec.subject_share,
        "counts": {
            "subjects": spec.subjects,
            "cells": {stage_name(stage): counts[stage] for stage in range(stages)},
        },
    }
    marker, table = SYNTHETIC_FILES
    with directory_by_rename(directory.resolve()) as root:
        for done, cell in enumerate(cells, start=1):
            path = root / stage_name(cell.label) / cell.subject / f"{cell.uid}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(render(cell)).save(path)
            progress(done, len(cells))
        (root / marker).write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
        with (root / table).open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(["uid", "subject", "label", "latent"])
            writer.writerows([cell.uid, cell.subject, cell.label, cell.latent] for cell in cells)
    return summary


def stage_name(stage: int) -> str:
    """Name the folder of a stage, from 0."""
    return f"stage {stage + 1}"
