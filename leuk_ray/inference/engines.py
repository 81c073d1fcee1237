"""Engines run a network on a batch of storage pixels."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Literal, Protocol, get_args

import numpy as np
import torch
from torch import Tensor, nn

from leuk_ray.bundles.bundle import Bundle
from leuk_ray.bundles.manifest import ONNX_FILE
from leuk_ray.inference.onnx_graph import check_graph, open_session, run_session
from leuk_ray.io.hashes import read_verified
from leuk_ray.models.zoo import class_logits
from leuk_ray.utils.errors import ConfigError, near
from leuk_ray.utils.extras import installed, require

EngineName = Literal["auto", "pytorch", "onnx"]
_PART = 4  # images of a batch that one thread of ONNX Runtime scores at once


class Engine(Protocol):
    """Scores storage pixels.

    name: shown in answers. batches_at_once: how many threads may call it; more than one where the
    next batch can start while the last parts of one are scored.
    """

    name: str
    batches_at_once: int

    def __call__(self, pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(N, size, size, 3) uint8 -> class logits (N, K-1) float64, embedding (N, D) float32."""
        ...

    def reproducible(self, pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Score likewise, on a CPU to the last bit alike on any number of threads."""
        ...


@torch.inference_mode()
def score_images(model: nn.Module, images: Tensor) -> tuple[Tensor, Tensor]:
    """Score a batch with a network in eval mode.

    Validation, evaluation, batch and HTTP all come through here.

    Args:
        model: maps images to (outputs, embedding).
        images: (N, 3, H, W) uint8 or float in 0..255, on the model's device.

    Returns:
        Class logits, (N, K-1) float64, and the embedding, (N, D) float32.
    """
    assert not model.training, "score in eval mode"
    outputs, embedding = model(images)
    return class_logits(outputs.double()), embedding.float()


class PyTorchEngine:
    """The network itself, on any device."""

    name = "pytorch"
    batches_at_once = 1

    def __init__(self, model: nn.Module, device: torch.device) -> None:
        self.model = model.to(device)
        self.device = device

    def __call__(self, pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """See `Engine`."""
        batch = torch.from_numpy(pixels).to(self.device).permute(0, 3, 1, 2)
        scores, embedding = score_images(self.model, batch)
        return scores.cpu().numpy(), embedding.cpu().numpy()

    def reproducible(self, pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """See `Engine`: on one thread, since two round differently."""
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            return self(pixels)
        finally:
            torch.set_num_threads(threads)


class OnnxEngine:
    """The bundle's graph on the CPU under ONNX Runtime, with as many threads as PyTorch has.

    A batch is cut into a part a thread, since that takes less than all threads on one image after
    another (benchmarks/results/serve.json); an image alone gets all threads.
    """

    name = "onnx"
    batches_at_once = 2

    def __init__(self, graph: bytes, place: Path) -> None:
        """Load a graph that lay at `place`; UserError as `check_graph` and `open_session` say."""
        check_graph(graph, place)
        self._threads = torch.get_num_threads()
        self._alone = open_session(graph, place, self._threads)
        self._part = self._alone if self._threads == 1 else open_session(graph, place, 1)
        self._pool = ThreadPoolExecutor(self._threads, "onnx")

    def __call__(self, pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """See `Engine`."""
        if len(pixels) == 1 or self._threads == 1:
            return _logits(*run_session(self._alone, pixels))
        return self._in_parts(np.array_split(pixels, min(self._threads, len(pixels))))

    def reproducible(self, pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """See `Engine`: in parts of one size, each on one thread."""
        return self._in_parts([pixels[at : at + _PART] for at in range(0, len(pixels), _PART)])

    def _in_parts(self, parts: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        done = list(self._pool.map(partial(run_session, self._part), parts))
        outputs, embedding = (np.concatenate(each) for each in zip(*done, strict=True))
        return _logits(outputs, embedding)


def _logits(outputs: np.ndarray, embedding: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return class_logits(torch.from_numpy(outputs).double()).numpy(), embedding


def make_engine(bundle: Bundle, device: torch.device, name: EngineName = "auto") -> Engine:
    """Make the engine of a bundle.

    Args:
        bundle: an opened bundle.
        device: where to run.
        name: `auto` takes ONNX Runtime on the CPU where it is installed and the bundle has a graph,
            else PyTorch.

    Raises:
        UserError: another name; `onnx` for a bundle without a graph, on another device than the
            CPU, or where it is not installed; a graph that cannot be loaded.
    """
    if name not in get_args(EngineName):
        raise ConfigError(f"engine {name!r} is not known; {near(str(name), get_args(EngineName))}")
    suits = ONNX_FILE in bundle.manifest.files and device.type == "cpu"
    if name == "onnx":
        if not suits:
            raise ConfigError(
                f"{bundle.path}: ONNX Runtime needs a bundle with {ONNX_FILE}, and the CPU; make "
                "one with `leuk-ray export BUNDLE NEW --onnx`"
            )
        require("onnx", "engine onnx")
    if name == "onnx" or (name == "auto" and suits and installed("onnx")):
        graph = bundle.folder / ONNX_FILE
        return OnnxEngine(read_verified(graph, bundle.manifest.files[ONNX_FILE]), graph)
    return PyTorchEngine(bundle.model, device)
