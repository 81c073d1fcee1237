"""Explanations of answers: pictures of the evidence, and how much of it lies in the cell."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib import colormaps
from PIL import Image

from leuk_ray.datasets import images
from leuk_ray.inference.classifier import Classifier
from leuk_ray.inference.decide import label_of
from leuk_ray.inference.files import check_any_scored
from leuk_ray.inference.gradcam import DEFAULT_METHOD, Method, evidence, heat, share_inside
from leuk_ray.inference.predictions import Failure
from leuk_ray.io.storage import write_json
from leuk_ray.models.network import ImageClassifier
from leuk_ray.utils.errors import UserError

_NAME_BYTES = 200  # of an image's name in a picture's: file systems take 255 in all


@dataclass(frozen=True)
class Explanation:
    """What speaks for a class.

    method: how evidence is measured. toward: the class.
    heat: (size, size) float32 in 0..1, on the storage pixels.
    inside_cell: share of the heat on the cell; None where no black surrounds it, or no heat.
    cell: share of the picture that the cell covers, what chance would give.
    agreeing: share of the map's evidence, for and against it, that speaks for `toward`. Where it is
        small the answer comes from the head's biases, which lie at no place, and the heat, scaled
        to its largest value, is a remainder that shows nothing.
    """

    method: Method
    toward: str
    heat: np.ndarray
    inside_cell: float | None
    cell: float
    agreeing: float

    def as_dict(self, picture: str) -> dict[str, Any]:
        """Its numbers and where its picture is, for JSON."""
        return {
            "method": self.method,
            "toward": self.toward,
            "picture": picture,
            "evidence_share": self.agreeing,
            "heat_inside_cell": self.inside_cell,
            "cell_area": self.cell,
        }


def explain_pixels(
    classifier: Classifier,
    pixels: np.ndarray,
    method: Method = DEFAULT_METHOD,
    toward: str | None = None,
) -> list[Explanation]:
    """Explain storage pixels, (N, size, size, 3) uint8.

    Args:
        classifier: that answers.
        pixels: of the images.
        method: how evidence is measured.
        toward: the class to explain; None takes that of each answer, also where it abstains.

    Raises:
        UserError: no such class, an ensemble, or a network without a feature map.
    """
    if not isinstance(classifier.model, ImageClassifier):
        raise UserError("an ensemble has no map of its own; explain one of BUNDLE/members/")
    manifest = classifier.manifest
    if toward is None:
        scores = classifier.score(pixels)
        labels = [
            label_of(each, classifier.rules, classifier.in_set(scores, number))
            for number, each in enumerate(scores.probabilities)
        ]
    elif toward in manifest.classes:
        labels = [manifest.classes.index(toward)] * len(pixels)
    else:
        raise UserError(f"class {toward!r}: is not among {', '.join(manifest.classes)}")
    batch = torch.from_numpy(pixels).to(classifier.device).permute(0, 3, 1, 2)
    found, _ = evidence(
        classifier.model, batch, method, torch.tensor(labels, device=classifier.device)
    )
    pictures = heat(found.float(), pixels.shape[1]).cpu()
    agreeing = share_inside(found.abs(), found > 0).nan_to_num().tolist()
    names = [manifest.classes[label] for label in labels]
    masks = torch.from_numpy(images.cell_mask(pixels))
    shares = share_inside(pictures, masks).tolist()
    covered = masks.float().mean(dim=(1, 2)).tolist()
    return [
        Explanation(
            method, name, picture, share if cell < 1 and share == share else None, cell, agrees
        )
        for name, picture, share, cell, agrees in zip(
            names, pictures.numpy(), shares, covered, agreeing, strict=True
        )
    ]


def overlay(pixels: np.ndarray, heat: np.ndarray) -> np.ndarray:
    """Lay heat over a picture: (S, S, 3) uint8 and (S, S) in 0..1 -> (S, S, 3) uint8."""
    colours = 255 * colormaps["inferno"](heat)[:, :, :3]
    strength = 0.6 * heat[:, :, None]
    return ((1 - strength) * pixels + strength * colours).round().astype(np.uint8)


def explain_files(
    classifier: Classifier,
    files: list[tuple[str, bytes]],
    out: Path,
    method: Method = DEFAULT_METHOD,
    toward: str | None = None,
) -> list[dict[str, Any]]:
    """Answer and explain named image files; a bad one is an item, not an error.

    Writes OUT/N-NAME.png (the cell beside its heat) and OUT/explanations.json.

    Returns:
        What explanations.json holds: the answer and its `explanation`, which is what HTTP gives
        too; or name and error.
    """
    items: list[dict[str, Any]] = []
    for number, ((name, data), answer) in enumerate(
        zip(files, classifier.predict(files), strict=True)
    ):
        if isinstance(answer, Failure):
            items.append(answer.as_dict())
            continue
        pixels = images.read(data, classifier.manifest.storage)
        (explained,) = explain_pixels(classifier, np.stack([pixels]), method, toward)
        stem = Path(name).stem.encode()[:_NAME_BYTES].decode(errors="ignore")
        picture = out / f"{number:03}-{stem}.png"
        side_by_side = np.concatenate([pixels, overlay(pixels, explained.heat)], axis=1)
        Image.fromarray(side_by_side).save(picture)
        items.append(answer.as_dict() | {"explanation": explained.as_dict(picture.name)})
    check_any_scored(items)
    write_json(out / "explanations.json", items)
    return items
