"""A bundle's network as an ONNX graph, kept only where it gives the same probabilities."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from leuk_ray.bundles.bundle import Bundle, derive_bundle, load_bundle
from leuk_ray.bundles.hub import is_on_hub, upload
from leuk_ray.bundles.manifest import ONNX_FILE
from leuk_ray.inference.check import graph_difference
from leuk_ray.io.locations import Location
from leuk_ray.utils.errors import UserError
from leuk_ray.utils.extras import require
from leuk_ray.utils.scratch import temporary


class _Graph(nn.Module):
    """Pixels as `images.read` gives them to logits and embedding."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        return self.model(pixels.permute(0, 3, 1, 2))


def export_bundle(
    source: Location, target: Location, *, onnx: bool, key: Path | None = None
) -> dict[str, Any]:
    """Copy a bundle to `target`, with its graph as model.onnx, and signed with `key`, if wanted.

    The graph's input is `pixels`, (N, size, size, 3) uint8 storage pixels; its outputs are
    `logits` (N, 1 or 2) and `embedding` (N, D). N is free.

    Returns:
        bundle, onnx, max_difference of probability (None without a graph). Of one on the hub,
        `bundle` is the address with its commit.

    Raises:
        UserError: ONNX is not installed, the network cannot be exported, or ONNX Runtime's
            probabilities differ from PyTorch's by more than TOLERANCE on rendered cells or noise.
    """
    if onnx:
        require("onnx", "export --onnx")
    bundle = load_bundle(source)
    found: list[float] = []

    def add(graph: Path) -> None:
        _write_graph(bundle, graph)
        found.append(graph_difference(bundle, graph))

    adding = {ONNX_FILE: add} if onnx else {}
    if is_on_hub(target):
        with temporary("export") as folder:
            derive_bundle(bundle, folder / "bundle", add=adding, key=key)
            target = upload(folder / "bundle", str(target))
    else:
        derive_bundle(bundle, target, add=adding, key=key)
    return {
        "bundle": str(target),
        "onnx": onnx,
        "max_difference": found[0] if onnx else None,
    }


def _write_graph(bundle: Bundle, path: Path) -> None:
    size = bundle.manifest.storage.size
    example = torch.zeros(2, size, size, 3, dtype=torch.uint8)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            logging.getLogger("onnxscript").setLevel(logging.ERROR)
            program = torch.onnx.export(
                _Graph(bundle.model).eval(),
                (example,),
                dynamo=True,
                input_names=["pixels"],
                output_names=["logits", "embedding"],
                dynamic_shapes={"pixels": {0: torch.export.Dim("n")}},
                verbose=False,
            )
    except torch.onnx.errors.OnnxExporterError as error:
        raise UserError(
            f"{bundle.path}: cannot be written as ONNX ({str(error).splitlines()[0]}); serve it "
            "with PyTorch"
        ) from error
    assert program is not None
    program.save(str(path), external_data=False)
