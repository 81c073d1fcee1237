"""Does a bundle answer? Its engines on a few images, before it is passed on or served."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import numpy as np
import torch

from leuk_ray.bundles.bundle import Bundle
from leuk_ray.bundles.manifest import ONNX_FILE
from leuk_ray.datasets.images import StorageSettings, to_storage
from leuk_ray.datasets.images.storage import Crop
from leuk_ray.datasets.synthetic import SyntheticSpec, draw_cells, render
from leuk_ray.evaluation.calibration import class_probabilities
from leuk_ray.inference.classifier import Classifier
from leuk_ray.inference.engines import PyTorchEngine
from leuk_ray.inference.onnx_graph import trial
from leuk_ray.models.zoo import class_logits
from leuk_ray.utils.errors import DataError
from leuk_ray.utils.extras import require

TOLERANCE = 1e-4  # of a probability
_BATCH_SIZES = (1, 3, 8)  # a graph is traced with 2


def check_answers(bundle: Bundle) -> None:
    """Run a bundle as it would be served.

    Raises:
        UserError: its network cannot be loaded, its output is not finite, what it knows of its
            training cells does not fit it, or its graph contradicts its weights.
    """
    classifier = Classifier(bundle, engine="pytorch")
    scores = classifier.score(_batches(bundle.manifest.storage)[-1])
    distance = () if scores.distance is None else scores.distance
    if not all(
        np.isfinite(each).all() for each in (scores.class_logits, scores.embedding, distance)
    ):
        raise DataError(f"{bundle.path}: the model output is not finite; train it again")
    if ONNX_FILE in bundle.manifest.files:
        graph_difference(bundle, bundle.folder / ONNX_FILE)


def graph_difference(bundle: Bundle, graph: Path) -> float:
    """Compute the largest difference of probability between a bundle's network and a graph of it.

    Raises:
        UserError: the graph cannot be run, or differs by more than TOLERANCE.
    """
    require("onnx", str(graph))
    batches = _batches(bundle.manifest.storage)
    original = PyTorchEngine(bundle.model, torch.device("cpu"))
    temperature, num_classes = bundle.manifest.temperature, len(bundle.manifest.classes)
    widths = {num_classes, num_classes - 1} if num_classes == 2 else {num_classes}
    worst = 0.0
    for pixels, (outputs, embedding) in zip(batches, trial(graph, batches), strict=True):
        expected, expected_embedding = original(pixels)
        shapes = (outputs.shape, embedding.shape)
        if shapes not in [((len(pixels), num), expected_embedding.shape) for num in widths]:
            raise DataError(f"{graph}: answers with shapes {shapes}; export it anew")
        ours = class_logits(torch.from_numpy(outputs).double()).numpy()
        stated = (class_probabilities(scores, temperature) for scores in (ours, expected))
        difference = float(np.abs(np.subtract(*stated)).max())
        worst = max(worst, difference) if difference == difference else difference
        if not worst <= TOLERANCE:
            raise DataError(
                f"{graph}: the ONNX graph's probabilities differ by {worst:.1e} from PyTorch's, "
                f"the limit is {TOLERANCE:g}; serve it with PyTorch"
            )
    return worst


def _batches(storage: StorageSettings) -> list[np.ndarray]:
    """Batches of rendered cells, of noise, and of one colour, (N, size, size, 3) uint8."""
    return _rendered(storage.size, storage.crop)


@lru_cache(maxsize=4)
def _rendered(size: int, crop: Crop) -> list[np.ndarray]:
    storage = StorageSettings(size=size, crop=crop)
    generator = np.random.default_rng(0)
    cells = draw_cells(SyntheticSpec(cells=max(_BATCH_SIZES), subjects=2))
    rendered = np.stack([to_storage(render(cell), storage) for cell in cells])
    noise = generator.integers(0, 256, rendered.shape, np.uint8)
    flat = np.stack([np.full_like(rendered[0], value) for value in (0, 128, 255)])
    return [batch[:num] for num in _BATCH_SIZES for batch in (rendered, noise)] + [flat]
