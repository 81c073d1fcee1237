"""A network as a table: layers, output shapes, parameters, FLOPs."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from leuk_ray.models.settings import ModelSettings
from leuk_ray.models.zoo import build

MAX_ROWS = 60


def summarise(settings: ModelSettings) -> dict[str, Any]:
    """Describe a network layer by layer, as deep as MAX_ROWS rows allow.

    FLOPs are those of convolutions and matrix products for one image, two per multiply-add;
    normalisation and activations are not counted.

    Returns:
        network, input (C, H, W), layers (name, kind with the activation layers inside, output,
        parameters, flops each),
        parameters (trainable) and flops of the whole. Rows do not overlap; what belongs to no
        layer, such as a transformer's position embedding, is in the whole alone.
    """
    model = build(settings, load_weights=False).eval()
    outputs: dict[str, tuple[int, ...]] = {}

    def note(name: str):
        def hook(_module: nn.Module, _inputs: Any, output: Any) -> None:
            if isinstance(output, tuple):
                output = output[0]
            if isinstance(output, Tensor):
                outputs.setdefault(name, tuple(output.shape[1:]))

        return hook

    modules = {name: module for name, module in model.named_modules() if name}
    handles = [module.register_forward_hook(note(name)) for name, module in modules.items()]
    side = settings.input_size
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        model(torch.zeros(1, 3, side, side))
    for handle in handles:
        handle.remove()
    counts = counter.get_flop_counts()
    layers = [
        {
            "name": name,
            "kind": _kind(modules[name]),
            "output": list(outputs[name]),
            "parameters": _num_parameters(modules[name]),
            "flops": sum(counts.get(f"{type(model).__name__}.{name}", {}).values()),
        }
        for name in _rows(model, outputs)
    ]
    return {
        "network": settings.title,
        "input": [3, side, side],
        "layers": layers,
        "parameters": _num_parameters(model),
        "flops": counter.get_total_flops(),
    }


def _rows(model: nn.Module, outputs: dict[str, Any]) -> list[str]:
    """Names at the greatest depth that MAX_ROWS allow."""
    best: list[str] = []
    for depth in range(1, 9):
        rows = _layers("", model, outputs, depth)
        if len(rows) > MAX_ROWS:
            break
        best = rows
    return best


def _layers(name: str, module: nn.Module, outputs: dict[str, Any], depth: int) -> list[str]:
    """Say what ran at `depth`, and above it what has parameters of its own or nothing inside."""
    inner = [
        row
        for child, part in module.named_children()
        for row in _layers(f"{name}.{child}".lstrip("."), part, outputs, depth)
    ]
    owns = any(True for _ in module.parameters(recurse=False))
    if name in outputs and (name.count(".") + 1 >= depth or owns or not inner):
        return [] if isinstance(module, nn.Identity) else [name]
    return inner


def _kind(layer: nn.Module) -> str:
    """Return the class of a layer, with those of activations inside: `BatchNormAct2d (SiLU)`."""
    inside = [type(part).__name__ for part in layer.modules() if part is not layer and _acts(part)]
    return type(layer).__name__ + (f" ({', '.join(sorted(set(inside)))})" if inside else "")


def _acts(layer: nn.Module) -> bool:
    return type(layer).__module__.startswith(("torch.nn.modules.activation", "timm.layers.activ"))


def _num_parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters() if p.requires_grad)
