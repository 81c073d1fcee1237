"""Rendered fields of view in the ALL-IDB layout, with cells cut from them.

Each subject of a `synthetic.SyntheticSpec` becomes one field with all its cells, on a pale smear
with red cells. One field is planted a second time as another file, and one is seen again with
the stage moved, so that grouping by slide has something to find.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from leuk_ray.datasets.images import cut_cell
from leuk_ray.datasets.synthetic import SyntheticCell, SyntheticSpec, draw_cells, render
from leuk_ray.io.storage import directory_by_rename, refuse_existing
from leuk_ray.utils.errors import ConfigError

HEIGHT, WIDTH = 972, 1296
CROP = 257
MAX_CELLS_A_FIELD = 12
STAGE_SHIFT = 400  # pixels between the overlapping views
_SCALE = 0.6
_SMEAR = np.array([228.0, 214.0, 222.0])
_RED_CELL = np.array([214.0, 160.0, 168.0])
_QUALITY = 92


def write_all_idb(
    directory: Path,
    spec: SyntheticSpec,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, object]:
    """Write ALL_IDB1/{im,xyc} and ALL_IDB2/img into a new folder.

    Returns:
        What SYNTHETIC.json holds: the spec, the best AUC, and the truth: `fields`, crop -> the
        field it was cut from; `repeated` and `overlapping`, pairs of fields.

    Raises:
        UserError: the folder exists, or there are too many cells for the fields.
    """
    refuse_existing(directory, "folder of fields")
    by_subject: dict[str, list[SyntheticCell]] = {}
    for cell in draw_cells(spec):
        by_subject.setdefault(cell.subject, []).append(cell)
    most = max(map(len, by_subject.values()))
    if most > MAX_CELLS_A_FIELD:
        raise ConfigError(
            f"--cells {spec.cells}: {most} cells in each of {spec.subjects} fields, at most "
            f"{MAX_CELLS_A_FIELD} fit; ask for more --subjects"
        )
    fields: dict[str, str] = {}
    repeated: list[list[str]] = []
    overlapping: list[list[str]] = []
    with directory_by_rename(directory.absolute(), new="folder of cells") as root:
        for folder in ("ALL_IDB1/im", "ALL_IDB1/xyc", "ALL_IDB2/img"):
            (root / folder).mkdir(parents=True)
        number = 0
        for done, cells in enumerate(by_subject.values(), start=1):
            wide, centers = render_field(cells, spec.seed, done)
            number += 1
            name = _write_field(root, number, cells[0].label, wide[:, :WIDTH], centers)
            for center in centers:
                crop = _cut(root, name, len(fields) + 1, cells[0].label, center)
                fields[crop] = name
            if done == 1:
                number += 1
                again = _write_field(root, number, cells[0].label, wide[:, :WIDTH], centers, 80)
                repeated.append([name, again])
            elif done == 2:
                number += 1
                moved = [(x - STAGE_SHIFT, y) for x, y in centers if x - STAGE_SHIFT > 0]
                view = wide[:, STAGE_SHIFT : STAGE_SHIFT + WIDTH]
                overlapping.append([name, _write_field(root, number, cells[0].label, view, moved)])
            progress(done, spec.subjects)
        summary: dict[str, object] = {
            "synthetic": True,
            "best_auc": spec.best_auc,
            "seed": spec.seed,
            "subject_share": spec.subject_share,
            "counts": {"fields": number, "crops": len(fields)},
            "fields": fields,
            "repeated": repeated,
            "overlapping": overlapping,
        }
        (root / "SYNTHETIC.json").write_text(json.dumps(summary, indent=2) + "\n")
    return summary


def render_field(
    cells: list[SyntheticCell], seed: int, field: int
) -> tuple[np.ndarray, list[tuple[int, int]]]:
    """Render a strip of smear wider than a field, and where its cells lie.

    Args:
        cells: at most MAX_CELLS_A_FIELD.
        seed: of all fields.
        field: number of this one.

    Returns:
        (HEIGHT, WIDTH + STAGE_SHIFT, 3) uint8, and the centre x, y of each cell, all of them in
        the first WIDTH columns.
    """
    rng = np.random.default_rng([seed, field])
    shape = (HEIGHT, WIDTH + STAGE_SHIFT)
    smear = np.broadcast_to(_SMEAR + rng.normal(0, 4, 3), (*shape, 3)).copy()
    for _ in range(shape[0] * shape[1] // 12_000):
        _disc(smear, int(rng.integers(shape[0])), int(rng.integers(shape[1])), rng.uniform(26, 40))
    smear += rng.normal(0, 2.5, (*shape, 1))
    places = rng.permutation(MAX_CELLS_A_FIELD)[: len(cells)]
    centers = []
    for cell, place in zip(cells, places.tolist(), strict=True):
        row, column = divmod(place, 4)
        y = int((row + 0.5) * HEIGHT / 3 + rng.integers(-25, 26))
        x = int((column + 0.5) * WIDTH / 4 + rng.integers(-25, 26))
        _paste(smear, cell, y, x)
        centers.append((x, y))
    return np.clip(np.rint(smear), 0, 255).astype(np.uint8), centers


def _disc(smear: np.ndarray, y: int, x: int, radius: float) -> None:
    """Return a red cell, pale in the middle."""
    reach = math.ceil(radius)
    top, left = max(y - reach, 0), max(x - reach, 0)
    part = smear[top : y + reach + 1, left : x + reach + 1]
    rows, columns = np.mgrid[top : top + part.shape[0], left : left + part.shape[1]]
    distance = np.hypot(rows - y, columns - x)[..., None] / radius
    color = _RED_CELL + (_SMEAR - _RED_CELL) * 0.5 * np.exp(-((distance / 0.4) ** 2))
    np.copyto(part, color, where=distance < 1)


def _paste(smear: np.ndarray, cell: SyntheticCell, y: int, x: int) -> None:
    picture = Image.fromarray(render(cell))
    side = round(_SCALE * picture.width)
    small = np.asarray(picture.resize((side, side), Image.Resampling.BICUBIC), float)
    top, left = y - side // 2, x - side // 2
    rows = slice(max(top, 0), min(top + side, len(smear)))
    columns = slice(max(left, 0), min(left + side, smear.shape[1]))
    small = small[rows.start - top : rows.stop - top, columns.start - left : columns.stop - left]
    inside = (small > 16).any(axis=2, keepdims=True)
    # Brighter than C-NMC's dark normalisation, as cells look on an unsegmented smear.
    np.copyto(smear[rows, columns], np.minimum(1.4 * small + 20, 255), where=inside)


def _write_field(
    root: Path,
    number: int,
    label: int,
    field: np.ndarray,
    centers: list[tuple[int, int]],
    quality: int = _QUALITY,
) -> str:
    name = f"Im{number:03}_{label}"
    path = root / "ALL_IDB1" / "im" / f"{name}.jpg"
    Image.fromarray(field).save(path, quality=quality)
    lines = [f"{x} {y}\n" for x, y in centers] if label else []
    (root / "ALL_IDB1" / "xyc" / f"{name}.xyc").write_text("".join(lines))
    return name


def _cut(root: Path, field: str, number: int, label: int, center: tuple[int, int]) -> str:
    name = f"Im{number:03}_{label}"
    with Image.open(root / "ALL_IDB1" / "im" / f"{field}.jpg") as image:
        crop = cut_cell(np.asarray(image), center, CROP)
    Image.fromarray(crop).save(root / "ALL_IDB2" / "img" / f"{name}.tif")
    return name
