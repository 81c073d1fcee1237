"""Pictures that no classifier of single cells should judge, by reason."""

import numpy as np
import pytest
from scipy import ndimage
from scipy.stats import ortho_group

from leuk_ray.bundles.manifest import FEATURES, ScopeSettings
from leuk_ray.datasets.images import StorageSettings, to_storage
from leuk_ray.datasets.synthetic import SyntheticSpec, draw_cells, render
from leuk_ray.inference.scope import Neighbourhood, fit_scope, measure, pixel_reasons

SIZE = 300
UPPER_HALF = np.arange(SIZE)[:, None, None] < SIZE // 2


@pytest.fixture(scope="module")
def cells() -> list[np.ndarray]:
    drawn = draw_cells(SyntheticSpec(cells=60, subjects=20, seed=5))
    return [to_storage(render(cell), StorageSettings(size=SIZE)) for cell in drawn]


@pytest.fixture(scope="module")
def fitted(cells) -> ScopeSettings:
    features = [measure(pixels) for pixels in cells[:40]]
    embedding = np.random.default_rng(0).normal(size=(40, 8))
    return fit_scope(features, embedding, [str(i // 4) for i in range(40)])[0]


def disc(radius: float, centre: tuple[float, float] = (SIZE / 2, SIZE / 2)) -> np.ndarray:
    rows, columns = np.mgrid[:SIZE, :SIZE] + 0.5
    inside = (rows - centre[0]) ** 2 + (columns - centre[1]) ** 2 <= radius**2
    texture = np.random.default_rng(0).integers(60, 120, (SIZE, SIZE, 3))
    return (inside[:, :, None] * texture).astype(np.uint8)


def test_the_features_of_a_disc_and_of_half_of_one():
    whole = measure(disc(100))
    assert set(whole) == set(FEATURES)
    assert whole["covered"] == pytest.approx(np.pi * 100**2 / SIZE**2, rel=0.01)
    assert whole["border"] == 0
    assert whole["second_part"] == 0
    assert whole["solidity"] > 0.97
    assert whole["elongation"] == pytest.approx(1, abs=0.01)
    assert whole["straight"] < 0.25
    half = disc(100)
    half[: SIZE // 2] = 0
    cut = measure(half)
    # Second moments of a half disc: r^2 / 4 along, r^2 (1/4 - 16 / (9 pi^2)) across its side.
    assert cut["elongation"] == pytest.approx(
        np.sqrt(0.25 / (0.25 - 16 / (9 * np.pi**2))), rel=0.02
    )
    assert cut["straight"] == pytest.approx(2 / np.sqrt(np.pi / 2), rel=0.05)
    two = np.maximum(disc(40, (80, 80)), disc(40, (220, 220)))
    assert measure(two)["second_part"] == pytest.approx(1, rel=0.02)


def test_red_and_green_do_not_change_with_brightness():
    pixels = disc(100)
    assert measure(pixels // 2)["red"] == pytest.approx(measure(pixels)["red"], abs=0.01)


def test_training_cells_and_others_like_them_are_in_scope(cells, fitted):
    reasons = [pixel_reasons(measure(pixels), fitted) for pixels in cells[40:]]
    assert sum(not found for found in reasons) >= 19


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (np.zeros_like, "blank"),
        (lambda cell: np.full_like(cell, 200), "blank"),
        (lambda cell: ndimage.gaussian_filter(cell, (8, 8, 0)), "blurred"),
        (lambda cell: np.where(UPPER_HALF, cell, 0), "not_a_single_cell"),
        (lambda cell: np.maximum(np.roll(cell, 75, 0), np.roll(cell, -75, 0)), "not_a_single_cell"),
        (lambda cell: np.tile(cell[::2, ::2], (2, 2, 1)), "not_a_single_cell"),
        (lambda cell: np.where(cell.any(axis=2, keepdims=True), cell, 220), "not_a_single_cell"),
        (lambda cell: cell[:, :, [1, 2, 0]], "out_of_scope"),
        (lambda cell: cell[:, :, [1, 0, 2]], "out_of_scope"),
    ],
)  # fmt: skip
def test_each_reason_is_given_for_what_it_is_meant_for(change, reason: str, cells, fitted):
    found = [pixel_reasons(measure(change(cell).astype(np.uint8)), fitted) for cell in cells[:20]]
    assert sum(reason in reasons for reasons in found) >= 19


def test_without_statistics_only_what_is_wrong_anywhere_is_told(cells):
    assert pixel_reasons(measure(np.zeros_like(cells[0])), None) == ["blank"]
    assert not any(pixel_reasons(measure(cell), None) for cell in cells)
    field = np.random.default_rng(0).integers(0, 256, cells[0].shape, np.uint8)
    assert pixel_reasons(measure(field), None) == []
    assert pixel_reasons(measure(np.tile(cells[0][::2, ::2], (2, 2, 1))), None) == [
        "not_a_single_cell"
    ]


@pytest.mark.parametrize("side", [32, 33, 160])
def test_any_picture_can_be_measured(side: int):
    speck = np.zeros((side, side, 3), np.uint8)
    speck[3, 5] = 255
    line = np.zeros_like(speck)
    line[side // 2] = 255
    for picture in (speck, line, line.transpose(1, 0, 2), np.full_like(speck, 255)):
        assert all(np.isfinite(value) for value in measure(np.ascontiguousarray(picture)).values())


def test_the_distance_is_that_of_mahalanobis_where_all_directions_are_kept():
    generator = np.random.default_rng(0)
    turn = ortho_group.rvs(4, random_state=0)
    training = generator.normal(size=(500, 4)) * [3, 1, 1, 1] @ turn.T
    other = generator.normal(size=(20, 4)) * 5
    neighbourhood = Neighbourhood.fit(training)
    covariance = neighbourhood.directions.T @ np.diag(
        neighbourhood.variances - neighbourhood.rest
    ) @ neighbourhood.directions + neighbourhood.rest * np.eye(4)
    centred = other - neighbourhood.mean
    expected = np.einsum("nd,de,ne->n", centred, np.linalg.inv(covariance), centred)
    np.testing.assert_allclose(neighbourhood.distance(other), np.sqrt(expected / 4), rtol=1e-9)
    assert np.mean(neighbourhood.distance(training) ** 2) == pytest.approx(1, rel=0.02)


def test_far_embeddings_are_out_of_scope_and_held_out_ones_are_not(tmp_path):
    generator = np.random.default_rng(1)
    embedding = generator.normal(size=(200, 64)) @ generator.normal(size=(64, 64))
    features = [measure(disc(100))] * 200
    groups = [str(i // 4) for i in range(200)]
    settings, neighbourhood = fit_scope(features[:150], embedding[:150], groups[:150])
    assert settings.distance is not None
    neighbourhood.save(tmp_path / "scope.safetensors")
    loaded = Neighbourhood.load(tmp_path / "scope.safetensors")
    assert (loaded.distance(embedding[150:]) <= settings.distance).mean() >= 0.95
    assert (loaded.distance(embedding[150:] + 100) > settings.distance).all()
