"""The loop without Ray: exact at any number of workers, after any stop, from any loader."""

from __future__ import annotations

import math
import os
import socket
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from scipy.special import softmax
from sklearn import metrics as reference

from leuk_ray.augment.settings import AugmentSettings
from leuk_ray.datasets.host_cache import open_host_cache
from leuk_ray.datasets.loaders import ReaderLoader
from leuk_ray.datasets.plan import plan_epoch, uid_keys
from leuk_ray.models.settings import ModelSettings
from leuk_ray.models.zoo import build
from leuk_ray.training import loop
from leuk_ray.training.cells import EpochPlanner, TrainingCells
from leuk_ray.training.learner import Learner, Microbatch
from leuk_ray.training.state import TrainingState
from leuk_ray.training.validation import CopyAugmentation, metrics_of, score_rows
from leuk_ray.utils.errors import TrainingDiverged
from tests.support.toy_training import (
    MIXED,
    SETTINGS,
    SIZE,
    ArrayLoader,
    changed,
    make_cells,
    make_model,
    run,
    run_mixed,
)


def of_rank(world_size: int) -> dict:
    """Two workers train the head's GroupNorm and statistics frozen in the backbone alone."""
    if world_size == 3:
        mixed = {"augmentation": MIXED, "model": make_model(drop_path=0.3)}
        return {"settings": changed(epochs=2), **mixed}
    return {
        "settings": changed(epochs=2, frozen_norm="backbone"),
        "model": make_model(head_norm="group"),
    }


def worker(rank: int, world_size: int, port: int, out: Path) -> None:
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    dist.init_process_group("gloo", rank=rank, world_size=world_size)
    history = run(dtype=torch.float64, **of_rank(world_size))
    dist.destroy_process_group()
    torch.save(history, out / f"{rank}.pt")


def run_workers(world_size: int, out: Path) -> list[list[dict]]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    mp.spawn(worker, (world_size, port, out), nprocs=world_size)  # pyright: ignore[reportPrivateImportUsage]
    return [torch.load(out / f"{rank}.pt", weights_only=True) for rank in range(world_size)]


@pytest.fixture(scope="module")
def one_worker() -> list[dict]:
    return run_mixed()


@pytest.mark.parametrize("world_size", [2, 3])
def test_several_workers_train_as_one(world_size: int, tmp_path: Path):
    """In float64, so that a wrong weight of an uneven share cannot hide behind rounding."""
    one_worker = run(dtype=torch.float64, **of_rank(world_size))
    histories = run_workers(world_size, tmp_path)
    for history in histories:
        assert history == histories[0], "workers disagree on what happened"
        assert len(history) == len(one_worker)
        for ours, single in zip(history, one_worker, strict=True):
            for name in ("train_loss", "validation_loss", "validation_auc", "lr"):
                # Sums are taken in another order; 1e-8 leaves room for 12 steps of rounding.
                assert ours[name] == pytest.approx(single[name], abs=1e-8), name
            assert ours["train_accuracy"] == single["train_accuracy"]


def test_the_same_run_twice_is_the_same_to_the_last_digit(one_worker):
    assert run_mixed() == one_worker
    assert run()[-1]["train_loss"] != one_worker[-1]["train_loss"]


def test_a_resident_feed_changes_nothing(one_worker):
    assert run_mixed(resident=True) == one_worker


def test_a_host_cache_changes_nothing(one_worker, store_pixels, tmp_path: Path):
    dataset = store_pixels(tmp_path / "dataset", make_cells()[1])
    loader = ReaderLoader(open_host_cache(dataset, tmp_path / "cache"), torch.device("cpu"))
    assert run_mixed(loader=loader) == one_worker


@pytest.mark.parametrize("stop_after", [1, 2])
def test_a_resumed_run_equals_the_unbroken_one(stop_after: int, one_worker, tmp_path: Path):
    run_mixed(save_to=tmp_path)
    assert run_mixed(resume_from=tmp_path / f"epoch_{stop_after}") == one_worker


def test_a_finished_run_stays_finished(one_worker, tmp_path: Path):
    run_mixed(save_to=tmp_path)
    assert run_mixed(resume_from=tmp_path / "epoch_3") == one_worker


@pytest.mark.parametrize("resident", [False, True])
def test_every_row_is_used_as_often_as_the_plan_says(resident: bool):
    cells, pixels = make_cells()
    loader = ArrayLoader(pixels)
    run(resident=resident, loader=loader)
    used = Counter(np.concatenate(loader.delivered).tolist())
    if resident:
        plan = plan_epoch(
            cells.train, cells.labels[cells.train], seed=0, epoch=0, balance="equal", batch_size=16
        )
        assert used == Counter(plan.rows.tolist())  # later epochs come from memory
        return
    expected: Counter = Counter()
    for epoch in range(3):
        expected += Counter(
            plan_epoch(
                cells.train, cells.labels[cells.train],
                seed=0, epoch=epoch, balance="equal", batch_size=16,
            ).rows.tolist()
        )  # fmt: skip
    assert used == expected


def test_the_loss_falls(one_worker):
    losses = [line["train_loss"] for line in run(changed(epochs=6))]
    assert losses[-1] < 0.8 * losses[0]


def test_the_history_says_at_its_last_epoch_why_the_run_ended(one_worker):
    assert [line["ended"] for line in one_worker] == ["", "", "all 3 epochs done"]
    impatient = {"patience": 1, "max_reductions": 0}
    *before, last = run(changed(epochs=20, lr=1e-9, plateau=impatient))
    assert len(before) < 19
    assert {line["ended"] for line in before} == {""}
    assert "did not improve through 0 reductions" in last["ended"]


def test_a_loss_that_is_no_number_names_the_cells_and_keeps_the_last_checkpoint(tmp_path: Path):
    done = []
    with pytest.raises(
        TrainingDiverged, match=r"epoch 1, batch \d is not a number \(cells c\d+, "
    ) as error:
        run(changed(lr=1e30), save_to=tmp_path, progress=done.append)
    # The batch after the last step: the weights were not moved by what is no number.
    assert f"batch {done[-1]['batches'] + 1} is" in str(error.value)


def test_steps_are_logged_and_add_up_to_the_epoch():
    done: list[dict] = []
    history = run(changed(epochs=2, log_every=1, clip_grad_norm=1.0), progress=done.append)
    assert [update["step"]["number"] for update in done] == [1, 2, 3, 4, 5, 6, 7, 8]
    assert all(update["step"]["images_per_second"] > 0 for update in done)
    for epoch, line in enumerate(history):
        losses = [update["step"]["loss"] for update in done[4 * epoch : 4 * epoch + 4]]
        # Batches differ by one cell at most.
        assert np.mean(losses) == pytest.approx(line["train_loss"], rel=0.05)
    assert all(update["step"]["grad_norm"] > 0 for update in done)
    sparse: list[dict] = []
    assert (
        run(changed(epochs=2, log_every=2, clip_grad_norm=1.0), progress=sparse.append) == history
    )
    assert ["step" in update for update in sparse] == [False, True] * 4


def test_a_tie_is_positive_in_training_and_validation():
    model = make_model()
    for parameter in model.parameters():
        torch.nn.init.zeros_(parameter)
    learner = Learner(model, SETTINGS)
    learner.start_epoch(0)
    cells, pixels = make_cells()
    labels = torch.from_numpy(cells.labels)
    images = torch.from_numpy(pixels).permute(0, 3, 1, 2)
    counts = learner.learn(Microbatch(images, None, labels, torch.ones(len(labels)), 1.0))
    assert counts[1] == labels.sum()
    metrics = loop.validate(
        model.eval(), EpochPlanner(cells, SETTINGS, 0), ArrayLoader(pixels), AugmentSettings()
    )
    assert metrics["validation_accuracy"] == cells.labels[cells.validation].mean()


def test_a_validation_loss_that_is_no_number_ends_the_run(monkeypatch):
    real = loop.validate
    monkeypatch.setattr(loop, "validate", lambda *a: real(*a) | {"validation_loss": math.nan})
    with pytest.raises(
        TrainingDiverged, match="validation_loss of epoch 1 is not a number; lower lr"
    ):
        run(changed(select="validation_loss"))


def test_copies_keep_their_pixels_in_every_epoch_and_are_scored_as_copies():
    """`paper-literal`: copy k of a cell has index k, in training, validation and test."""
    cells, pixels = make_cells()
    train = np.repeat(cells.train, 2)
    copies = np.tile(np.arange(2, dtype=np.uint64), len(cells.train))
    plans = [
        plan_epoch(
            train, cells.labels[train], seed=0, epoch=epoch, balance=9, batch_size=16, copies=copies
        )
        for epoch in (0, 5)
    ]
    for plan in plans:
        assert sorted(zip(plan.rows, plan.copy_index, strict=True)) == sorted(
            zip(train, copies, strict=True)
        )
    assert not np.array_equal(plans[0].rows, plans[1].rows)
    scored = np.repeat(cells.validation, 2)
    copy_index = np.tile(np.arange(2, dtype=np.uint64), len(cells.validation))
    core = make_model().eval()
    augment = CopyAugmentation.of(AugmentSettings(), 0, cells, scored, copy_index)
    logits = score_rows(core, scored, ArrayLoader(pixels), 4, augment)
    again = score_rows(core, scored, ArrayLoader(pixels), 7, augment)
    # Other batches, other kernels: the last digits of float32.
    np.testing.assert_allclose(logits, again, atol=1e-5)
    assert not np.allclose(logits[::2], logits[1::2], atol=1e-5)
    plain = score_rows(core, cells.validation, ArrayLoader(pixels), 4)
    assert plain.shape == (len(cells.validation), 1)


@pytest.mark.parametrize("num_classes", [3, 8])
def test_a_network_of_many_classes_learns_and_scores_as_it_was_validated(num_classes: int):
    """A square of another colour for each class, one class 5 times as frequent as the others."""
    torch.set_num_threads(1)
    generator = np.random.default_rng(0)
    labels = np.repeat(np.arange(num_classes), [30] + [6] * (num_classes - 1))
    pixels = generator.integers(0, 80, (len(labels), SIZE, SIZE, 3), np.uint8)
    for channel in range(3):
        pixels[labels >> channel & 1 == 1, 8:24, 8:24, channel] += 120
    rows = np.arange(len(labels))
    uids = [f"c{row}" for row in rows]
    held = rows % 3 == 0
    cells = TrainingCells(
        uids, labels, uid_keys(uids), rows[~held], rows[held], num_classes=num_classes
    )
    settings = changed(
        epochs=12, lr=3e-3, select="validation_macro_f1", frozen_norm="none",
        schedule={"kind": "constant"},
        loss={"class_weights": "effective", "label_smoothing": 0.05, "focal_gamma": 1.0},
    )  # fmt: skip
    torch.manual_seed(0)
    network = ModelSettings(
        architecture="se_cnn", attention="se", input_size=SIZE, filters=(8, 16, 32), reduction=4,
        weights="scratch",
    )  # fmt: skip
    learner = Learner(build(network, load_weights=True, num_classes=num_classes), settings)
    planner = EpochPlanner(cells, settings, seed=0)
    counts = np.bincount(labels[planner.plan(0).rows], minlength=num_classes)
    assert counts.tolist() == [20] * num_classes  # balance: equal
    loader = ArrayLoader(pixels)
    state = loop.train(
        learner,
        TrainingState(),
        planner,
        loader,
        loader,
        AugmentSettings(),
        lambda metrics, save: None,
    )
    last = state.history[-1]
    assert last["validation_macro_f1"] > 0.9
    assert last["selection"] == pytest.approx(last["validation_macro_f1"], abs=1e-6)
    scores = score_rows(learner.eval_model, cells.validation, loader, settings.batch_size)
    assert scores.shape == (held.sum(), num_classes - 1)
    assert metrics_of(scores, labels[held], settings.select).items() <= last.items()


def test_validation_metrics_of_many_classes_are_those_of_scikit_learn():
    generator = np.random.default_rng(0)
    scores = generator.normal(0, 2, (200, 4))
    probabilities = softmax(np.pad(scores, ((0, 0), (1, 0))), axis=1)
    labels = (probabilities.cumsum(axis=1) < generator.random((200, 1))).sum(axis=1)
    called = probabilities.argmax(axis=1)
    found = metrics_of(scores, labels, "validation_accuracy")
    expected = {
        "validation_loss": reference.log_loss(labels, probabilities),
        "validation_accuracy": reference.accuracy_score(labels, called),
        "validation_auc": reference.roc_auc_score(labels, probabilities, multi_class="ovr"),
        "validation_balanced_accuracy": reference.balanced_accuracy_score(labels, called),
        "validation_macro_f1": reference.f1_score(labels, called, average="macro"),
    }
    assert found == pytest.approx(expected)
    kept = labels != 3  # a class that validation lacks has no part in the means
    assert np.isfinite(
        list(metrics_of(scores[kept], labels[kept], "validation_auc").values())
    ).all()
    alone = metrics_of(scores[labels == 3], labels[labels == 3], "validation_auc")
    assert "validation_auc" not in alone
    two = metrics_of(scores[:, :1], labels % 2, "validation_accuracy")
    assert two.keys() == {"validation_loss", "validation_accuracy", "validation_auc"}
    assert "validation_macro_f1" in metrics_of(scores[:, :1], labels % 2, "validation_macro_f1")
