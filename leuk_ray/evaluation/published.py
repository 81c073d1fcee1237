"""Published results that may stand beside ours, because they were won under the same protocol."""

from __future__ import annotations

from importlib import resources
from typing import Any

import yaml


def beside_published(protocol: str, test_set: str) -> dict[str, Any] | None:
    """Find results on an official test set; None where no comparable one is listed.

    Args:
        protocol: of the split.
        test_set: the official set that all test cells are from, such as `c-nmc-preliminary`.

    Returns:
        metric, rows of name, preliminary and final (percent), and not_comparable: name, result
        and why of others.
    """
    text = (resources.files("leuk_ray") / "evaluation" / "published.yaml").read_text("utf-8")
    found = yaml.safe_load(text).get(test_set)
    if found is None or found["protocol"] != protocol:
        return None
    return {name: found[name] for name in ("metric", "rows", "not_comparable")}
