"""Where a batch is gathered before it goes to the device."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import torch
from torch import Tensor


class Staging(Protocol):
    """Memory for one batch after the other: fill what `empty` gives, then `send` it."""

    def empty(self, num_images: int, size: int) -> np.ndarray:
        """(num_images, size, size, 3) uint8, to be written and sent before the next call."""
        ...

    def send(self, images: np.ndarray) -> Tensor:
        """Send what `empty` gave: (N, 3, size, size) uint8 on the device, channels last."""
        ...


def staging_for(device: torch.device) -> Staging:
    """Choose how pixels go to a device."""
    return PinnedStaging(device) if device.type == "cuda" else HostStaging()


class HostStaging:
    """Gathers where the CPU reads: nothing is copied again."""

    def empty(self, num_images: int, size: int) -> np.ndarray:
        """See Staging."""
        return np.empty((num_images, size, size, 3), np.uint8)

    def send(self, images: np.ndarray) -> Tensor:
        """See Staging."""
        return torch.from_numpy(images).permute(0, 3, 1, 2)


class PinnedStaging:
    """Gathers into pinned memory, which the GPU copies on a stream of its own, beside the steps.

    Two buffers take turns: while one is on its way, the next batch is gathered into the other.
    No call waits for a step, `empty` waits for the copy of the batch before the last.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.stream = torch.cuda.Stream(device)
        self.buffers = [torch.empty(0, dtype=torch.uint8) for _ in range(2)]
        self.copied = [torch.cuda.Event() for _ in range(2)]
        self.turn = 0

    def empty(self, num_images: int, size: int) -> np.ndarray:
        """See Staging."""
        self.turn = 1 - self.turn
        self.copied[self.turn].synchronize()  # returns at once when nothing was recorded
        num_bytes = num_images * size * size * 3
        if len(self.buffers[self.turn]) < num_bytes:
            self.buffers[self.turn] = torch.empty(num_bytes, dtype=torch.uint8, pin_memory=True)
        images = self.buffers[self.turn][:num_bytes].view(num_images, size, size, 3)
        return images.numpy()

    def send(self, images: np.ndarray) -> Tensor:
        """See Staging."""
        pinned = self.buffers[self.turn][: images.size].view(images.shape)
        with torch.cuda.stream(self.stream):
            sent = pinned.to(self.device, non_blocking=True)
            self.copied[self.turn].record(self.stream)
        step = torch.cuda.current_stream(self.device)
        step.wait_stream(self.stream)
        sent.record_stream(step)  # else the allocator could hand it out while a step reads it
        return sent.permute(0, 3, 1, 2)
