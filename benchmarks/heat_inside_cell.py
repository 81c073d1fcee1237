"""How much of the heat lies in the cell, on fresh SYNTHETIC cells and on real ones.

Prints, for each set of cells, method and answer: the cells, those without any heat, the share of
the heat in the cell, the share of the picture that is cell (heat without aim), the most that the
map's resolution allows (the cell itself as a map), and how the log-odds divide: what the map holds
for ALL, what it holds for healthy, and what belongs to no place. Writes JSON.

    python benchmarks/heat_inside_cell.py RUN_OR_BUNDLE --images C-NMC_FOLDER --out heat.json
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import get_args

import click
import numpy as np
import torch

from leuk_ray.bundles.bundle import find_bundle
from leuk_ray.datasets import images
from leuk_ray.datasets.synthetic import SyntheticSpec, draw_cells, render
from leuk_ray.inference.classifier import Classifier
from leuk_ray.inference.gradcam import Method, evidence, heat, share_inside

BATCH = 10


def measure(classifier: Classifier, pixels: np.ndarray, method: Method) -> list[dict]:
    """One line an answer for storage pixels, (N, size, size, 3) uint8."""
    batches = [
        evidence(
            classifier.model,
            torch.from_numpy(part).permute(0, 3, 1, 2),
            method,
            torch.ones(len(part), dtype=torch.int64),
        )
        for part in np.split(pixels, range(BATCH, len(pixels), BATCH))
    ]
    found, logit = (torch.cat(parts) for parts in zip(*batches, strict=True))
    size = pixels.shape[1]
    cell = torch.from_numpy(pixels.max(axis=3) > 0)
    is_all = torch.sigmoid(logit / classifier.manifest.temperature) >= classifier.manifest.threshold
    share = share_inside(heat(found * torch.where(is_all, 1.0, -1.0).view(-1, 1, 1), size), cell)
    coarse = torch.nn.functional.interpolate(cell[:, None].float(), found.shape[1:], mode="area")
    reachable = share_inside(heat(coarse[:, 0], size), cell)
    lines = []
    for answer, chosen in (("ALL", is_all), ("healthy", ~is_all)):
        if chosen.any():
            mine = found[chosen]
            lines.append(
                {
                    "method": method,
                    "answer": answer,
                    "cells": int(chosen.sum()),
                    "without heat": int(share[chosen].isnan().sum()),
                    "in the cell": _number(share[chosen].nanmean()),
                    "cell": cell[chosen].float().mean().item(),
                    "reachable": _number(reachable[chosen].mean()),
                    "for ALL": mine.clamp(min=0).sum((1, 2)).mean().item(),
                    "for healthy": mine.clamp(max=0).sum((1, 2)).mean().item(),
                    "nowhere": (logit[chosen] - mine.sum((1, 2))).mean().item(),
                }
            )
    return lines


def _number(value: torch.Tensor) -> float | None:
    return None if value.isnan() else value.item()


@click.command()
@click.argument("explained", type=click.Path(path_type=Path))
@click.option("--images", "folder", type=click.Path(path_type=Path), help="Real cells on black.")
@click.option("--out", type=click.Path(path_type=Path), required=True)
@click.option("--cells", default=100, show_default=True)
@click.option("--seed", default=11, show_default=True)
def main(explained: Path, folder: Path | None, out: Path, cells: int, seed: int) -> None:
    """Measure a trained network's heat."""
    classifier = Classifier.load(find_bundle(explained))
    storage = classifier.manifest.storage
    drawn = draw_cells(SyntheticSpec(cells, cells // 2, seed))
    sets = {"synthetic": [images.to_storage(render(cell), storage) for cell in drawn]}
    if folder is not None:
        files = sorted(folder.rglob("*.bmp"))
        sets["real"] = [images.read(file.read_bytes(), storage) for file in files]
    sets["black"] = [np.zeros((storage.size, storage.size, 3), np.uint8)]
    lines = [
        {"set": name} | line
        for name, pictures in sets.items()
        for method in get_args(Method)
        for line in measure(classifier, np.stack(pictures), method)
    ]
    out.write_text(json.dumps(lines, indent=2) + "\n")
    print("  ".join(f"{key:>9}" for key in lines[0]))
    for line in lines:
        values = (f"{x:.3f}" if isinstance(x, float) else str(x) for x in line.values())
        cells_of_line = zip(line, values, strict=True)
        print("  ".join(f"{value:>{max(9, len(key))}}" for key, value in cells_of_line))


if __name__ == "__main__":
    main()
