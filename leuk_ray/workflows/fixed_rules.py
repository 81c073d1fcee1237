"""By which rules a calibrated bundle answers, and how often they err, on held-out cells."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pyarrow as pa

from leuk_ray.bundles.manifest import BundleManifest
from leuk_ray.datasets.classes import ABSTAIN, ClassSet
from leuk_ray.evaluation.calibration import (
    abstain_band,
    class_logits_of,
    class_probabilities,
    min_confidence,
)
from leuk_ray.evaluation.class_report import binary_view
from leuk_ray.evaluation.conformal import Conformal
from leuk_ray.evaluation.decisions import ABSTAIN_SHARES, fix_decisions
from leuk_ray.evaluation.deployed import call_by_sets
from leuk_ray.evaluation.error_rates import ErrorRates, count_errors
from leuk_ray.evaluation.rules import DecisionRules
from leuk_ray.evaluation.subjects import per_subject
from leuk_ray.inference.decide import decide


def fix_rules(
    predictions: pa.Table,
    classes: ClassSet,
    manifest: BundleManifest,
    temperature: float,
    abstain_share: float,
    conformal: Conformal | None,
) -> DecisionRules:
    """Fix when a bundle abstains, and decisions of the binary view, on held-out predictions.

    Prediction sets take the place of the abstain band, or of the smallest confidence. Of more than
    two classes the decisions are operating points alone: no threshold calls a cell or a subject.
    """
    rules = DecisionRules(manifest.threshold, conformal=conformal)
    share = abstain_share if conformal is None else 0.0
    if len(classes) > 2:
        scores = class_logits_of(predictions)
        rules = replace(rules, min_confidence=min_confidence(scores, temperature, share))
        if not classes.positive:
            return rules
        band, subjects, shares = None, [], ()
    else:
        band = abstain_band(predictions["logit"].to_numpy(), temperature, rules.threshold, share)
        called = call_by_sets(predictions, conformal)
        subjects = per_subject(called, rules.threshold, band)
        shares = (share, *ABSTAIN_SHARES)
    view = binary_view(predictions, classes)
    decisions = fix_decisions(
        view["label"].to_numpy().astype(np.int64),
        view["logit"].to_numpy(),
        subjects,
        temperature=temperature,
        threshold=rules.threshold,
        source="cells that the bundle was calibrated on",
        shares=shares,
    )
    return replace(rules, abstain_band=band, decisions=decisions)


def count_error_rates(
    cells: pa.Table,
    class_logits: np.ndarray,
    temperature: float,
    out_of_scope: Sequence[Sequence[str]],
    rules: DecisionRules,
    classes: ClassSet,
) -> ErrorRates:
    """Count by group how often cells are answered, and called a positive class, as deployed.

    Args:
        cells: (N,) rows of the dataset; those without a subject are left out.
        class_logits: (N, K-1). temperature: divides them for the probabilities.
        out_of_scope: (N,) why the bundle cannot classify the pixels of a cell, if so.
        rules: by which the bundle answers.
        classes: the K classes.
    """
    probabilities = class_probabilities(class_logits, temperature)
    sets = rules.conformal and rules.conformal.sets(class_logits)
    truth, called, groups = [], [], []
    for i, cell in enumerate(cells.select(["label", "subject", "group"]).to_pylist()):
        if cell["subject"] is None:
            continue
        in_set = None if sets is None else sets[i]
        label = decide(probabilities[i], out_of_scope[i], rules, classes.names, in_set).label
        truth.append(classes.names[cell["label"]] in classes.positive)
        called.append(None if label == ABSTAIN else label in classes.positive)
        groups.append(cell["group"])
    return count_errors(truth, called, groups)
