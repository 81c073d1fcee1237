"""A network and all that moves it: optimizer, precision, averaged weights, wrapper.

The loop says what happens in a step; this says how.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple

import torch
from timm.layers import convert_sync_batchnorm  # pyright: ignore[reportPrivateImportUsage]
from timm.optim import (
    create_optimizer_v2,  # pyright: ignore[reportPrivateImportUsage]
    param_groups_layer_decay,  # pyright: ignore[reportPrivateImportUsage]
    param_groups_weight_decay,  # pyright: ignore[reportPrivateImportUsage]
)
from timm.utils import ModelEmaV3  # pyright: ignore[reportPrivateImportUsage]
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from leuk_ray.augment.mixing import Mix, mix_images
from leuk_ray.augment.policies import AugmentTensors, apply
from leuk_ray.augment.settings import Fill
from leuk_ray.models.drop_path import CounterDropPath, drop_paths
from leuk_ray.models.zoo import class_logits, most_likely
from leuk_ray.recipes.training import TrainingSettings
from leuk_ray.training.losses import classification_loss
from leuk_ray.training.recorded import Recorded
from leuk_ray.utils.errors import ConfigError

_PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
_BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


class Microbatch(NamedTuple):
    """One worker's share of a batch, or a part of that share, on the training device.

    A tuple, so that a recorded pass finds its tensors.

    images: (N, 3, H, W) in 0..255; where samples are mixed (2 N, ...), their partners last.
    params: how to augment all of them; None changes nothing.
    labels: of all images, int64.
    weights: of the losses of these labels.
    scale: the gradient of `scale` times the sum of losses is added.
    mix: how to mix the N samples with their partners; None does not.
    chances: (N, layers) random numbers of the layers that drop paths; None where there are none.
    """

    images: Tensor
    params: AugmentTensors | None
    labels: Tensor
    weights: Tensor
    scale: float
    mix: Mix | None = None
    chances: Tensor | None = None


class Augmented(nn.Module):
    """Augmentation and network as one graph: what is wrapped, compiled and called in a step."""

    def __init__(self, network: nn.Module, fill: Fill) -> None:
        super().__init__()
        self.network = network
        self.fill: Fill = fill
        self.drop_paths = drop_paths(network)

    def forward(
        self,
        images: Tensor,
        params: AugmentTensors | None,
        mix: Mix | None = None,
        chances: Tensor | None = None,
    ) -> Tensor:
        """Augment, mix and score: see Microbatch -> outputs of the N samples."""
        with torch.autocast(images.device.type, enabled=False):  # pixels stay exact
            images = apply(images, params, self.fill)
            if mix is not None:
                samples, partners = images.chunk(2)
                images = mix_images(samples, partners, mix)
        if chances is not None:
            for layer, chance in zip(self.drop_paths, chances.unbind(1), strict=True):
                layer.chance = chance
        return self.network(images)[0]


class Learner:
    """A model with its optimizer: everything that a training step changes.

    model: the network without wrapper, as trained.
    eval_model: the network that is validated, selected and bundled: the averaged weights (EMA)
        where there are, else `model`.
    wrap: wraps the trained module (DistributedDataParallel); called again when layers freeze
        or thaw, since the wrapper holds only what trains.
    """

    def __init__(
        self,
        model: nn.Module,
        settings: TrainingSettings,
        fill: Fill = "black",
        wrap: Callable[[nn.Module], nn.Module] = lambda module: module,
    ) -> None:
        model = convert_sync_batchnorm(model) if settings.sync_batchnorm else model
        self.model = model
        self.settings = settings
        self.device = next(model.parameters()).device
        self.optimizer = make_optimizer(model, settings)
        self.scaler = torch.amp.GradScaler(  # pyright: ignore[reportPrivateImportUsage]
            self.device.type, enabled=settings.precision == "fp16"
        )
        self.averaged = ModelEmaV3(model, settings.ema_decay) if settings.ema_decay else None
        self.augmented = Augmented(model, fill)
        if settings.compile:
            self.augmented.compile()
        self.wrap = wrap
        self.wrapped: nn.Module | None = None
        self.frozen = False
        self.grad_norm: Tensor | None = None  # of the last step, before it was clipped
        self.recorded: Recorded | None = None

    @property
    def eval_model(self) -> nn.Module:
        """The network that is validated, selected and bundled."""
        return self.model if self.averaged is None else self.averaged.module

    def start_epoch(self, epoch: int) -> None:
        """Training mode, and the backbone frozen or thawed, as the settings say for an epoch."""
        frozen, backbone = epoch < self.settings.frozen_epochs, self.model.get_submodule("backbone")
        if self.wrapped is None or frozen != self.frozen:
            self.frozen, self.wrapped = frozen, None  # the old wrapper lets go of its hooks first
            backbone.requires_grad_(not frozen)
            self.wrapped = self.wrap(self.augmented)
            self.recorded = None
            if self._can_be_recorded(self.wrapped):
                self.recorded = Recorded(self.model.parameters())
        self.wrapped.train()
        if frozen:
            backbone.eval()
        if self.settings.frozen_norm != "none":
            freeze_norm(self.model if self.settings.frozen_norm == "all" else backbone)

    @property
    def drop_paths(self) -> list[CounterDropPath]:
        """The layers that drop paths."""
        return self.augmented.drop_paths

    @property
    def num_batch_norms(self) -> int:
        """Number of BatchNorm layers that normalise by the cells of a microbatch."""
        return sum(
            layer.training for layer in self.model.modules() if isinstance(layer, _BATCH_NORMS)
        )

    def set_lr(self, factor: float) -> None:
        """Set every group's learning rate: its own one times `factor`."""
        for group in self.optimizer.param_groups:
            group["lr"] = group["initial_lr"] * factor

    def no_sync(self) -> AbstractContextManager[None]:
        """Skip the exchange of gradients, as for every microbatch of a step but the last."""
        if isinstance(self.wrapped, DistributedDataParallel):
            return self.wrapped.no_sync()
        return nullcontext()

    def _can_be_recorded(self, model: nn.Module) -> bool:
        """A GPU of its own, whose memory holds a batch; the compiler records for itself."""
        return (
            self.settings.cuda_graph
            and self.device.type == "cuda"
            and not isinstance(model, DistributedDataParallel)
            and self.settings.accumulate == 1
            and not self.settings.compile
        )

    def learn(self, microbatch: Microbatch) -> Tensor:
        """Run forward and backward over a microbatch.

        Returns:
            (2,) float64: sum of losses, number of correct answers.
        """
        return self.recorded(self._learn, microbatch) if self.recorded else self._learn(microbatch)

    def _learn(self, microbatch: Microbatch) -> Tensor:
        mix = microbatch.mix
        scores = self.class_logits(microbatch.images, microbatch.params, mix, microbatch.chances)
        losses, *mixed = (
            weights * classification_loss(scores, labels, self.settings.loss)
            for labels, weights in zip(
                microbatch.labels.split(len(scores)),
                microbatch.weights.split(len(scores)),
                strict=True,
            )
        )
        if mix is not None:
            losses = torch.lerp(mixed[0], losses, mix.share.to(losses.dtype))
        self.backward(losses.sum() * microbatch.scale)
        correct = (most_likely(scores.detach()) == microbatch.labels[: len(scores)]).sum()
        return torch.stack([losses.detach().sum().double(), correct.double()])

    def class_logits(
        self,
        images: Tensor,
        params: AugmentTensors | None,
        mix: Mix | None = None,
        chances: Tensor | None = None,
    ) -> Tensor:
        """Augment, mix and score: (N, K-1) float32 or wider, see Microbatch, `zoo.class_logits`."""
        assert self.wrapped is not None, "start_epoch comes first"
        precision = _PRECISIONS[self.settings.precision]
        with torch.autocast(self.device.type, precision, enabled=precision != torch.float32):
            outputs = self.wrapped(images, params, mix, chances)
        return class_logits(outputs if outputs.dtype == torch.float64 else outputs.float())

    def backward(self, loss: Tensor) -> None:
        """Add the gradient of `loss`, a scalar."""
        self.scaler.scale(loss).backward()

    def step(self) -> None:
        """Take one step of the optimizer, and of the averaged weights."""
        if self.settings.clip_grad_norm is not None:
            self.scaler.unscale_(self.optimizer)
            self.grad_norm = torch.nn.utils.clip_grad_norm_(
                self.model.parameters(), self.settings.clip_grad_norm
            )
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad()
        if self.averaged is not None:
            self.averaged.update(self.model)


def make_optimizer(model: nn.Module, settings: TrainingSettings) -> torch.optim.Optimizer:
    """Make the optimizer over head and backbone, `initial_lr` the full rate of each group.

    Raises:
        UserError: layer_decay for a backbone that does not say what its layers are.
    """
    backbone, decay = model.get_submodule("backbone"), settings.weight_decay
    if settings.layer_decay == 1:
        groups = param_groups_weight_decay(backbone, decay)
    elif hasattr(backbone, "group_matcher"):
        groups = param_groups_layer_decay(backbone, decay, layer_decay=settings.layer_decay)
    else:
        raise ConfigError(
            f"training.layer_decay {settings.layer_decay}: {type(backbone).__name__} has no order "
            "of layers; take a timm backbone, or backbone_lr"
        )
    for group in groups:
        group["initial_lr"] = settings.lr * settings.backbone_lr * group.get("lr_scale", 1.0)
    head = nn.ModuleList(child for child in model.children() if child is not backbone)
    for group in param_groups_weight_decay(head, decay):
        groups.insert(0, group | {"initial_lr": settings.lr})
    return create_optimizer_v2(
        [group | {"lr": group["initial_lr"]} for group in groups],
        opt=settings.optimizer,
        lr=settings.lr,
        weight_decay=decay,
    )


def freeze_norm(module: nn.Module) -> None:
    """Keep BatchNorm's running statistics as they are; its weights still train."""
    for layer in module.modules():
        if isinstance(layer, _BATCH_NORMS):
            layer.eval()
