"""Settings of the training."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from leuk_ray.datasets.plan import ROWS_PER_BLOCK, Balance, Cache
from leuk_ray.utils.settings import Settings

Selection = Literal[
    "validation_accuracy",
    "validation_auc",
    "validation_loss",
    "validation_balanced_accuracy",
    "validation_macro_f1",
]


class ScheduleSettings(Settings):
    """Learning rate schedule."""

    kind: Literal["plateau", "cosine", "step", "constant"] = "plateau"
    """`plateau`: lower the rate when the monitored metric stalls (see `training.plateau`).
    `cosine`: decay to `final_lr` at the last epoch. `step`: multiply by `step_factor` every
    `step_epochs`. `constant`: no change."""

    warmup_epochs: float = Field(default=0.0, ge=0)
    """Epochs of linear warm-up to the full rate, before the schedule."""

    final_lr: float = Field(default=0.0, ge=0, le=1)
    """Learning rate at the end of `cosine`, as a fraction of the full rate."""

    step_epochs: int = Field(default=10, ge=1)
    """Epochs between two steps of `step`."""

    step_factor: float = Field(default=0.1, gt=0, le=1)
    """Factor of each step of `step`."""


class PlateauSettings(Settings):
    """Lower the learning rate when the monitored metric stalls, then stop training."""

    factor: float = 0.5
    """Factor by which the learning rate is reduced (saeed2022, learning rate: 0.5)."""

    patience: int = 1
    """Epochs without improvement before a reduction (saeed2022, learning rate: 1)."""

    max_reductions: int = 3
    """Consecutive reductions without improvement before training stops (saeed2022, early
    stopping: 3)."""

    switch_accuracy: float = 0.9
    """Training accuracy at which the monitored metric changes from training accuracy to validation
    loss (saeed2022 does not name its metric)."""


class LossSettings(Settings):
    """Cross-entropy and its modifications."""

    focal_gamma: float = Field(default=0.0, ge=0)
    """Focusing parameter of the focal loss (Lin et al. 2017): a sample is weighted by
    (1 - p)^gamma, where p is the predicted probability of its class. 0 is cross-entropy."""

    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    """Share of each label that is spread evenly over the classes."""

    class_weights: (
        Literal["none", "balanced", "effective"]
        | Annotated[tuple[Annotated[float, Field(ge=0)], ...], Field(min_length=2)]
    ) = "none"
    """Weights of the classes: `none`; `balanced`, inverse to each class's share of an epoch's
    samples; `effective`, inverse to each class's effective number of samples (Cui et al. 2019); or
    one number for each class. The weighted sum is divided by the batch size."""

    effective_beta: float = Field(default=0.999, ge=0, lt=1)
    """Beta of `effective`: n samples of a class count as (1 - beta^n) / (1 - beta). 0 weighs all
    classes alike; near 1 the weights are inverse to n."""


# What only gradient descent uses; a probe refuses all of these but their defaults.
_DESCENT = (
    "accumulate", "optimizer", "lr", "weight_decay", "backbone_lr", "layer_decay", "frozen_epochs",
    "frozen_norm", "sync_batchnorm", "clip_grad_norm", "ema_decay", "compile", "balance",
    "sampling", "loss", "schedule", "plateau",
)  # fmt: skip


class TrainingSettings(Settings):
    """How a network is trained."""

    probe: bool = False
    """Fit the linear head to the embeddings of the frozen backbone by logistic regression, with an
    L2 penalty chosen on inner folds of groups, in place of gradient descent. Takes a network of
    architecture `timm` or `alexnet`, one epoch and no augmentation."""

    epochs: int = Field(default=20, ge=1)
    """Maximum number of epochs (saeed2022, training: 20)."""

    batch_size: int = Field(default=16, ge=1)
    """Cells per optimizer step, over all workers (saeed2022, training: 16)."""

    accumulate: int = Field(default=1, ge=1)
    """Gradient accumulation: microbatches per worker and step, to save memory. The gradient is the
    same except for BatchNorm, which sees the smaller batches."""

    optimizer: str = "adamax"
    """Optimizer name in timm (saeed2022, optimizer: adamax; bukhari2022: adam)."""

    lr: float = Field(default=1e-3, gt=0)
    """Learning rate (saeed2022, bukhari2022, optimizer: 0.001)."""

    weight_decay: float = Field(default=0.0, ge=0)
    """Weight decay; biases and normalization layers are exempt."""

    backbone_lr: float = Field(default=1.0, ge=0)
    """Multiplier of `lr` for the backbone."""

    layer_decay: float = Field(default=1.0, gt=0, le=1)
    """Layer-wise learning rate decay: multiplier of `lr` from each backbone layer to the one
    before it."""

    frozen_epochs: int = Field(default=0, ge=0)
    """Epochs at the start in which only the head is trained."""

    frozen_norm: Literal["none", "backbone", "all"] = "none"
    """BatchNorm layers whose running statistics stay fixed: `none`; `backbone`, as pretrained, for
    small datasets; `all`, so that results do not depend on the number of workers, each of which
    otherwise normalizes by its own part of the batch."""

    sync_batchnorm: bool = False
    """Compute BatchNorm statistics over all workers; GPUs only."""

    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """Precision of the forward and backward pass. Weights, loss and scores are always fp32."""

    clip_grad_norm: float | None = Field(default=None, gt=0)
    """Maximum norm of the gradient over all weights; unset does not clip."""

    ema_decay: float | None = Field(default=None, gt=0, lt=1)
    """Decay of an exponential moving average of the weights, which is then what is validated,
    selected and bundled; unset keeps none."""

    compile: bool = False
    """Compile augmentation and network with torch.compile."""

    cuda_graph: bool = True
    """Replay forward and backward of a batch as one CUDA graph, where a single worker has a GPU and
    neither `compile` nor `accumulate` is set. Results are the same."""

    balance: Balance = "none"
    """Samples per class and epoch: `none`, every cell once; `equal`, as many as the larger class
    has; or a number (saeed2022, balancing: 20,000)."""

    sampling: Literal["cells", "groups"] = "cells"
    """Among what the samples of a class are shared out evenly: its `cells`, or its `groups`
    (subjects, joined where they share pictures), then the cells of each group. By cells, subjects
    with many cells dominate; by groups, cells of small subjects repeat and not every cell of a
    large one is in every epoch."""

    cache: Cache = "auto"
    """Where pixels are kept between epochs: `device` memory, one file on the `host`, `none`, or
    `auto`, the fastest that fits. Results are the same."""

    window: Literal["all"] | Annotated[int, Field(ge=ROWS_PER_BLOCK)] = "all"
    """Size of the shuffle window in samples; `all` shuffles the whole epoch. A number suits
    datasets that fit in no memory."""

    loss: LossSettings = LossSettings()
    """Loss function (saeed2022: cross-entropy)."""

    schedule: ScheduleSettings = ScheduleSettings()
    """Learning rate schedule."""

    plateau: PlateauSettings = PlateauSettings()
    """The `plateau` schedule, and early stopping."""

    select: Selection = "validation_accuracy"
    """Metric by which the best checkpoint is selected (saeed2022: validation accuracy). The AUC of
    more than two classes is the mean of each class's against the others."""

    log_every: int = Field(default=50, ge=0)
    """Steps between two logged steps (loss, learning rate, images per second, gradient norm where
    it is clipped) in TensorBoard and MLflow; 0 logs epochs only."""

    keep: int = Field(default=1, ge=1)
    """Number of best checkpoints to keep, in addition to the last."""

    @model_validator(mode="after")
    def _probe_descends_no_gradient(self) -> TrainingSettings:
        fields = TrainingSettings.model_fields
        foreign = [name for name in _DESCENT if getattr(self, name) != fields[name].get_default()]
        if self.probe and foreign:
            raise ValueError(f"{foreign[0]} does not apply to a probe; leave it out")
        if self.probe and self.epochs != 1:
            raise ValueError(f"a probe is fitted in one epoch, epochs is {self.epochs}")
        return self
