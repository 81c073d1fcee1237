import io
from pathlib import Path

import imagehash
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from leuk_ray.datasets import images, near_duplicates
from leuk_ray.datasets.decoding import thumbnail
from leuk_ray.datasets.images import StorageSettings
from leuk_ray.datasets.near_duplicates import (
    MAX_DISTANCE,
    MAX_STRANGERS,
    MIN_CORRELATION,
    aligned_correlation,
    candidate_pairs,
    find_near_duplicates,
)
from leuk_ray.datasets.synthetic import SyntheticSpec, draw_cells, render


class Pixels:
    """Reads rows of an array, as PixelReader does of a dataset."""

    def __init__(self, stored: list[np.ndarray]) -> None:
        self.stored = np.stack(stored)

    def read(self, rows: np.ndarray) -> np.ndarray:
        assert len(rows) <= 64, "memory must stay bounded"
        return self.stored[rows]


def find(pictures: dict[str, np.ndarray], storage: StorageSettings) -> list[tuple[str, str]]:
    cells = pa.table(
        {
            "uid": list(pictures),
            "phash": [str(imagehash.phash(Image.fromarray(p))) for p in pictures.values()],
            "pixels_sha256": [str(hash(p.tobytes())) for p in pictures.values()],
        }
    )
    stored = [images.to_storage(p, storage) for p in pictures.values()]
    thumbs = np.stack([thumbnail(p).ravel() for p in stored])
    told: list[tuple[int, int]] = []
    near = find_near_duplicates(cells, thumbs, Pixels(stored), lambda *seen: told.append(seen))  # pyright: ignore[reportArgumentType]
    assert all(done <= total for done, total in told)
    assert told or not len(near)
    assert not told or told[-1][0] == told[-1][1], "the last pair is told"
    assert all(value >= MIN_CORRELATION for value in near["correlation"].to_pylist())
    return list(zip(near["uid_a"].to_pylist(), near["uid_b"].to_pylist(), strict=True))


def jpeg(picture: np.ndarray, quality: int = 85) -> np.ndarray:
    out = io.BytesIO()
    Image.fromarray(picture).save(out, "JPEG", quality=quality)
    return images.decode(out.getvalue())


@pytest.fixture(scope="module")
def cells() -> dict[str, np.ndarray]:
    return {c.uid: render(c) for c in draw_cells(SyntheticSpec(cells=60, subjects=12, seed=5))}


@pytest.mark.parametrize(
    "storage",
    [StorageSettings(), StorageSettings(crop="full"), StorageSettings(size=64)],
    ids=lambda s: f"{s.crop}-{s.size}",
)
def test_planted_copies_are_found_and_strangers_are_not(cells, storage: StorageSettings):
    names = list(cells)
    retouched = cells[names[40]].copy()
    retouched[225, 200:240] = np.minimum(retouched[225, 200:240].astype(int) + 60, 255)
    planted = {
        "z_jpeg": (names[3], jpeg(cells[names[3]])),
        "z_shift": (names[7], np.roll(cells[names[7]], (1, -2), (0, 1))),
        "z_both": (names[20], jpeg(np.roll(cells[names[20]], (2, 1), (0, 1)))),
        "z_retouched": (names[40], retouched),
    }
    pictures = cells | {name: picture for name, (_, picture) in planted.items()}
    expected = sorted((original, name) for name, (original, _) in planted.items())
    assert find(pictures, storage) == expected


def test_many_copies_of_one_picture_cost_one_comparison_each(cells, monkeypatch):
    picture = next(iter(cells.values()))
    copies = {f"copy{quality:03}": jpeg(picture, quality) for quality in range(74, 98, 2)}
    compared = []

    def counted(first: np.ndarray, second: np.ndarray) -> float:
        compared.append(1)
        return aligned_correlation(first, second)

    monkeypatch.setattr(near_duplicates, "aligned_correlation", counted)
    found = find(copies, StorageSettings(size=64))
    assert len(found) == len(compared) == len(copies) - 1, "a chain, not each with each"
    joined = {"copy074"}
    for _ in copies:
        joined |= {uid for pair in found if joined & set(pair) for uid in pair}
    assert joined == set(copies)


def test_cells_that_only_look_alike_are_compared_a_bounded_number_of_times(monkeypatch):
    generator = np.random.default_rng(0)
    coarse = generator.integers(60, 200, (8, 8, 3), np.uint8)
    smooth = np.asarray(Image.fromarray(coarse).resize((64, 64)), np.int64)
    noisy = {
        f"cell{n:03}": np.clip(smooth + generator.normal(0, 20, smooth.shape), 0, 255).astype(
            np.uint8
        )
        for n in range(40)
    }
    compared = []

    def counted(first: np.ndarray, second: np.ndarray) -> float:
        compared.append(1)
        return aligned_correlation(first, second)

    monkeypatch.setattr(near_duplicates, "aligned_correlation", counted)
    assert find(noisy, StorageSettings(size=64, crop="full")) == []
    assert 40 < len(compared) <= 40 * MAX_STRANGERS < 40 * 39 // 2


def test_identical_pixels_are_left_to_the_groups(cells):
    first = next(iter(cells.values()))
    assert find({"a": first, "b": first.copy()}, StorageSettings()) == []


def test_pictures_without_contrast_are_nobodys_copies():
    flat = {f"flat{level}": np.full((64, 64, 3), level, np.uint8) for level in (0, 5, 90, 200)}
    assert find(flat, StorageSettings(size=64, crop="full")) == []
    black = np.zeros((64, 64, 3), np.uint8)
    assert aligned_correlation(black, black) == 0


@pytest.mark.parametrize("shift", [(0, 0), (1, 0), (-3, 2), (0, -9)])
def test_a_shifted_picture_correlates_fully(cells, shift: tuple[int, int]):
    picture = images.to_storage(next(iter(cells.values())), StorageSettings())
    assert aligned_correlation(picture, np.roll(picture, shift, (0, 1))) > 0.999


@given(st.data())
@settings(max_examples=30, deadline=None)
def test_candidates_are_all_the_close_pairs_each_once(data):
    seed, count = data.draw(st.integers(0, 1000)), data.draw(st.integers(1, 60))
    generator = np.random.default_rng(seed)
    phash = generator.integers(0, 2**64, count, np.uint64)
    for copy in range(count // 2):  # flip up to 14 bits of another's
        flips = generator.choice(64, generator.integers(0, 15), replace=False)
        bits = np.bitwise_or.reduce(np.uint64(1) << flips.astype(np.uint64), initial=np.uint64(0))
        phash[copy] = phash[-1 - copy] ^ bits
    distance = np.bitwise_count(phash[:, None] ^ phash)
    expected = np.argwhere(np.triu(distance <= MAX_DISTANCE, 1)).tolist()
    found = [pair for pairs in candidate_pairs(phash) for pair in pairs.tolist()]
    assert sorted(found) == expected


def test_far_fewer_pairs_than_all_are_looked_at():
    phash = np.random.default_rng(0).integers(0, 2**64, 20_000, np.uint64)
    assert sum(map(len, candidate_pairs(phash))) < 100


def test_real_cells_have_exactly_three_near_duplicates(real_data: Path):
    paths = sorted((real_data / "cnmc2019").rglob("*.bmp"))
    pictures = {path.stem: images.decode(path.read_bytes()) for path in paths}
    assert find(pictures, StorageSettings()) == [
        ("UID_H10_1_1_hem", "UID_h3_1_1_hem"),
        ("UID_H2_1_1_hem", "UID_H6_1_1_hem"),
        ("UID_H2_1_2_hem", "UID_H6_1_2_hem"),
    ]
