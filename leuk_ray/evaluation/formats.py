"""Values as people and JSON have them: counts, percentages, settings, findings."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np

MAX_LISTED = 20


def count(value: float) -> str:
    """Format a count with thousands separators, and a decimal where there is one."""
    return f"{value:,.0f}" if value == int(value) else f"{value:,.1f}"


def percent(value: float | None) -> str:
    """Format a share 0..1 in percent; n/a where it is undefined."""
    return "n/a" if value is None else f"{_rounded(100 * value, 100, 2)}%"


def decimal(value: float | None) -> str:
    """Format with three decimals; n/a where it is undefined."""
    return "n/a" if value is None else _rounded(value, 1, 3)


def _rounded(value: float, top: int, digits: int) -> str:
    """Rounded, but never up to the top or down to 0: one error must not look like none."""
    text, step = f"{value:.{digits}f}", 10.0**-digits
    if value < top and float(text) == top:
        return f">{top - step:.{digits}f}"
    if value > 0 and float(text) == 0:
        return f"<{step:.{digits}f}"
    return text


def _flat(value: Any) -> list[tuple[tuple[str, ...], Any]]:
    """Nested mappings as rows (path of keys, value)."""
    if not isinstance(value, Mapping) or not value:
        return [((), value)]
    return [((key, *path), leaf) for key in value for path, leaf in _flat(value[key])]


def verbatim(value: Any) -> list[tuple[str, str]]:
    """List settings as rows (dotted name, value as in YAML)."""
    return [
        (".".join(path), leaf if isinstance(leaf, str) else json.dumps(leaf))
        for path, leaf in _flat(value)
    ]


def readable(value: Any) -> list[tuple[str, str]]:
    """List findings as rows (name in words, text)."""
    return [(": ".join(path).replace("_", " "), _text(leaf, "; ")) for path, leaf in _flat(value)]


def _text(value: Any, separator: str) -> str:
    """Return a value for people; a long list is cut, as report.json has it in full."""
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_text(item, ' ')}" for key, item in value.items()) or "none"
    if isinstance(value, list):
        listed = separator.join(_text(item, ", ") for item in value[:MAX_LISTED]) or "none"
        more = len(value) - MAX_LISTED
        return f"{listed}; and {more:,} more in report.json" if more > 0 else listed
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if value is None:
        return "none"
    return f"{value:.6g}" if isinstance(value, float) else value


def json_ready(value: Any) -> Any:
    """Convert to what JSON has: dataclasses as mappings, arrays as lists, NaN as null."""
    if is_dataclass(value):
        return {item.name: json_ready(getattr(value, item.name)) for item in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): json_ready(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [json_ready(item) for item in value]
    if isinstance(value, np.ndarray | np.generic):
        return json_ready(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if isinstance(value, str | int | float | None) else str(value)
