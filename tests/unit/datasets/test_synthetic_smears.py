"""Rendered smears: patients of known blast shares, whose fields and cells add up."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from leuk_ray.datasets.synthetic import SyntheticSpec
from leuk_ray.datasets.synthetic_smears import SHARES, draw_smears, write_smears
from leuk_ray.fields.field import FieldSettings, examine
from leuk_ray.utils.errors import ConfigError


def read(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file))


def test_shares_of_patients_and_fields_are_those_drawn():
    fields = draw_smears(SyntheticSpec(cells=14_400, subjects=48, seed=3))
    blasts: dict[int, list[int]] = {}
    spread = []
    for cells in fields:
        labels = [one.cell.label for one in cells]
        share = cells[0].cell.key[0] % len(SHARES)
        blasts.setdefault(share, []).extend(labels)
        if SHARES[share] == 0.5:
            spread.append(np.mean(labels))
    for share, labels in blasts.items():
        assert np.mean(labels) == pytest.approx(SHARES[share], abs=0.03)
    # Twelve cells of a field with intraclass correlation 0.05: 0.25 / 12 * (1 + 11 * 0.05).
    assert np.var(spread) == pytest.approx(0.25 / 12 * 1.55, rel=0.25)
    pale = [one.pale for cells in fields for one in cells]
    assert 0.02 < np.mean(pale) < 0.04
    with pytest.raises(ConfigError, match="give everywhere"):
        draw_smears(SyntheticSpec(signal="nucleoli"))


def test_every_cell_is_in_a_field_and_all_but_pale_ones_are_found(tmp_path: Path):
    values = write_smears(tmp_path / "smears", SyntheticSpec(cells=72, subjects=6, seed=0))
    root = tmp_path / "smears"
    cells, crops = read(root / "cells.csv"), read(root / "crops.csv")
    assert json.loads((root / "SYNTHETIC.json").read_text())["counts"] == values["counts"]
    assert (values["counts"]["cells"], len(cells)) == (72, 72)
    assert len(crops) == sum(bool(cell["crop"]) for cell in cells) == values["counts"]["crops"]
    assert all((root / row["path"]).exists() for row in crops)
    patients = read(root / "patients.csv")
    assert [float(row["share"]) for row in patients] == list(SHARES)
    assert sum(int(row["blasts"]) for row in patients) == sum(c["label"] == "ALL" for c in cells)
    file = cells[0]["file"]
    pixels = np.asarray(Image.open(root / "fields" / file))
    found = examine(file, pixels, FieldSettings(pixels_per_um=8.8))
    own = [cell for cell in cells if cell["file"] == file]
    for cell in own:
        hits = [
            box
            for box in found.cells
            if box.x0 <= int(cell["x"]) <= box.x1 and box.y0 <= int(cell["y"]) <= box.y1
        ]
        assert len(hits) == bool(cell["crop"])
    assert len(found.cells) == sum(bool(cell["crop"]) for cell in own)
