"""What the workers of a run tell each other. With one worker every call is free."""

from __future__ import annotations

from typing import TypeVar

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

T = TypeVar("T")


def world_size() -> int:
    """Workers of this run."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """Return this worker's number, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def total(values: Tensor) -> Tensor:
    """Sum over all workers. All must call."""
    if world_size() > 1:
        dist.all_reduce(values)
    return values


def from_rank_zero(value: T) -> T:
    """Rank 0's value on every worker. All must call."""
    box = [value]
    if world_size() > 1:
        dist.broadcast_object_list(box, src=0)
    return box[0]


def gather_objects(value: T) -> list[T]:
    """Gather every worker's value, by rank. All must call."""
    values = [value] * world_size()
    if world_size() > 1:
        dist.all_gather_object(values, value)
    return values


def gather_scores(rows: np.ndarray, class_logits: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Scores (N, K-1) of all workers, ordered by row. All must call.

    Raises:
        AssertionError: a row was scored twice.
    """
    parts = gather_objects((rows, class_logits))
    rows = np.concatenate([part[0] for part in parts])
    scores = np.concatenate([part[1] for part in parts if len(part[1])] or [class_logits])
    order = np.argsort(rows)
    assert len(np.unique(rows)) == len(rows), "a row was scored twice"
    return rows[order], scores[order]


def average_running_statistics(model: nn.Module) -> None:
    """Average BatchNorm's running statistics over the workers. All must call.

    Each worker normalises with its own part of a batch; validation and the checkpoint use
    the mean of what all workers saw, so that they do not depend on rank 0's part alone.
    """
    buffers = [buffer for buffer in model.buffers() if buffer.is_floating_point()]
    if world_size() == 1 or not buffers:
        return
    flat = torch.cat([buffer.flatten() for buffer in buffers])
    dist.all_reduce(flat)
    flat /= world_size()
    for buffer, mean in zip(buffers, flat.split([b.numel() for b in buffers]), strict=True):
        buffer.copy_(mean.view_as(buffer))
