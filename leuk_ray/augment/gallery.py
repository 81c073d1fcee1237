"""A figure of a policy: cells beside their augmented copies, as both papers show."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure

from leuk_ray.augment.params import POLICIES, AugmentParams
from leuk_ray.augment.policies import apply, augment_tensors
from leuk_ray.augment.settings import AugmentSettings
from leuk_ray.datasets.plan import uid_keys
from leuk_ray.datasets.prepared import PreparedDataset
from leuk_ray.utils.errors import ConfigError, DataError, StorageError

CELLS_PER_CLASS = 2
COPIES = 6


def draw_gallery(
    path: Path, dataset: PreparedDataset, settings: AugmentSettings, seed: int
) -> None:
    """Write a PNG: a row a cell, the original first, then copies as training sees them.

    Raises:
        UserError: the policy is `none`, the dataset has no labelled cell, or the file cannot
            be written.
    """
    if settings.policy == "none":
        raise ConfigError("augment.policy none: changes nothing, so there is nothing to picture")
    labels = np.asarray([-1 if x is None else x for x in dataset.cells["label"].to_pylist()])
    rows = np.sort(
        np.concatenate([np.flatnonzero(labels == label)[:CELLS_PER_CLASS] for label in (0, 1)])
    )
    if not len(rows):
        raise DataError(f"{dataset.location}: has no labelled cell to show")
    pixels = dataset.reader().read(rows)
    uids = [dataset.cells["uid"][row].as_py() for row in rows.tolist()]
    size = (1.6 * (COPIES + 1), 1.85 * len(rows))
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots(len(rows), COPIES + 1, squeeze=False)
    for row, uid in enumerate(uids):
        keys = np.repeat(uid_keys([uid]), COPIES)
        copy_index = np.arange(COPIES, dtype=np.uint64)
        cell = torch.from_numpy(np.repeat(pixels[row : row + 1], COPIES, axis=0))
        side = pixels.shape[1]
        how = augment_tensors(settings, seed=seed, keys=keys, copy_index=copy_index, side=side)
        made = apply(cell.permute(0, 3, 1, 2), how, settings.fill)
        params = POLICIES[settings.policy](seed, keys, copy_index, side)
        axes[row, 0].imshow(pixels[row])
        axes[row, 0].set_title(f"{uid}\noriginal", fontsize=6)
        for column, image in enumerate(made.round().byte().permute(0, 2, 3, 1).numpy()):
            axes[row, column + 1].imshow(image)
            axes[row, column + 1].set_title(_describe(params, column), fontsize=6)
    for axis in axes.flat:
        axis.set_axis_off()
    data = " · SYNTHETIC cells" if dataset.synthetic else ""
    figure.suptitle(f"Augmentation {settings.policy}{data}", fontsize=9)
    try:
        figure.savefig(path, dpi=120, format="png")
    except OSError as error:
        raise StorageError(f"{path}: cannot be written ({error.strerror})") from error


def _describe(params: AugmentParams, n: int) -> str:
    """Return the parameters of sample n that change something, in two lines."""
    geometry, colour = [f"{params.angle[n]:.0f}°"] if params.angle[n] else [], []
    if params.scale[n] != 1:
        geometry.append(f"x{params.scale[n]:.2f}")
    geometry += [name for name, on in (("↔", params.flip_x[n]), ("↕", params.flip_y[n])) if on]
    if params.shift[n].any():
        geometry.append("shift {:+.1%} {:+.1%}".format(*params.shift[n]))
    if (params.stain[n] != 1).any():
        colour.append("stain x{:.2f} x{:.2f}".format(*params.stain[n]))
    if params.brightness[n] != 1:
        colour.append(f"light x{params.brightness[n]:.2f}")
    return " ".join(geometry) + "\n" + " ".join(colour)
