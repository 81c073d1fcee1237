"""Logistic regression on frozen features, folded into the network's head."""

import warnings

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from leuk_ray.augment.settings import AugmentSettings
from leuk_ray.evaluation.figures import Stamp, training_figure
from leuk_ray.models.settings import ModelSettings
from leuk_ray.models.zoo import build
from leuk_ray.recipes.recipe import load_recipe
from leuk_ray.recipes.training import TrainingSettings
from leuk_ray.runs.target import probe_notes
from leuk_ray.training.cells import EpochPlanner, TrainingCells
from leuk_ray.training.learner import Learner
from leuk_ray.training.loop import train
from leuk_ray.training.probe import PENALTIES, fit
from leuk_ray.training.state import TrainingState
from leuk_ray.utils.errors import UserError


def features_of(
    num_classes: int, groups: int, effect: float, seed: int = 0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(N, 20) features of other scales and means, labels, groups of one class with an effect."""
    generator = np.random.default_rng(seed)
    group = np.repeat(np.arange(groups), 8)
    label = group % num_classes
    shown = (
        generator.normal(size=(len(group), 20))
        + effect * generator.normal(size=(groups, 20))[group]
    )
    shown[np.arange(len(group)), label] += 1
    return shown * np.geomspace(0.01, 50, 20) + 3, label, group


@pytest.mark.parametrize("num_classes", [2, 4])
def test_the_head_is_the_regression_on_features_as_they_are(num_classes: int):
    features, label, group = features_of(num_classes, 40, 0.3)
    weight, bias, found = fit(features, label, group, 0, num_classes)
    assert weight.shape == (num_classes, 20)
    assert found["penalty"] in PENALTIES
    assert found["penalty_folds"] == 5
    assert 0 < found["penalty_loss"] < np.log(num_classes)
    model = make_pipeline(StandardScaler(), LogisticRegression(C=found["penalty"], max_iter=2000))
    expected = model.fit(features, label).predict_proba(features)
    logits = features @ weight.astype(float).T + bias
    ours = torch.from_numpy(logits).softmax(dim=1).numpy()
    np.testing.assert_allclose(ours, expected, atol=1e-4)
    assert found["train_accuracy"] == (expected.argmax(axis=1) == label).mean()


def test_the_penalty_is_chosen_on_groups_that_were_left_out():
    """What tells groups apart helps cells of the same group alone, so it asks for less penalty."""
    features, label, group = features_of(2, 20, 3.0)
    by_group = fit(features, label, group, 0, 2)[2]
    by_cell = fit(features, label, np.arange(len(label)), 0, 2)[2]
    assert by_group["penalty"] < by_cell["penalty"]
    assert by_group["penalty_loss"] > 2 * by_cell["penalty_loss"]
    again = fit(features, label, group, 0, 2)
    assert np.array_equal(again[0], fit(features, label, group, 0, 2)[0])
    alone = fit(features, label, label, 0, 2)[2]  # a group a class: none can be left out
    assert (alone["penalty_folds"], alone["penalty_loss"]) == (0, None)


class Pixels:
    """Delivers rows of a tensor."""

    def __init__(self, pixels: Tensor) -> None:
        self.pixels = pixels

    def iter_batches(self, batches):
        for rows in batches:
            yield self.pixels[torch.from_numpy(rows)]


def test_an_epoch_of_a_probe_fits_the_head_and_nothing_else():
    settings = TrainingSettings(probe=True, epochs=1, batch_size=7, select="validation_loss")
    torch.manual_seed(0)
    network = ModelSettings(
        architecture="timm", backbone="resnet10t.c3_in1k", input_size=32, weights="scratch"
    )
    model = build(network, load_weights=True, num_classes=3)
    pixels = torch.randint(0, 256, (60, 3, 32, 32), dtype=torch.uint8)
    label = np.arange(60) % 3
    pixels[:, 0] = pixels[:, 0] // 4 + torch.from_numpy(60 * label).to(torch.uint8)[:, None, None]
    rows = np.arange(60)
    cells = TrainingCells(
        [str(row) for row in rows], label, rows.astype(np.uint64), rows[:45], rows[45:],
        num_classes=3, groups=rows // 3 * 3 + label,
    )  # fmt: skip
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = train(
        Learner(model, settings), TrainingState(), EpochPlanner(cells, settings, 0),
        Pixels(pixels), Pixels(pixels), AugmentSettings(policy="none"), lambda metrics, save: None,
    )  # fmt: skip
    (line,) = state.history
    assert line["penalty"] in PENALTIES
    assert (line["train_images"], line["lr"], line["batch_norms"]) == (45, 0.0, 0)
    assert line["validation_accuracy"] == 1
    (note,) = probe_notes(state.history)
    assert (
        f"fitted to 45 cells; L2 penalty C = {line['penalty']:g}, chosen on 5 inner folds" in note
    )
    after = model.state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"head.classifier.weight", "head.classifier.bias"}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (["training.lr=0.1"], "lr does not apply to a probe; leave it out"),
        (["epochs=3"], "a probe is fitted in one epoch, epochs is 3"),
        (["policy=saeed2022"], "fits to cells as they are; set augment.policy=none"),
        (["architecture=multi_attention"], "fits a linear head; take model.architecture timm"),
    ],
)
def test_what_a_probe_does_not_use_is_refused(changes: list[str], words: str):
    with pytest.raises(UserError, match=words):
        load_recipe("lite-probe", changes)
    assert load_recipe("lite-probe").training.probe


def test_the_history_of_a_probe_is_plotted_without_a_warning():
    history = [{"epoch": 1, "train_loss": 0.1, "validation_loss": 0.5, "lr": 0.0}]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        training_figure(history, 1, Stamp(False, "")).canvas.draw()
