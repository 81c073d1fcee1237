"""What a serious trainer has, each against what it must equal."""

from __future__ import annotations

import gc
import sys
import weakref
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.special import softmax
from sklearn.metrics import log_loss
from sklearn.utils.class_weight import compute_class_weight
from torch.overrides import TorchFunctionMode

from leuk_ray.augment.mixing import mix_parameters
from leuk_ray.augment.policies import augment_tensors
from leuk_ray.augment.settings import AugmentSettings, Policy
from leuk_ray.datasets.plan import uid_keys
from leuk_ray.models.settings import ModelSettings
from leuk_ray.models.zoo import build
from leuk_ray.recipes.training import LossSettings, ScheduleSettings
from leuk_ray.training.learner import Augmented, Learner, Microbatch, make_optimizer
from leuk_ray.training.losses import class_weights, classification_loss
from leuk_ray.training.recorded import Recorded
from leuk_ray.training.schedule import lr_factor
from leuk_ray.training.state import TrainingState
from leuk_ray.utils.errors import UserError
from tests.support.toy_training import (
    SETTINGS,
    ArrayLoader,
    changed,
    make_cells,
    make_model,
    run,
    run_mixed,
)


@pytest.fixture(scope="module")
def plain() -> list[dict]:
    return run()


def test_a_batch_in_several_microbatches_is_the_same_step():
    """In float64: the microbatches' gradients add up to the batch's, in another order."""
    whole = run(changed(epochs=2), dtype=torch.float64)
    parts = run(changed(epochs=2, accumulate=3), dtype=torch.float64)
    for ours, single in zip(parts, whole, strict=True):
        for name in ("train_loss", "validation_loss"):
            assert ours[name] == pytest.approx(single[name], abs=1e-9), name


@pytest.mark.parametrize("stop_after", [1, 2])
def test_a_resumed_run_with_everything_on_equals_the_unbroken_one(stop_after, tmp_path: Path):
    settings = changed(
        ema_decay=0.9, accumulate=2, clip_grad_norm=1.0, frozen_epochs=1, precision="bf16"
    )
    unbroken = run(settings, save_to=tmp_path)
    assert run(settings, resume_from=tmp_path / f"epoch_{stop_after}") == unbroken


def test_averaged_weights_follow_their_equation_and_both_sets_are_saved(tmp_path: Path):
    learner = Learner(make_model(), changed(ema_decay=0.75, lr=1e-2))
    learner.start_epoch(0)
    name = "head.classifier.weight" if hasattr(learner.model.head, "classifier") else None
    name = name or next(n for n, p in learner.model.named_parameters() if p.ndim == 2)
    expected = learner.model.get_parameter(name).detach().double().numpy().copy()
    cells, pixels = make_cells()
    images = next(ArrayLoader(pixels).iter_batches([np.arange(8)]))
    trained = expected
    for _ in range(3):
        loss = classification_loss(
            learner.class_logits(images, None), torch.from_numpy(cells.labels[:8])
        )
        learner.backward(loss.mean())
        learner.step()
        trained = learner.model.get_parameter(name).detach().double().numpy()
        expected = 0.75 * expected + 0.25 * trained
    averaged = learner.eval_model.get_parameter(name).detach().numpy()
    # float32 holds seven digits; three steps of rounding.
    np.testing.assert_allclose(averaged, expected, rtol=1e-5, atol=1e-7)
    assert not np.allclose(averaged, trained, atol=1e-6)
    TrainingState().save(tmp_path, learner)
    again = Learner(make_model(), changed(ema_decay=0.75))
    TrainingState.load(tmp_path, again)
    for a, b in ((learner.model, again.model), (learner.eval_model, again.eval_model)):
        torch.testing.assert_close(dict(a.state_dict()), dict(b.state_dict()), rtol=0, atol=0)


def test_the_head_trains_alone_first_and_then_all():
    learner = Learner(make_model(), changed(frozen_epochs=1, frozen_norm="none"))
    cells, pixels = make_cells()
    images = next(ArrayLoader(pixels).iter_batches([np.arange(8)]))

    def moved() -> dict[str, bool]:
        before = {n: v.clone() for n, v in learner.model.state_dict().items()}
        losses = classification_loss(
            learner.class_logits(images, None), torch.from_numpy(cells.labels[:8])
        )
        learner.backward(losses.mean())
        learner.step()
        after = learner.model.state_dict()
        return {n: not torch.equal(before[n], after[n]) for n in before}

    learner.start_epoch(0)
    first = moved()
    assert not any(change for name, change in first.items() if name.startswith("backbone"))
    assert any(change for name, change in first.items() if name.startswith("head"))
    learner.start_epoch(1)
    assert any(change for name, change in moved().items() if name.startswith("backbone"))


def test_clipping_bounds_the_gradient():
    learner = Learner(make_model(), changed(clip_grad_norm=1e-3, optimizer="momentum", lr=1.0))
    learner.start_epoch(0)
    before = [p.detach().clone() for p in learner.model.parameters()]
    cells, pixels = make_cells()
    images = next(ArrayLoader(pixels).iter_batches([np.arange(8)]))
    losses = classification_loss(
        learner.class_logits(images, None), torch.from_numpy(cells.labels[:8])
    )
    learner.backward(1000 * losses.mean())
    learner.step()
    after = list(learner.model.parameters())
    # Momentum starts at zero: the first step is lr times the gradient, so the step's norm is 1e-3.
    moved = torch.cat([(a - b).detach().flatten() for a, b in zip(after, before, strict=True)])
    assert moved.double().norm().item() == pytest.approx(1e-3, rel=1e-2)


def test_bf16_trains_close_to_fp32_and_keeps_fp32_weights(plain):
    history = run(changed(precision="bf16"))
    assert all(np.isfinite(line["train_loss"]) for line in history)
    # bfloat16 has 8 bits of mantissa: 0.4% a number; over three epochs of a small net 0.05.
    assert history[0]["train_loss"] == pytest.approx(plain[0]["train_loss"], abs=0.05)
    assert history != plain
    learner = Learner(make_model(), changed(precision="bf16"))
    learner.start_epoch(0)
    assert {p.dtype for p in learner.model.parameters()} == {torch.float32}
    _, pixels = make_cells()
    assert (
        learner.class_logits(next(ArrayLoader(pixels).iter_batches([np.arange(4)])), None).dtype
        == torch.float32
    )


def test_augmentation_stays_exact_under_bf16():
    """Autocast would round the warp's coordinates to a pixel or more."""
    seen = []
    core = make_model()
    core.preprocess.register_forward_pre_hook(lambda module, args: seen.append(args[0].clone()))
    _, pixels = make_cells()
    images = next(ArrayLoader(pixels).iter_batches([np.arange(4)]))
    settings = AugmentSettings()
    keys, copy_index = uid_keys(list("abcd")), np.arange(4, dtype=np.uint64)
    how = augment_tensors(settings, seed=0, keys=keys, copy_index=copy_index, side=images.shape[-1])
    for precision in ("fp32", "bf16"):
        learner = Learner(core, changed(precision=precision), settings.fill)
        learner.start_epoch(0)
        learner.class_logits(images, how)
    assert torch.equal(seen[0], seen[1])


def test_layer_decay_gives_the_first_layers_the_smallest_rates():
    core = make_model()
    groups = make_optimizer(core, changed(layer_decay=0.5, lr=1.0, backbone_lr=0.1)).param_groups
    rates = {id(p): group["initial_lr"] for group in groups for p in group["params"]}
    assert len(rates) == len(list(core.parameters()))
    assert all(rates[id(p)] == 1.0 for p in core.head.parameters())
    stem, last = (
        core.backbone.get_parameter("conv_stem.weight"),
        core.backbone.get_parameter("conv_head.weight"),
    )
    assert rates[id(last)] == pytest.approx(0.1)
    assert rates[id(stem)] < 0.1 * 0.5**5
    se_cnn = ModelSettings(architecture="se_cnn", attention="se", input_size=64, weights="scratch")
    with pytest.raises(UserError, match="layer_decay"):
        make_optimizer(build(se_cnn, load_weights=False), changed(layer_decay=0.5))


def test_biases_and_norms_do_not_decay():
    core = make_model()
    groups = make_optimizer(core, changed(weight_decay=0.1)).param_groups
    decays = {id(p): group["weight_decay"] for group in groups for p in group["params"]}
    assert all((decays[id(p)] == 0.1) == (p.ndim > 1) for p in core.parameters())


def test_schedules_follow_their_equations():
    def factors(settings: ScheduleSettings, epochs: int = 4, plateau: float = 1.0) -> np.ndarray:
        return np.asarray(
            [
                lr_factor(settings, epochs=epochs, step=s, steps_per_epoch=10, plateau=plateau)
                for s in range(10 * epochs)
            ]
        )

    steps = np.arange(40)
    warm = np.minimum(1, (steps[:10] + 1) / 10)
    cosine = factors(ScheduleSettings(kind="cosine", warmup_epochs=1, final_lr=0.1))
    np.testing.assert_allclose(cosine[:10], warm)
    expected = 0.1 + 0.9 * (1 + np.cos(np.pi * (steps[10:] - 10) / 30)) / 2
    np.testing.assert_allclose(cosine[10:], expected, atol=1e-12)
    step = factors(ScheduleSettings(kind="step", step_epochs=2, step_factor=0.5))
    np.testing.assert_allclose(step, np.where(steps < 20, 1, 0.5))
    np.testing.assert_allclose(factors(ScheduleSettings(kind="constant")), 1)
    np.testing.assert_allclose(factors(ScheduleSettings(), plateau=0.25), 0.25)


def test_losses_agree_with_their_equations_in_float64():
    generator = np.random.default_rng(0)
    z, y = generator.normal(0, 3, 50), generator.integers(0, 2, 50)
    p = 1 / (1 + np.exp(-z))
    own = np.where(y == 1, p, 1 - p)
    log_odds, labels = torch.from_numpy(z), torch.from_numpy(y)

    def loss(**settings) -> np.ndarray:
        return classification_loss(log_odds[:, None], labels, LossSettings(**settings)).numpy()

    np.testing.assert_allclose(loss(), -np.log(own), atol=1e-12)
    two = torch.stack([torch.zeros(50, dtype=torch.float64), log_odds], 1)
    torch_smooth = torch.nn.functional.cross_entropy(
        two, labels, label_smoothing=0.1, reduction="none"
    )
    np.testing.assert_allclose(loss(label_smoothing=0.1), torch_smooth.numpy(), atol=1e-12)
    np.testing.assert_allclose(loss(focal_gamma=2.0), -((1 - own) ** 2) * np.log(own), atol=1e-12)


def test_class_weights_give_each_class_the_same_say():
    labels = np.asarray([0, 1, 1, 1])
    balanced = class_weights(LossSettings(class_weights="balanced"), labels, 2)
    np.testing.assert_allclose(balanced, [2, 2 / 3])
    np.testing.assert_allclose(np.sum(balanced[labels]), 4)
    np.testing.assert_allclose(class_weights(LossSettings(class_weights=(3, 1)), labels, 2), [3, 1])
    history = run(changed(balance="none", epochs=1, loss={"class_weights": "balanced"}))
    assert history != run(changed(balance="none", epochs=1))


@pytest.mark.parametrize("num_classes", [3, 8])
def test_losses_of_many_classes_agree_with_their_definitions_in_float64(num_classes: int):
    generator = np.random.default_rng(0)
    z, y = generator.normal(0, 3, (50, num_classes - 1)), generator.integers(0, num_classes, 50)
    p = softmax(np.pad(z, ((0, 0), (1, 0))), axis=1)
    own = p[np.arange(50), y]

    def loss(**settings) -> np.ndarray:
        scores, labels = torch.from_numpy(z), torch.from_numpy(y)
        return classification_loss(scores, labels, LossSettings(**settings)).numpy()

    assert loss().mean() == pytest.approx(log_loss(y, p, labels=range(num_classes)))
    np.testing.assert_allclose(loss(), -np.log(own), atol=1e-12)
    smooth = 0.9 * -np.log(own) - 0.1 * np.log(p).mean(axis=1)
    np.testing.assert_allclose(loss(label_smoothing=0.1), smooth, atol=1e-12)
    np.testing.assert_allclose(loss(focal_gamma=2.0), -((1 - own) ** 2) * np.log(own), atol=1e-12)


def test_class_weights_of_many_classes():
    labels = np.repeat([0, 1, 2, 4], [1, 5, 10, 24])  # of class 3 there is none
    present = [0, 1, 2, 4]
    balanced = class_weights(LossSettings(class_weights="balanced"), labels, 5)
    expected = compute_class_weight("balanced", classes=np.asarray(present), y=labels)
    np.testing.assert_allclose(balanced[present], expected, rtol=1e-6)
    settings = LossSettings(class_weights="effective", effective_beta=0.9)
    effective = class_weights(settings, labels, 5)
    numbers = np.array([(1 - 0.9**n) / (1 - 0.9) for n in (1, 5, 10, 24)])  # Cui et al. 2019, eq 2
    np.testing.assert_allclose(effective[present], 4 / numbers / (1 / numbers).sum(), rtol=1e-6)
    with pytest.raises(UserError, match="2 numbers for 5 classes"):
        class_weights(LossSettings(class_weights=(3, 1)), labels, 5)


@pytest.mark.parametrize("policy", ["none", "saeed2022", "modern"])
def test_augmentation_and_network_compile_to_one_graph(policy: Policy):
    """fullgraph refuses any graph break; the eager backend keeps the arithmetic."""
    torch._dynamo.reset()
    augmented = Augmented(make_model().eval(), "black")
    compiled = torch.compile(augmented, backend="eager", fullgraph=True)
    _, pixels = make_cells()
    images = next(ArrayLoader(pixels).iter_batches([np.arange(4)]))
    keys, copy_index = uid_keys(list("abcd")), np.arange(4, dtype=np.uint64)
    how = augment_tensors(
        AugmentSettings(policy=policy),
        seed=0,
        keys=keys,
        copy_index=copy_index,
        side=images.shape[-1],
    )
    with torch.no_grad():
        torch.testing.assert_close(compiled(images, how), augmented(images, how))


def test_mixing_dropped_paths_and_views_compile_to_the_same_graph():
    """All that a recipe may add, forward and backward, with other random numbers at each step."""
    torch._dynamo.reset()
    model = make_model(drop_path=0.5, views="flips")
    augmented = Augmented(model.train(), "black")
    for layer in model.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            layer.eval()  # a second pass would see other running statistics
    assert len(augmented.drop_paths) > 0
    compiled = torch.compile(augmented, backend="aot_eager", fullgraph=True)
    keys, copy_index = uid_keys(list("abcdefgh")), np.arange(8, dtype=np.uint64)
    settings = AugmentSettings(policy="modern", mixup=0.2, cutmix=1.0)
    outputs = []
    for seed in range(2):
        how = augment_tensors(settings, seed=seed, keys=keys, copy_index=copy_index, side=32)
        own = {"seed": seed, "keys": keys[:4], "copy_index": copy_index[:4]}
        mix = mix_parameters(settings, **own, side=32)
        chances = torch.rand(
            4, len(augmented.drop_paths), generator=torch.Generator().manual_seed(seed)
        )
        images = torch.rand(8, 3, 32, 32, generator=torch.Generator().manual_seed(7))
        found = []
        for network in (augmented, compiled):
            model.zero_grad()
            scores = network(images, how, mix, chances)
            scores.sum().backward()
            found.append(
                [
                    scores.detach(),
                    *(p.grad.clone() for p in model.parameters() if p.grad is not None),
                ]
            )
        torch.testing.assert_close(found[1], found[0])
        outputs.append(found[0][0])
    assert not torch.equal(*outputs), "the numbers of each step are its own"


class _NoLooking(TorchFunctionMode):
    """Counts what would make the host wait for a GPU."""

    NAMES = frozenset(
        {"item", "tolist", "numpy", "cpu", "nonzero", "masked_select", "__bool__", "__float__",
         "__int__", "__index__", "unique", "inverse", "linalg_inv"}
    )  # fmt: skip

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []
        self.calls = 0

    def __torch_function__(self, func, types, args=(), kwargs=None):
        name = getattr(func, "__name__", "")
        self.calls += 1
        masks = [a for a in args[1:] if isinstance(a, torch.Tensor) and a.dtype == torch.bool]
        looks = name in self.NAMES or (name in ("__getitem__", "__setitem__") and masks)
        # PyTorch's optimizers count their steps in host memory.
        if looks and "/torch/optim/" not in sys._getframe(1).f_code.co_filename:
            self.seen.append(name)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    "changes", [{}, {"ema_decay": 0.9, "clip_grad_norm": 1.0, "accumulate": 2}]
)
def test_no_step_looks_at_the_device(changes: dict):
    """From the first step's end to the last one's: what lies between is every step's work."""
    mode = _NoLooking()

    def watch(update: dict) -> None:
        if update["batches"] == 1:
            mode.__enter__()
        elif update["batches"] == update["of"]:
            mode.__exit__(None, None, None)

    run(changed(epochs=1, **changes), progress=watch)
    assert mode.calls > 500, "the mode saw the steps"
    assert mode.seen == []


def test_a_look_would_be_seen():
    with _NoLooking() as mode:
        values = torch.ones(3)
        values[values > 0].sum().item()
    assert mode.seen == ["__getitem__", "item"]


@pytest.mark.gpu
@pytest.mark.parametrize(
    "changes",
    [{}, {"ema_decay": 0.9, "clip_grad_norm": 1.0, "accumulate": 2}, {"precision": "bf16"}],
)
def test_no_step_of_the_loop_waits_for_a_gpu(changes: dict):
    """CUDA raises where the host would wait, from the first to the last step of epoch 2.

    The first epoch fills the resident loader.
    """
    steps = 0

    def watch(update: dict) -> None:
        nonlocal steps
        if update["epoch"] == 2 and update["batches"] < update["of"]:
            steps += 1
            torch.cuda.set_sync_debug_mode("error")
        else:
            torch.cuda.set_sync_debug_mode("default")

    try:
        device = torch.device("cuda")
        run(changed(epochs=2, **changes), resident=True, device=device, progress=watch)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert steps > 1


@pytest.mark.gpu
@pytest.mark.parametrize(
    "changes", [{}, {"precision": "fp16"}, {"precision": "bf16", "compile": True}]
)
def test_a_gpu_trains_and_resumes(changes: dict, tmp_path: Path):
    device = torch.device("cuda")
    cells, pixels = make_cells()
    images = torch.from_numpy(pixels[:16]).permute(0, 3, 1, 2).to(device)
    labels = torch.from_numpy(cells.labels[:16]).to(device)
    learner = Learner(make_model().to(device), SETTINGS.model_copy(update=changes))
    learner.start_epoch(0)
    weights = torch.ones(16, device=device)
    losses = []
    for step in range(20):
        counts = learner.learn(Microbatch(images, None, labels, weights, 1 / 16))
        if step >= 4 and changes.get("precision") != "fp16":  # compiled or recorded; scaler looks
            torch.cuda.set_sync_debug_mode("error")
        learner.step()
        losses.append(counts[0])
    torch.cuda.set_sync_debug_mode("default")
    assert losses[-1] < losses[0]
    TrainingState().save(tmp_path, learner)
    TrainingState.load(tmp_path, Learner(make_model().to(device), learner.settings))


@pytest.mark.gpu
@pytest.mark.parametrize("train", [run, run_mixed])
@pytest.mark.parametrize("changes", [{}, {"precision": "bf16", "frozen_norm": "none"}])
def test_a_recorded_pass_trains_bit_for_bit(changes: dict, train, monkeypatch):
    """Other last batches, a head that trains alone first, and dropout included."""
    recorded = []
    record = Recorded._record
    monkeypatch.setattr(Recorded, "_record", lambda *a: recorded.append(a) or record(*a))
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)
    device, changes = torch.device("cuda"), {"epochs": 5, "frozen_epochs": 2, **changes}
    ours, launched = (
        train(changed(cuda_graph=on, **changes), device=device) for on in (True, False)
    )
    assert len(recorded) == 2  # the head alone, all layers
    assert ours == launched


def test_a_learner_is_freed_when_its_run_ends():
    """A DDP wrapper, or memory of a GPU, must not wait for the garbage collector."""
    gc.disable()
    try:
        learner = Learner(make_model(), SETTINGS)
        learner.start_epoch(0)
        seen = weakref.ref(learner)
        del learner
        assert seen() is None
    finally:
        gc.enable()
