"""Rendered stages: their best balanced accuracy is what it claims to be."""

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import norm

from leuk_ray.datasets.layouts import LayoutOptions, read_layout
from leuk_ray.datasets.synthetic import SyntheticSpec, render, separation
from leuk_ray.datasets.synthetic_stages import (
    best_balanced_accuracy,
    draw_stages,
    oracle_balanced_accuracy,
    write_stages,
)
from leuk_ray.utils.errors import UserError


@pytest.mark.parametrize("stages", [2, 3, 5, 8, 20])
@pytest.mark.parametrize("neighbour_auc", [0.6, 0.9, 0.99])
def test_the_best_is_that_of_bayes_rule_by_numerical_integration(stages, neighbour_auc):
    apart = separation(neighbour_auc)
    means = (np.arange(stages) - (stages - 1) / 2) * apart
    latent = np.linspace(means[0] - 9, means[-1] + 9, 200_001)
    densities = norm.pdf(latent, means[:, None])
    largest = np.trapezoid(densities.max(axis=0), latent) / stages
    assert best_balanced_accuracy(stages, neighbour_auc) == pytest.approx(largest, abs=1e-8)


@pytest.mark.parametrize("stages", [3, 8])
def test_an_oracle_reaches_the_best_and_no_more(stages):
    spec = SyntheticSpec(cells=24_000, subjects=40, seed=5)
    cells = draw_stages(spec, stages)
    best = best_balanced_accuracy(stages, spec.best_auc)
    error = np.sqrt(best * (1 - best) / len(cells))
    found = oracle_balanced_accuracy(cells, stages, separation(spec.best_auc))
    assert abs(found - best) < 4 * error
    counts = Counter((cell.subject, cell.label) for cell in cells)
    assert len(counts) == 40 * stages
    assert max(counts.values()) - min(counts.values()) <= 1


def test_stages_show_in_pixels_and_their_order_is_that_of_the_nucleus():
    cells = draw_stages(SyntheticSpec(cells=60, subjects=2, seed=1, best_auc=0.99), 5)
    dark = []
    for cell in cells:
        image = render(cell).astype(float)
        inside = image.sum(axis=2) > 0
        green = image[..., 1][inside]
        dark.append((green < green.mean()).mean())
    stage = np.asarray([cell.label for cell in cells])
    means = [np.asarray(dark)[stage == k].mean() for k in range(5)]
    assert (np.diff(means) > 0).all()


def test_they_are_written_as_class_folders_that_prepare_reads(tmp_path: Path):
    spec = SyntheticSpec(cells=20, subjects=4)
    summary = write_stages(tmp_path / "cells", spec, stages=3)
    assert json.loads((tmp_path / "cells" / "SYNTHETIC.json").read_text()) == summary
    options = LayoutOptions.parse("stage 1,stage 2,stage 3", ordered=True)
    catalogue = read_layout("folders", tmp_path / "cells", options)
    assert catalogue.classes.names == ("stage 1", "stage 2", "stage 3")
    assert catalogue.classes.ordered
    assert len(catalogue.rows) == 20
    assert {row["subject"] for row in catalogue.rows} == {"S1", "S2", "S3", "S4"}


@pytest.mark.parametrize(
    ("stages", "changes", "words"),
    [(2, {}, "give 2, or 3 to 20"), (21, {}, "3 to 20"), (3, {"signal": "nucleoli"}, "everywhere")],
)
def test_what_cannot_be_rendered_is_refused(stages, changes, words):
    with pytest.raises(UserError, match=words):
        draw_stages(SyntheticSpec(**changes), stages)
