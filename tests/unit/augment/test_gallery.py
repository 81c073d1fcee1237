from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from leuk_ray.augment.gallery import draw_gallery
from leuk_ray.augment.params import POLICIES
from leuk_ray.augment.settings import AugmentSettings
from leuk_ray.utils.errors import UserError


@dataclass
class FewCells:
    """What the gallery asks of a PreparedDataset."""

    pixels: np.ndarray
    location: str = "few"
    synthetic: bool = True

    @property
    def cells(self) -> pa.Table:
        count = len(self.pixels)
        return pa.table(
            {"uid": [f"c{n}" for n in range(count)], "label": [1, 0, 1, 1, None][:count]}
        )

    def reader(self):
        return self

    def read(self, rows: np.ndarray) -> np.ndarray:
        return self.pixels[rows]


def cells(count: int = 5) -> FewCells:
    return FewCells(np.random.default_rng(0).integers(0, 256, (count, 32, 32, 3), np.uint8))


@pytest.mark.parametrize("policy", POLICIES)
def test_every_policy_has_a_picture(policy, tmp_path: Path):
    path = tmp_path / "gallery.png"
    draw_gallery(path, cells(), AugmentSettings(policy=policy), seed=0)  # pyright: ignore[reportArgumentType]
    with Image.open(path) as picture:
        assert picture.width > 7 * 32
    before = path.read_bytes()
    draw_gallery(path, cells(), AugmentSettings(policy=policy), seed=1)  # pyright: ignore[reportArgumentType]
    assert path.read_bytes() != before


def test_nothing_to_picture_is_told(tmp_path: Path):
    with pytest.raises(UserError, match="nothing to picture"):
        draw_gallery(tmp_path / "a.png", cells(), AugmentSettings(policy="none"), 0)  # pyright: ignore[reportArgumentType]
    with pytest.raises(UserError, match="no labelled cell"):
        draw_gallery(tmp_path / "a.png", cells(0), AugmentSettings(), 0)  # pyright: ignore[reportArgumentType]
    with pytest.raises(UserError, match="cannot be written"):
        draw_gallery(tmp_path / "no" / "a.png", cells(), AugmentSettings(), 0)  # pyright: ignore[reportArgumentType]
