"""A picture of a policy: cells, and what training makes of them (A29, B20)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure

from leuk_ray.augment.draws import POLICIES, Draw
from leuk_ray.augment.policies import apply, parameters
from leuk_ray.augment.settings import AugmentSettings
from leuk_ray.datasets.plan import uid_keys
from leuk_ray.datasets.prepared import PreparedDataset
from leuk_ray.utils.errors import UserError

CELLS_PER_CLASS = 2
DRAWS = 6


def draw_gallery(
    path: Path, dataset: PreparedDataset, settings: AugmentSettings, seed: int
) -> None:
    """Write a PNG: a row a cell, the original first, then the draws that training would see.

    Raises:
        UserError: the policy is `none`, the dataset has no labelled cell, or the file cannot
            be written.
    """
    if settings.policy == "none":
        raise UserError("augment.policy none: changes nothing, so there is nothing to picture")
    labels = np.asarray([-1 if x is None else x for x in dataset.cells["label"].to_pylist()])
    rows = np.sort(
        np.concatenate([np.flatnonzero(labels == label)[:CELLS_PER_CLASS] for label in (0, 1)])
    )
    if not len(rows):
        raise UserError(f"{dataset.location}: has no labelled cell to show")
    pixels = dataset.reader().read(rows)
    uids = [dataset.cells["uid"][row].as_py() for row in rows.tolist()]
    size = (1.6 * (DRAWS + 1), 1.85 * len(rows))
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots(len(rows), DRAWS + 1, squeeze=False)
    for row, uid in enumerate(uids):
        keys = np.repeat(uid_keys([uid]), DRAWS)
        draws = np.arange(DRAWS, dtype=np.uint64)
        cell = torch.from_numpy(np.repeat(pixels[row : row + 1], DRAWS, axis=0))
        side = pixels.shape[1]
        how = parameters(settings, seed=seed, keys=keys, draws=draws, side=side)
        made = apply(cell.permute(0, 3, 1, 2), how, settings.fill)
        drawn = POLICIES[settings.policy](seed, keys, draws, side)
        axes[row, 0].imshow(pixels[row])
        axes[row, 0].set_title(f"{uid}\noriginal", fontsize=6)
        for column, image in enumerate(made.round().byte().permute(0, 2, 3, 1).numpy()):
            axes[row, column + 1].imshow(image)
            axes[row, column + 1].set_title(_describe(drawn, column), fontsize=6)
    for axis in axes.flat:
        axis.set_axis_off()
    data = " · SYNTHETIC cells" if dataset.synthetic else ""
    figure.suptitle(f"Augmentation {settings.policy}{data}", fontsize=9)
    try:
        figure.savefig(path, dpi=120, format="png")
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror})") from error


def _describe(draw: Draw, n: int) -> str:
    """The parameters of sample n that change something, in two lines."""
    geometry, colour = [f"{draw.angle[n]:.0f}°"] if draw.angle[n] else [], []
    if draw.scale[n] != 1:
        geometry.append(f"x{draw.scale[n]:.2f}")
    geometry += [name for name, on in (("↔", draw.flip_x[n]), ("↕", draw.flip_y[n])) if on]
    if draw.shift[n].any():
        geometry.append("shift {:+.1%} {:+.1%}".format(*draw.shift[n]))
    if (draw.stain[n] != 1).any():
        colour.append("stain x{:.2f} x{:.2f}".format(*draw.stain[n]))
    if draw.brightness[n] != 1:
        colour.append(f"light x{draw.brightness[n]:.2f}")
    return " ".join(geometry) + "\n" + " ".join(colour)
