"""From probabilities and the scope's reasons to an answer: a class, or none."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from leuk_ray.bundles.manifest import BundleManifest
from leuk_ray.evaluation.calibration import in_band
from leuk_ray.evaluation.subjects import ABSTAIN

NEAR_THRESHOLD = "near_threshold"
LOW_CONFIDENCE = "low_confidence"


@dataclass(frozen=True)
class Decision:
    """label: a class or `abstain`. reasons: why no class, else empty."""

    label: str
    reasons: tuple[str, ...]


def label_of(probabilities: np.ndarray, manifest: BundleManifest) -> int:
    """Label that probabilities (K,) speak for: by the threshold of two, else the most likely."""
    if len(probabilities) == 2:
        return int(probabilities[1] >= manifest.threshold)
    return int(probabilities.argmax())


def decide(
    probabilities: np.ndarray, out_of_scope: Sequence[str], manifest: BundleManifest
) -> Decision:
    """Answer for one cell.

    Of two classes the threshold decides, of more the most likely one is the answer.

    Args:
        probabilities: (K,), calibrated.
        out_of_scope: reasons why the image is none that the network can classify.
        manifest: threshold, and where no answer is given: between the ends of the abstain band,
            or, of more than two classes, below the smallest confidence.

    Raises:
        RuntimeError: a probability is no number.
    """
    if not np.isfinite(probabilities).all():
        raise RuntimeError("the model output is not finite")
    reasons = list(out_of_scope)
    label = label_of(probabilities, manifest)
    if len(probabilities) == 2:
        if in_band(probabilities[1], manifest.abstain_band):
            reasons.append(NEAR_THRESHOLD)
    elif probabilities[label] < (manifest.min_confidence or 0):
        reasons.append(LOW_CONFIDENCE)
    if reasons:
        return Decision(ABSTAIN, tuple(reasons))
    return Decision(manifest.classes[label], ())
