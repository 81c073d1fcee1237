"""Explanations of answers: pictures of the evidence, and how much of it lies in the cell."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from matplotlib import colormaps
from PIL import Image

from leuk_ray import images
from leuk_ray.errors import UserError
from leuk_ray.inference.classifier import Classifier, Failure
from leuk_ray.inference.gradcam import Method, evidence, heat, share_inside
from leuk_ray.models.network import ImageClassifier
from leuk_ray.storage import write_json


@dataclass(frozen=True)
class Explanation:
    """What speaks for the class that was answered.

    heat: (size, size) float32 in 0..1, on the storage pixels.
    inside_cell: share of the heat on the cell; None where no black surrounds it, or no heat.
    cell: share of the picture that the cell covers, what chance would give.
    agreeing: share of the map's evidence, for either class, that speaks for the answer. Where it
        is small the answer comes from the head's biases, which lie at no place, and the heat,
        scaled to its largest value, is a remainder that shows nothing.
    """

    heat: np.ndarray
    inside_cell: float | None
    cell: float
    agreeing: float


def explain_pixels(classifier: Classifier, pixels: np.ndarray, method: Method) -> list[Explanation]:
    """Explain storage pixels, (N, size, size, 3) uint8.

    Raises:
        UserError: an ensemble, or a network without a feature map.
    """
    if not isinstance(classifier.model, ImageClassifier):
        raise UserError("an ensemble has no map of its own; explain one of BUNDLE/members/")
    batch = torch.from_numpy(pixels).to(classifier.device).permute(0, 3, 1, 2)
    found, logit = evidence(classifier.model, batch, method)
    probability = torch.sigmoid(logit / classifier.facts.temperature)
    toward = torch.where(probability >= classifier.facts.threshold, 1.0, -1.0)
    pictures = heat(found.float(), toward, pixels.shape[1]).cpu()
    agreeing = share_inside(found.abs(), found * toward.view(-1, 1, 1) > 0).nan_to_num().tolist()
    masks = torch.from_numpy(pixels.max(axis=3) > 0)
    shares = share_inside(pictures, masks).tolist()
    covered = masks.float().mean(dim=(1, 2)).tolist()
    return [
        Explanation(picture, share if cell < 1 and share == share else None, cell, agrees)
        for picture, share, cell, agrees in zip(
            pictures.numpy(), shares, covered, agreeing, strict=True
        )
    ]


def overlay(pixels: np.ndarray, heat: np.ndarray) -> np.ndarray:
    """Lay heat over a picture: (S, S, 3) uint8 and (S, S) in 0..1 -> (S, S, 3) uint8."""
    colours = 255 * colormaps["inferno"](heat)[:, :, :3]
    strength = 0.6 * heat[:, :, None]
    return ((1 - strength) * pixels + strength * colours).round().astype(np.uint8)


def explain_files(
    classifier: Classifier, files: list[tuple[str, bytes]], out: Path, method: Method
) -> list[dict]:
    """Answer and explain named image files; a bad one is an item, not an error.

    Writes OUT/N-NAME.png (the cell beside its heat) and OUT/explanations.json.

    Returns:
        What explanations.json holds: name, label, probability, threshold, method, picture,
        heat_inside_cell, cell_area, evidence_for_answer; or name and error.
    """
    items: list[dict] = []
    for number, ((name, data), answer) in enumerate(
        zip(files, classifier.predict(files), strict=True)
    ):
        if isinstance(answer, Failure):
            items.append(answer.as_dict())
            continue
        pixels = images.read(data, classifier.facts.storage)
        (explained,) = explain_pixels(classifier, np.stack([pixels]), method)
        picture = out / f"{number:03}-{Path(name).stem}.png"
        side_by_side = np.concatenate([pixels, overlay(pixels, explained.heat)], axis=1)
        Image.fromarray(side_by_side).save(picture)
        items.append(
            answer.as_dict()
            | {
                "method": method,
                "picture": picture.name,
                "heat_inside_cell": explained.inside_cell,
                "cell_area": explained.cell,
                "evidence_for_answer": explained.agreeing,
            }
        )
    write_json(out / "explanations.json", items)
    return items
