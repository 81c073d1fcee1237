"""The folds that C-NMC 2019 was published with, and its preliminary test set."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from leuk_ray.datasets.holdout import ROLES, UnsuitableError


def official_fold_roles(cells: pa.Table, fold: int) -> tuple[pa.Table, np.ndarray]:
    """Give the cells of C-NMC's own folds their roles.

    Of copies the one in test, or else in validation, stays: training rows with a copy in validation
    or test are dropped, and no row of those two is for the sake of training.

    Args:
        cells: `PreparedDataset.cells`.
        fold: 0 to 2, the validation fold; where there is no preliminary set, the test fold.

    Returns:
        The M cells that have a role, and (M,) their roles.

    Raises:
        UnsuitableError: a role has no cell.
    """
    cells = cells.filter(pc.field("label").is_valid() & (pc.field("status") != "conflict"))
    place = {f"fold_{n}": "train" for n in range(3)}
    if "preliminary" in cells["official_split"].to_pylist():
        place |= {f"fold_{fold}": "validation", "preliminary": "test"}
    else:
        place |= {f"fold_{fold}": "test", f"fold_{(fold + 1) % 3}": "validation"}
    roles = [place.get(split) for split in cells["official_split"].to_pylist()]
    if missing := [role for role in ROLES if role not in roles]:
        raise UnsuitableError(
            f"protocol official-folds: no cell for {', '.join(missing)}; it needs C-NMC's three "
            "folds (layout c-nmc)"
        )
    best: dict[str, int] = {}
    duplicates = cells["duplicate_id"].to_pylist()
    for duplicate_id, role in zip(duplicates, roles, strict=True):
        if role and ROLES.index(role) > best.get(duplicate_id, -1):
            best[duplicate_id] = ROLES.index(role)
    images: set[str] = set()
    chosen = []
    hashes = cells["pixels_sha256"].to_pylist()
    for row, (duplicate_id, role, image) in enumerate(zip(duplicates, roles, hashes, strict=True)):
        if role and ROLES.index(role) == best[duplicate_id] and image not in images:
            images.add(image)
            chosen.append(row)
    return cells.take(chosen), np.asarray([roles[row] for row in chosen], object)
