"""Settings of the training."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from leuk_ray.datasets.plan import ROWS_PER_BLOCK, Balance, Cache
from leuk_ray.utils.settings import Settings

Selection = Literal["validation_accuracy", "validation_auc", "validation_loss"]


class ScheduleSettings(Settings):
    """How the learning rate runs.

    kind: `plateau` (A20, see `PlateauSettings`); `cosine`, down to `final_lr` at the last
        epoch; `step`, times `step_factor` every `step_epochs`; or `constant`.
    warmup_epochs: rise linearly to the full rate over this many first.
    final_lr: where cosine ends, as a share of the full rate.
    """

    kind: Literal["plateau", "cosine", "step", "constant"] = "plateau"
    warmup_epochs: float = Field(default=0.0, ge=0)
    final_lr: float = Field(default=0.0, ge=0, le=1)
    step_epochs: int = Field(default=10, ge=1)
    step_factor: float = Field(default=0.1, gt=0, le=1)


class PlateauSettings(Settings):
    """Halve the learning rate on a plateau, stop after several halvings in vain.

    factor: the learning rate is multiplied by it (A20: 0.5).
    patience: epochs without improvement before that (A20: 1).
    max_reductions: reductions in a row without improvement before training stops (A21: 3).
    switch_accuracy: training accuracy from which on the validation loss is monitored.
    """

    factor: float = 0.5
    patience: int = 1
    max_reductions: int = 3
    switch_accuracy: float = 0.9


class LossSettings(Settings):
    """Cross-entropy and what may be added to it.

    focal_gamma: weigh a sample by (1 - p)^gamma, p the probability of its own class (Lin et
        al. 2017); 0 is cross-entropy.
    label_smoothing: share of a label that is dealt to both classes alike.
    class_weights: `none`; `balanced`, each class by the inverse of its share of an epoch's
        uses; or the weights of (healthy, ALL). They multiply; the step still divides by the
        size of the batch.
    """

    focal_gamma: float = Field(default=0.0, ge=0)
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    class_weights: Literal["none", "balanced"] | tuple[float, float] = "none"


class TrainingSettings(Settings):
    """How a network is trained.

    epochs: at most this many (A22).
    batch_size: cells a step, of all workers together (A23).
    accumulate: passes that a worker's part of a batch is cut into, where memory is short; the
        step is the same but for BatchNorm, which sees the smaller parts.
    optimizer: a timm optimizer name (A19: adamax).
    lr, weight_decay: of the optimizer; biases and norms do not decay.
    backbone_lr: factor on `lr` for the pretrained backbone.
    layer_decay: factor on `lr` from each layer of the backbone to the one before it.
    frozen_epochs: epochs at the start in which only the head trains.
    frozen_norm: layers whose BatchNorm keeps the statistics it has: `none`, `backbone` (as
        pretrained, for small data) or `all` (the result is then the same at any number of
        workers, each of which would otherwise normalise by its own part of a batch).
    sync_batchnorm: BatchNorm normalises by the whole batch of all workers; GPUs only.
    precision: of the forward and backward pass; weights, loss and scores are fp32.
    clip_grad_norm: largest norm of the gradient over all weights.
    ema_decay: keep an exponential moving average of the weights too; it is what is
        validated, chosen and bundled.
    compile: augmentation and network through torch.compile.
    cuda_graph: start forward and backward of a batch as one CUDA graph (`recorded`), where a
        lone worker has a GPU and neither `compile` nor `accumulate` is set; results are the same.
    balance: uses of each class per epoch, see `plan.plan_epoch`.
    cache: where pixels are kept between epochs, see `feeds.make_feeds`; results do not depend
        on it.
    window: uses that are shuffled together, see `plan`: `all`, or a number for sets that no
        memory holds.
    loss, schedule, plateau: see there (A20, A21, A24).
    select: what the best checkpoint is best in (A24).
    log_every: steps between two logged steps (loss, learning rate, images a second, norm of the
        gradient where it is clipped), to TensorBoard and MLflow; 0 logs epochs alone.
    keep: how many of the best checkpoints stay, beside the last.
    """

    epochs: int = Field(default=20, ge=1)
    batch_size: int = Field(default=16, ge=1)
    accumulate: int = Field(default=1, ge=1)
    optimizer: str = "adamax"
    lr: float = Field(default=1e-3, gt=0)
    weight_decay: float = Field(default=0.0, ge=0)
    backbone_lr: float = Field(default=1.0, ge=0)
    layer_decay: float = Field(default=1.0, gt=0, le=1)
    frozen_epochs: int = Field(default=0, ge=0)
    frozen_norm: Literal["none", "backbone", "all"] = "none"
    sync_batchnorm: bool = False
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    clip_grad_norm: float | None = Field(default=None, gt=0)
    ema_decay: float | None = Field(default=None, gt=0, lt=1)
    compile: bool = False
    cuda_graph: bool = True
    balance: Balance = "none"
    cache: Cache = "auto"
    window: Literal["all"] | Annotated[int, Field(ge=ROWS_PER_BLOCK)] = "all"
    loss: LossSettings = LossSettings()
    schedule: ScheduleSettings = ScheduleSettings()
    plateau: PlateauSettings = PlateauSettings()
    select: Selection = "validation_accuracy"
    log_every: int = Field(default=50, ge=0)
    keep: int = Field(default=1, ge=1)
