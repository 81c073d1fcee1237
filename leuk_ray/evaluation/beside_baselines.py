"""A network beside the classical baselines on the same test cells."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
from typing_extensions import TypedDict

from leuk_ray.evaluation.intervals import Interval
from leuk_ray.evaluation.metric_intervals import group_intervals
from leuk_ray.evaluation.metrics import Ratio, ratio
from leuk_ray.evaluation.paired import paired_bootstrap

THRESHOLD = 0.5
COMPARED = ("auc", "accuracy", "nll")


class BesideBaseline(TypedDict):
    """A baseline, and what the network gains over it on the same cells.

    accuracy, network_accuracy: from a probability of 0.5 on. auc: interval of the baseline's area
    under ROC. differences: network minus baseline by metric, see `paired.paired_bootstrap`.
    """

    name: str
    accuracy: Ratio
    network_accuracy: Ratio
    auc: Interval
    differences: dict[str, dict[str, Any]]


def beside_baseline(
    name: str,
    baseline: pa.Table,
    network: pa.Table,
    binary_names: tuple[str, str],
    *,
    withheld: str,
    seed: int,
    resamples: int,
) -> BesideBaseline:
    """Compare a network with a baseline on the same test cells.

    Args:
        name: of the baseline, in words.
        baseline, network: the same cells each, in any order: uid, group, label (1 positive),
            probability.
        binary_names: of the labels 0 and 1.
        withheld: a reason to give no interval.
        seed, resamples: of the bootstrap.
    """
    baseline, network = (table.sort_by("uid") for table in (baseline, network))
    assert baseline["uid"].equals(network["uid"]), "baseline and network scored other cells"
    label, group = network["label"].to_numpy(), network["group"].to_pylist()
    before, after = (table["probability"].to_numpy() for table in (baseline, network))
    drawing: dict[str, Any] = {"seed": seed, "resamples": resamples, "withheld": withheld}
    paired = paired_bootstrap(
        label, before, after, group, (THRESHOLD, THRESHOLD), **drawing, names=binary_names
    )
    right, network_right = (
        ratio(int(np.sum((stated >= THRESHOLD) == (label == 1))), len(label))
        for stated in (before, after)
    )
    return BesideBaseline(
        name=name,
        accuracy=right,
        network_accuracy=network_right,
        auc=group_intervals(label, before, group, THRESHOLD, **drawing)["auc"],
        differences={metric: paired["metrics"][metric] for metric in COMPARED},
    )


def beside_sentence(row: BesideBaseline) -> str:
    """Say how a network does beside a classical baseline."""
    right, area = row["accuracy"], row["differences"]["auc"]
    opening = f"Beside it, {row['name']}: {right['numerator']} of {right['denominator']} correctly"
    if area["difference"] is None:
        return f"{opening}."
    interval = "no interval"
    if area["low"] is not None:
        interval = f"95% {area['low']:+.3f} to {area['high']:+.3f}, p {area['p']:.2f}"
    return (
        f"{opening}, area under ROC {area['first']:.3f}; the network minus it "
        f"{area['difference']:+.3f} ({interval})."
    )
