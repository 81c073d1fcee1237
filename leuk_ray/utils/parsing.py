"""JSON and YAML that anybody may have written: bounded in depth and in what aliases expand to."""

from __future__ import annotations

import json
from typing import Any

import yaml

from leuk_ray.utils.errors import ConfigError, DataError

_MAX_DEPTH = 64  # what is written here has less than ten levels
_MAX_YAML = 2**20
_MAX_NODES = 50_000  # of YAML, aliases expanded; the longest experiment has 5,000


def parse_json(data: bytes, place: object) -> Any:
    """Parse a JSON text that lies at `place`.

    Raises:
        UserError: it is not JSON, or nested too deep.
    """
    try:
        value = json.loads(data)
        if _depth(value) > _MAX_DEPTH:
            raise RecursionError
    except ValueError as error:
        raise DataError(f"{place}: is not valid JSON ({error}); make it anew") from error
    except RecursionError:
        raise DataError(
            f"{place}: is nested deeper than {_MAX_DEPTH} levels; get it anew"
        ) from None
    return value


def parse_yaml(text: str | bytes, place: object) -> Any:
    """Parse a YAML text that lies at `place`.

    Raises:
        UserError: it is not YAML, too large, nested too deep, or its aliases name too much.
    """
    if len(text) > _MAX_YAML:
        raise ConfigError(f"{place}: is larger than {_MAX_YAML:,} characters; settings are shorter")
    try:
        loader = yaml.SafeLoader(text)
        node = loader.get_single_node()
        if node is None:
            return None
        if _expanded(node, {}) > _MAX_NODES:
            raise ValueError(f"its aliases expand to more than {_MAX_NODES:,} values")
        return loader.construct_document(node)
    except yaml.YAMLError as error:
        problem = " ".join(str(error).split())[:300]
        raise ConfigError(f"{place}: is not valid YAML ({problem})") from error
    except (RecursionError, ValueError, UnicodeError) as error:
        what = "nested too deep" if isinstance(error, RecursionError) else str(error)[:300]
        raise ConfigError(f"{place}: is not valid YAML ({what})") from None


def _expanded(node: yaml.Node, known: dict[int, float]) -> float:
    """How many values a node is with every alias in it written out; infinite where it holds itself.

    Args:
        node: as composed, where an alias is the node that it names.
        known: by identity, what was counted.
    """
    if id(node) not in known:
        known[id(node)] = float("inf")  # while what it holds is counted
        inner = node.value if isinstance(node, yaml.CollectionNode) else ()
        parts = [part for item in inner for part in (item if isinstance(item, tuple) else (item,))]
        known[id(node)] = 1 + sum(_expanded(part, known) for part in parts)
    return known[id(node)]


def _depth(value: Any) -> int:
    """How deep lists and objects lie in each other."""
    depth, level = 0, [value]
    while level := [
        inner
        for outer in level
        if isinstance(outer, dict | list)
        for inner in (outer.values() if isinstance(outer, dict) else outer)
    ]:
        depth += 1
    return depth
