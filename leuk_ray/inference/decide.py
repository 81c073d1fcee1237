"""From a probability and the scope's reasons to an answer: ALL, healthy, or none."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from leuk_ray.bundles.manifest import BundleManifest
from leuk_ray.evaluation.calibration import in_band
from leuk_ray.evaluation.subjects import ABSTAIN

NEAR_THRESHOLD = "near_threshold"


@dataclass(frozen=True)
class Decision:
    """label: `ALL`, `healthy` or `abstain`. reasons: why none of the first two, else empty."""

    label: str
    reasons: tuple[str, ...]


def decide(probability: float, out_of_scope: Sequence[str], manifest: BundleManifest) -> Decision:
    """Answer for one cell.

    Args:
        probability: calibrated probability of ALL.
        out_of_scope: reasons why the image is none that the network can classify.
        manifest: threshold, and the abstain band: between its ends no answer is given.

    Raises:
        RuntimeError: the probability is no number.
    """
    if not math.isfinite(probability):
        raise RuntimeError("the model output is not finite")
    reasons = list(out_of_scope)
    if in_band(probability, manifest.abstain_band):
        reasons.append(NEAR_THRESHOLD)
    if reasons:
        return Decision(ABSTAIN, tuple(reasons))
    return Decision(manifest.classes[int(probability >= manifest.threshold)], ())
