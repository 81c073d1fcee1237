"""Rendered cells: their layout, their replay, and that their best AUC is what it claims to be."""

import csv
import json
import math
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from leuk_ray.datasets.synthetic import (
    SyntheticCell,
    SyntheticSpec,
    draw_cells,
    render,
    separation,
    write_c_nmc,
)
from leuk_ray.utils.errors import UserError


@pytest.mark.parametrize(
    "wrong",
    [
        {"subjects": 1},
        {"cells": 5, "subjects": 6},
        {"cells": 100_001},
        {"seed": -1},
        {"best_auc": 0.49},
        {"best_auc": 1.0},
        {"best_auc": math.nan},
        {"signal": "nucleus"},
        {"subject_share": -0.1},
        {"subject_share": 0.95},
        {"subject_share": math.nan},
    ],
)
def test_a_wrong_spec_is_refused_in_one_line_that_names_the_setting(
    wrong: dict[str, float],
) -> None:
    with pytest.raises(UserError) as error:
        SyntheticSpec(**wrong)  # pyright: ignore[reportArgumentType]
    assert next(iter(wrong)) in str(error.value)
    assert "\n" not in str(error.value)


def test_separation_inverts_the_area_under_two_unit_normals() -> None:
    assert separation(0.5) == 0
    assert separation(0.90) == pytest.approx(1.8124, abs=1e-4)  # sqrt(2) * 1.28155


@pytest.mark.parametrize("best_auc", [0.5, 0.75, 0.90])
def test_the_latent_reaches_the_best_auc(best_auc: float) -> None:
    # The standard error of an AUC from 2,000 + 2,000 independent cells is at most
    # sqrt((4001) / (12 * 2000 * 2000)) = 0.009, at 0.5; 0.0076 at 0.75 and 0.005 at 0.90 (Hanley
    # and McNeil). 0.02 is over two of them at 0.5, and the seed is fixed.
    cells = draw_cells(SyntheticSpec(cells=4000, subjects=200, best_auc=best_auc))
    assert _auc(cells, [cell.latent for cell in cells]) == pytest.approx(best_auc, abs=0.02)


def test_latents_of_a_class_are_normal_with_unit_variance() -> None:
    cells = draw_cells(SyntheticSpec(cells=4000, subjects=200, best_auc=0.9))
    for label in (0, 1):
        latents = np.array([cell.latent for cell in cells if cell.label == label])
        assert latents.mean() == pytest.approx((label - 0.5) * separation(0.9), abs=0.07)
        assert latents.std() == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize("subjects", [2, 3, 6, 7, 24, 25])
def test_subjects_have_one_class_and_are_dealt_evenly(subjects: int) -> None:
    cells = draw_cells(SyntheticSpec(cells=5 * subjects + 1, subjects=subjects))
    classes = {cell.subject: cell.label for cell in cells}
    assert len(cells) == 5 * subjects + 1
    assert len({cell.uid for cell in cells}) == len(cells)
    assert len({(cell.subject, cell.label, cell.fold) for cell in cells}) == subjects
    assert sum(classes.values()) == (subjects + 1) // 2
    assert all(subject.startswith("H") != bool(label) for subject, label in classes.items())
    assert set(Counter(cell.subject for cell in cells).values()) == {5, 6}
    if subjects >= 6:
        assert {(c.fold, c.label) for c in cells} == {(f, y) for f in range(3) for y in (0, 1)}


def test_a_cell_does_not_depend_on_how_many_others_are_drawn() -> None:
    few = draw_cells(SyntheticSpec(cells=12, subjects=4, seed=5))
    many = {cell.uid: cell for cell in draw_cells(SyntheticSpec(cells=90, subjects=9, seed=5))}
    assert all(many[cell.uid] == cell for cell in few)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.9])
def test_of_the_variance_of_stain_the_asked_share_lies_between_subjects(share: float) -> None:
    # The standard error of a variance from 200 means is sqrt(2 / 199) = 10% of it.
    cells = draw_cells(SyntheticSpec(cells=4000, subjects=200, subject_share=share))
    stain = np.log([cell.mean_color[0] for cell in cells])
    names = np.array([cell.subject for cell in cells])
    own = [stain[names == name] for name in dict.fromkeys(names.tolist())]
    within = float(np.mean([values.var(ddof=1) for values in own]))
    between = float(np.var([values.mean() for values in own], ddof=1)) - within / 20
    assert between / (between + within) == pytest.approx(share, abs=0.03)
    labels = [np.mean([cell.mean_color[0] for cell in cells if cell.label == y]) for y in (0, 1)]
    assert labels[0] == pytest.approx(labels[1], rel=0.05), "stain itself knows no class"


def test_another_seed_gives_other_subjects() -> None:
    one, other = (draw_cells(SyntheticSpec(cells=4, subjects=2, seed=seed)) for seed in (0, 1))
    assert all(
        a.uid == b.uid and a.mean_color != b.mean_color for a, b in zip(one, other, strict=True)
    )
    assert not np.array_equal(render(one[0]), render(other[0]))


def test_an_image_is_one_cell_on_black_in_the_central_300_pixels() -> None:
    for cell in draw_cells(SyntheticSpec(cells=24, subjects=24, seed=2)):
        image = render(cell)
        mask = np.asarray(image.any(axis=2))
        assert image.shape == (450, 450, 3)
        assert image.dtype == np.uint8
        assert (image[mask] > 0).all()
        assert not image[[0, -1]].any()
        assert mask[75:375, 75:375].sum() > 0.99 * mask.sum()
        assert math.sqrt(4 * mask.sum() / math.pi) == pytest.approx(cell.diameter, rel=0.01)
        assert 140 < cell.diameter < 270


def test_rendering_again_gives_the_same_bytes() -> None:
    cell = draw_cells(SyntheticSpec(cells=2, subjects=2))[0]
    assert render(cell).tobytes() == render(cell).tobytes()


def test_the_cues_grow_with_the_latent() -> None:
    for cell in draw_cells(SyntheticSpec(cells=6, subjects=6, seed=4)):
        images = [render(replace(cell, latent=latent)) for latent in (-3, -1.5, 0, 1.5, 3)]
        shares, textures = np.array([_features(image)[-2:] for image in images]).T
        assert (np.diff(shares) > 0.03).all()
        assert (np.diff(textures) < 0).all()


def test_the_latent_changes_neither_area_nor_mean_color() -> None:
    for cell in draw_cells(SyntheticSpec(cells=12, subjects=12, seed=4)):
        low, high = (render(replace(cell, latent=latent)) for latent in (-3, 3))
        mask = low.any(axis=2)
        assert np.array_equal(mask, high.any(axis=2))
        assert low[mask].mean(axis=0) == pytest.approx(high[mask].mean(axis=0), abs=0.2)


def test_crude_pixel_features_reach_the_best_auc_on_fresh_subjects() -> None:
    train, test = _Rendered(144, 24, seed=0), _Rendered(300, 50, seed=1)
    scores = train.fit_and_score([4, 5], test)
    latents = [cell.latent for cell in test.cells]
    assert _auc(test.cells, scores) >= 0.87
    assert _auc(test.cells, scores) == pytest.approx(_auc(test.cells, latents), abs=0.02)
    assert np.corrcoef(scores, latents)[0, 1] > 0.95


def test_a_signal_in_the_nucleoli_is_nowhere_else() -> None:
    spec = SyntheticSpec(cells=150, subjects=150, seed=6, best_auc=0.95, signal="nucleoli")
    cells = draw_cells(spec)
    for cell in cells[:6]:
        low, high = (render(replace(cell, latent=latent)).astype(int) for latent in (-3, 3))
        mask, change = low.any(axis=2), np.abs(high - low).max(axis=2)
        assert (change > 12).sum() > 0.01 * mask.sum()
        # Two spots of 0.14 radii at most; keeping the mean colour dims the rest a little.
        assert (change > 4).sum() < 0.08 * mask.sum()
    # 0.14 is three standard errors, as below; with all five cues the same features reach 0.87.
    features = np.array([_features(render(cell)) for cell in cells])
    for column in range(6):
        assert _auc(cells, features[:, column]) == pytest.approx(0.5, abs=0.14)
    decoys = np.array([cell.decoy for cell in cells], dtype=float)
    assert _auc(cells, decoys) == pytest.approx(0.5, abs=0.14)
    # The mixture of two unit normals that are d apart: variance 1 + d^2 / 4.
    assert decoys.std() == pytest.approx(math.sqrt(1 + separation(0.95) ** 2 / 4), rel=0.2)


def test_area_and_mean_color_are_no_shortcut() -> None:
    # One cell a subject, so that cells are independent. The standard error of the AUC from
    # 75 + 75 cells without signal is sqrt(151 / (12 * 75 * 75)) = 0.047; 0.14 is three of them.
    train, test = _Rendered(100, 100, seed=2), _Rendered(150, 150, seed=3)
    for columns in ([0], [1, 2, 3], [0, 1, 2, 3]):
        scores = train.fit_and_score(columns, test)
        assert _auc(test.cells, scores) == pytest.approx(0.5, abs=0.14)


def test_writes_the_c_nmc_layout_and_says_that_it_is_synthetic(tmp_path: Path) -> None:
    spec = SyntheticSpec(cells=14, subjects=6, seed=7, best_auc=0.8)
    calls: list[tuple[int, int]] = []
    summary = write_c_nmc(tmp_path / "cells", spec, lambda *call: calls.append(call))

    root = tmp_path / "cells"
    assert [path.name for path in tmp_path.iterdir()] == ["cells"]
    assert calls == [(done, 14) for done in range(1, 15)]
    files = sorted(root.rglob("*.bmp"))
    grammar = r"training_data/fold_[012]/(all|hem)/UID_H?\d+_\d+_\d+_\1\.bmp"
    assert all(re.fullmatch(grammar, file.relative_to(root).as_posix()) for file in files)
    cells = {cell.uid: cell for cell in draw_cells(spec)}
    assert {file.stem for file in files} == set(cells)
    with Image.open(files[0]) as image:
        assert np.array_equal(np.asarray(image), render(cells[files[0].stem]))

    assert summary == json.loads((root / "SYNTHETIC.json").read_text())
    assert summary["synthetic"] is True
    assert summary["best_auc"] == 0.8
    assert summary["counts"] == {"subjects": {"all": 3, "hem": 3}, "cells": {"all": 7, "hem": 7}}
    with (root / "latents.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["uid"]: float(row["latent"]) for row in rows} == {
        uid: cell.latent for uid, cell in cells.items()
    }
    oracle = _auc(list(cells.values()), [cell.latent for cell in cells.values()])
    assert summary["oracle_auc"] == pytest.approx(oracle)


def test_the_same_spec_writes_the_same_bytes(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    for directory in (first, second):
        write_c_nmc(directory, SyntheticSpec(cells=4, subjects=2))
    files = [path.relative_to(first) for path in first.rglob("*") if path.is_file()]
    assert len(files) == 6
    assert all((first / file).read_bytes() == (second / file).read_bytes() for file in files)


def test_an_occupied_directory_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match=re.escape(str(tmp_path))):
        write_c_nmc(tmp_path, SyntheticSpec(cells=2, subjects=2))
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_an_empty_directory_is_filled(tmp_path: Path) -> None:
    (tmp_path / "cells").mkdir()
    write_c_nmc(tmp_path / "cells", SyntheticSpec(cells=2, subjects=2))
    assert (tmp_path / "cells" / "SYNTHETIC.json").exists()


def test_an_interrupted_write_leaves_nothing(tmp_path: Path) -> None:
    def interrupt(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_c_nmc(tmp_path / "cells", SyntheticSpec(cells=2, subjects=2), interrupt)
    assert list(tmp_path.iterdir()) == []


class _Rendered:
    """The cells of a spec with their crude features (N, 6)."""

    def __init__(self, cells: int, subjects: int, seed: int) -> None:
        self.cells = draw_cells(SyntheticSpec(cells=cells, subjects=subjects, seed=seed))
        self.features = np.array([_features(render(cell)) for cell in self.cells])

    def fit_and_score(self, columns: list[int], test: "_Rendered") -> NDArray[np.float64]:
        model = make_pipeline(StandardScaler(), LogisticRegression())
        model.fit(self.features[:, columns], [cell.label for cell in self.cells])
        return model.decision_function(test.features[:, columns])


def _features(image: NDArray[np.uint8]) -> list[float]:
    """Area, mean red, green and blue, share of the cell that is nucleus, texture of the nucleus."""
    mask = np.asarray(image.any(axis=2))
    green = image[mask][:, 1]
    is_nucleus = green <= _otsu(green)
    nucleus = green[is_nucleus]
    texture = nucleus.std() / nucleus.mean()
    return [mask.sum(), *image[mask].mean(axis=0), is_nucleus.mean(), texture]


def _otsu(values: NDArray[np.uint8]) -> int:
    """The threshold that best splits the values into a dark and a bright class (Otsu 1979)."""
    share = np.bincount(values, minlength=256) / len(values)
    below = share.cumsum()
    mean = (share * np.arange(256)).cumsum()
    between = (mean[-1] * below - mean) ** 2 / np.maximum(below * (1 - below), 1e-9)
    return int(between.argmax())


def _auc(cells: list[SyntheticCell], scores: list[float] | NDArray[np.float64]) -> float:
    return float(roc_auc_score([cell.label for cell in cells], scores))
