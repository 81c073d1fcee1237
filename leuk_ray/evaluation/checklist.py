"""A checklist for reporting, each item filled with a value of this run or "not available".

The items and where their values come from are data, in checklist.yaml.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from importlib import resources
from typing import Any

import yaml

from leuk_ray.evaluation.formats import count, decimal, percent
from leuk_ray.utils.wording import listed

NOT_AVAILABLE = "not available"
_PLACE = re.compile(r"\{([a-zA-Z0-9_.]+)(?::(\w+))?\}")


def fill_checklist(content: Mapping[str, Any]) -> list[dict[str, str]]:
    """Fill the checklist with values of a report.

    A value is a text with places, as `{scored.test.cells:count}`, filled from the report. Where
    one of them is missing, None or empty, the item is not available; so is an item of which a
    run can know nothing. `several` takes the place of a value where there are more than two
    classes. {class_names}, {positive} and {negative} are names of the run's classes; {limits} are
    those of `confidence`.

    Args:
        content: what report.json holds.

    Returns:
        Items in order: id, about, value.
    """
    names = content.get("run", {}).get("classes", {}).get("names", [])
    limits = ", ".join(decimal(band["min_confidence"]) for band in content.get("confidence", []))
    content = {**content, **_class_words(names), "limits": limits}
    kind = "several" if len(names) > 2 else "value"
    return [
        {
            "id": item["id"],
            "about": item["about"],
            "value": _value(item.get(kind, item["value"]), content),
        }
        for item in _items()
    ]


def _class_words(names: list[str]) -> dict[str, str]:
    words = {"class_names": listed(names)}
    return words | ({"negative": names[0], "positive": names[1]} if len(names) == 2 else {})


@cache
def _items() -> list[dict[str, Any]]:
    text = (resources.files("leuk_ray") / "evaluation" / "checklist.yaml").read_text("utf-8")
    return yaml.safe_load(text)


def _value(template: str | None, content: Mapping[str, Any]) -> str:
    if template is None:
        return NOT_AVAILABLE
    found = {match.group(0): _look_up(match, content) for match in _PLACE.finditer(template)}
    if any(text is None for text in found.values()):
        return NOT_AVAILABLE
    return _PLACE.sub(lambda match: str(found[match.group(0)]), template)


def _look_up(match: re.Match[str], content: Mapping[str, Any]) -> str | None:
    value: Any = content
    for part in match.group(1).split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    if value is None or value == "" or value == [] or value == {}:
        return None
    form = match.group(2)
    if form == "percent":
        return percent(value)
    if form == "decimal":
        return decimal(value)
    if form == "count":
        return count(value)
    if form == "yesno":
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, list):
        return "; ".join(map(str, value))
    return str(value)
