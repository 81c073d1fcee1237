"""Devices by name, and small tensors moved to where the network is."""

from __future__ import annotations

import torch
from torch import Tensor

from leuk_ray.utils.errors import ConfigError


def device_named(name: str) -> torch.device:
    """Return the device of a name such as `cpu`, `cuda` or `cuda:1`.

    Raises:
        ConfigError: PyTorch knows no such device, or finds none on this machine.
    """
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, TypeError, ValueError) as error:
        raise ConfigError(
            f"device {name!r}: PyTorch finds none here; give cpu, or cuda where there is a GPU"
        ) from error
    return device


def to_device(values: Tensor, device: torch.device) -> Tensor:
    """`values` on `device`; through pinned memory to a GPU, so that nothing waits for it."""
    if device.type == "cuda":
        return values.pin_memory().to(device, non_blocking=True)
    return values.to(device)
