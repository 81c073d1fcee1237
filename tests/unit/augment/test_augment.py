"""The saeed2022 policy against Pillow, and keys that replay anywhere."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance

from leuk_ray.augment.keys import uniform
from leuk_ray.augment.params import POLICIES, AugmentParams, modern_params, saeed2022_params
from leuk_ray.augment.policies import AugmentTensors, apply, augment_tensors
from leuk_ray.augment.settings import AugmentSettings, Fill
from leuk_ray.augment.stain import jitter_stain, mixing_matrices
from leuk_ray.datasets.plan import uid_keys


def picture(side: int = 61, seed: int = 0) -> np.ndarray:
    """Smooth, so that one interpolation step is a few grey levels."""
    generator = np.random.default_rng(seed)
    small = generator.integers(0, 256, (6, 6, 3), np.uint8)
    return np.asarray(Image.fromarray(small).resize((side, side), Image.Resampling.BICUBIC))


def tensor(*pictures: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2)


def params(**changes) -> AugmentParams:
    return replace(
        AugmentParams.identity(1), **{name: np.asarray([v]) for name, v in changes.items()}
    )


def run(pixels: np.ndarray, fill: Fill = "black", **changes: Any) -> np.ndarray:
    how = AugmentTensors.of(params(**changes), *pixels.shape[:2])
    return apply(tensor(pixels), how, fill)[0].permute(1, 2, 0).numpy()


def augment(images: torch.Tensor, settings, *, seed, keys, copy_index) -> torch.Tensor:
    side = images.shape[-1]
    how = augment_tensors(settings, seed=seed, keys=keys, copy_index=copy_index, side=side)
    return apply(images, how, settings.fill)


@pytest.mark.parametrize("side", [61, 64])
@pytest.mark.parametrize("angle", [20.0, 30.0, 60.0])
def test_rotation_is_pillows_counter_clockwise_bilinear(angle: float, side: int):
    pixels = picture(side)
    expected = np.asarray(Image.fromarray(pixels).rotate(angle, Image.Resampling.BILINEAR))
    ours = run(pixels, angle=angle)
    # Pillow rounds weights and results to integers, and treats the rim its own way.
    inside = np.hypot(*(np.mgrid[:side, :side] - (side - 1) / 2)) < side / 2 - 2
    assert np.abs(ours - expected)[inside].max() <= 2
    assert ours[0, 0].max() == 0


@pytest.mark.parametrize("axis", ["flip_x", "flip_y"])
def test_flips_are_exact(axis: str):
    pixels = picture()
    method = {
        "flip_x": Image.Transpose.FLIP_LEFT_RIGHT,
        "flip_y": Image.Transpose.FLIP_TOP_BOTTOM,
    }[axis]
    expected = np.asarray(Image.fromarray(pixels).transpose(method))
    np.testing.assert_allclose(run(pixels, "black", **{axis: True}), expected, atol=0.05)


@pytest.mark.parametrize("factor", [0.2, 0.7, 1.2])
def test_brightness_multiplies_as_pillow_does(factor: float):
    pixels = picture()
    expected = np.asarray(ImageEnhance.Brightness(Image.fromarray(pixels)).enhance(factor))
    assert np.abs(run(pixels, brightness=factor) - expected).max() <= 1


def test_brightness_0_2_does_not_blacken_a_cell():
    pixels = np.full((9, 9, 3), 120, np.uint8)
    np.testing.assert_allclose(run(pixels, brightness=0.2), 24, atol=0.01)


def test_one_composed_warp_agrees_with_separate_steps():
    pixels = picture()
    turned = Image.fromarray(pixels).rotate(20, Image.Resampling.BILINEAR)
    steps = turned.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    expected = np.asarray(steps.transpose(Image.Transpose.FLIP_TOP_BOTTOM)).astype(float) * 0.8
    ours = run(pixels, angle=20.0, flip_x=True, flip_y=True, brightness=0.8)
    inside = np.hypot(*(np.mgrid[:61, :61] - 30.0)) < 28
    assert np.abs(ours - expected)[inside].max() <= 2


def test_reflect_leaves_no_black_corner():
    pixels = np.full((32, 32, 3), 200, np.uint8)
    assert run(pixels, "reflect", angle=30.0).min() > 199
    assert run(pixels, "black", angle=30.0).min() == 0


def test_no_change_changes_nothing():
    np.testing.assert_allclose(run(picture()), picture(), atol=0.05)
    images = tensor(picture())
    keys, copy_index = uid_keys(["a"]), np.zeros(1, np.uint64)
    out = augment(images, AugmentSettings(policy="none"), seed=0, keys=keys, copy_index=copy_index)
    assert torch.equal(out, images.float())


@pytest.mark.parametrize("policy", POLICIES)
def test_a_key_gives_the_same_pixels_in_any_batch_and_order(policy):
    uids = [f"c{n}" for n in range(12)]
    keys, copy_index = uid_keys(uids), np.arange(12, dtype=np.uint64)
    images = tensor(*[picture(seed=n) for n in range(12)])
    settings = AugmentSettings(policy=policy)
    whole = augment(images, settings, seed=3, keys=keys, copy_index=copy_index)
    order = np.random.default_rng(0).permutation(12)
    for part in np.array_split(order, 5):
        some = augment(
            images[torch.from_numpy(part)],
            settings,
            seed=3,
            keys=keys[part],
            copy_index=copy_index[part],
        )
        assert torch.equal(some, whole[torch.from_numpy(part)])


def test_seed_uid_and_draw_each_change_the_numbers():
    keys, copy_index = uid_keys(["a", "b"]), np.zeros(2, np.uint64)
    first = uniform(0, keys, copy_index, 4)
    assert not np.array_equal(first[0], first[1])
    assert not np.array_equal(first, uniform(1, keys, copy_index, 4))
    assert not np.array_equal(first, uniform(0, keys, copy_index + np.uint64(1), 4))


def test_numbers_are_uniform_and_uncorrelated_along_draws_and_uids():
    keys = uid_keys([f"c{n}" for n in range(200)])
    grid_keys, grid_draws = np.repeat(keys, 200), np.tile(np.arange(200, dtype=np.uint64), 200)
    u = uniform(0, grid_keys, grid_draws, 3)
    assert u.min() >= 0
    assert u.max() < 1
    counts = np.histogram(u[:, 0], 20, (0, 1))[0]
    # 40,000 numbers in 20 bins: chi-square with 19 degrees of freedom, 0.999 quantile 43.8.
    assert ((counts - 2000) ** 2 / 2000).sum() < 43.8
    table = u[:, 0].reshape(200, 200)
    for a, b in ((table[:, :-1], table[:, 1:]), (table[:-1], table[1:]), (u[:, 0], u[:, 1])):
        # Correlation of 40,000 pairs: standard error 0.005.
        assert abs(np.corrcoef(a.ravel(), b.ravel())[0, 1]) < 0.02


def test_the_policy_has_the_papers_ranges():
    keys, copy_index = uid_keys([f"c{n}" for n in range(6000)]), np.zeros(6000, np.uint64)
    d = saeed2022_params(0, keys, copy_index, 300)
    angles, counts = np.unique(d.angle, return_counts=True)
    assert angles.tolist() == [0, 20, 30]
    assert np.abs(counts / 6000 - 1 / 3).max() < 0.03  # five standard errors
    changed = d.brightness[d.brightness != 1]
    assert abs(len(changed) / 6000 - 0.5) < 0.035
    assert changed.min() >= 0.2
    assert changed.max() <= 1.2
    assert changed.min() < 0.21
    assert changed.max() > 1.19
    for flip in (d.flip_x, d.flip_y):
        assert abs(flip.mean() - 0.5) < 0.035


def test_a_turn_by_90_degrees_moves_pixels_without_mixing_them():
    pixels = picture()
    expected = np.asarray(Image.fromarray(pixels).transpose(Image.Transpose.ROTATE_90))
    np.testing.assert_allclose(run(pixels, angle=90.0), expected, atol=0.1)


def test_a_shift_by_pixels_is_exact():
    pixels = picture()
    moved = run(pixels, shift=[1 / 61, -1 / 61])
    np.testing.assert_allclose(moved[:-1, 1:], pixels[1:, :-1], atol=0.1)
    assert max(moved[-1].max(), moved[:, 0].max()) < 0.01


def test_turn_scale_and_shift_are_pillows_affine_transform():
    pixels, side, center = picture(), 61, 30.0
    theta, scale, dx, dy = np.deg2rad(60.0), 1.1, 6.1, -3.05
    ours = run(pixels, angle=60.0, scale=1.1, shift=[dx / side, dy / side])
    # Pillow wants where a pixel comes from; half a pixel lies between the two conventions.
    cos, sin = np.cos(theta) / scale, np.sin(theta) / scale
    x0, y0 = center + 0.5 + dx, center + 0.5 + dy
    matrix = (
        cos, -sin, center + 0.5 - cos * x0 + sin * y0,
        sin, cos, center + 0.5 - sin * x0 - cos * y0,
    )  # fmt: skip
    image = Image.fromarray(pixels)
    expected = np.asarray(
        image.transform((side, side), Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR)
    )
    inside = np.hypot(*(np.mgrid[:side, :side] - center)) < 20
    assert np.abs(ours - expected)[inside].max() <= 2


def test_bukharis_policies_have_the_papers_angles_and_two_readings_of_its_shift():
    keys, copy_index = uid_keys([f"c{n}" for n in range(6000)]), np.zeros(6000, np.uint64)
    for name in ("bukhari2022", "bukhari2022-pixel"):
        d = POLICIES[name](0, keys, copy_index, 224)
        angles, counts = np.unique(d.angle, return_counts=True)
        assert angles.tolist() == [0, 60, 90]
        assert np.abs(counts / 6000 - 1 / 3).max() < 0.03
        assert not d.flip_x.any()
        assert (d.brightness == 1).all()
        if name == "bukhari2022":
            assert d.shift.min() == pytest.approx(-0.1, abs=1e-3)
            assert d.shift.max() == pytest.approx(0.1, abs=1e-3)
        else:
            assert np.unique((d.shift * 224).round(6)).tolist() == [-1, 1]


def test_the_modern_policy_turns_all_ways_and_keeps_to_its_ranges():
    keys, copy_index = uid_keys([f"c{n}" for n in range(6000)]), np.zeros(6000, np.uint64)
    d = modern_params(0, keys, copy_index, 300)
    assert np.abs(np.histogram(d.angle, 4, (0, 360))[0] / 6000 - 0.25).max() < 0.03
    for values, low, high in ((d.scale, 0.9, 1.1), (d.stain, 0.85, 1.15), (d.brightness, 0.9, 1.1)):
        assert low <= values.min() < low + 0.01
        assert high - 0.01 < values.max() <= high


def matrices(factors) -> torch.Tensor:
    return torch.from_numpy(mixing_matrices(np.asarray(factors)).astype(np.float32))


def test_stain_jitter_follows_beer_lambert_and_leaves_black_and_white():
    blue = np.asarray([0.834750233, 0.513556283, 0.196330403])
    dyed = (255 * np.exp(-0.8 * blue)).astype(np.float32)
    images = torch.from_numpy(
        np.stack([dyed, np.full(3, 255, np.float32), np.zeros(3, np.float32)], axis=1)
    )[None, :, None, :]
    out = jitter_stain(images, matrices([[1.5, 0.8]]))[0, :, 0].numpy()
    np.testing.assert_allclose(out[:, 0], 255 * np.exp(-1.2 * blue), atol=1e-2)
    np.testing.assert_allclose(out[:, 1], 255, atol=1e-3)
    assert (out[:, 2] == 0).all()
    unchanged = jitter_stain(images, matrices([[1.0, 1.0]]))
    torch.testing.assert_close(unchanged, images, atol=1e-2, rtol=0)
