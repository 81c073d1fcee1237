"""The reference of settings: name, type, default and meaning, read off their fields."""

from __future__ import annotations

import json
import types
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from leuk_ray.utils.settings import Settings

_TYPES = {bool: "true | false", int: "integer", float: "number", str: "text", Any: "any value"}
_BOUNDS = {"ge": ">=", "gt": ">", "le": "<=", "lt": "<"}


@dataclass(frozen=True)
class Setting:
    """One setting, in words.

    name: its full path; `*` stands for any key of a mapping or item of a list.
    default: as it is written in YAML; `required`, `unset`, or empty for a section.
    """

    name: str
    type: str
    default: str
    meaning: str


def settings_of(settings: type[Settings], prefix: str = "") -> Iterator[Setting]:
    """List every setting of a class, sections before what they hold."""
    for key, field in settings.model_fields.items():
        name, inner = f"{prefix}{key}", _settings_in(field.annotation)
        section = inner is field.annotation
        yield Setting(
            name,
            _type_text(field.annotation, field.metadata),
            "" if section else _default_text(field),
            " ".join((field.description or "").split()),
        )
        if inner is not None:
            yield from settings_of(inner, f"{name}." if section else f"{name}.*.")


def _settings_in(annotation: Any) -> type[Settings] | None:
    """Return the settings that a field is, or is a list or a mapping of."""
    if isinstance(annotation, type) and issubclass(annotation, Settings):
        return annotation
    found = [_settings_in(part) for part in get_args(annotation)]
    return next((part for part in found if part is not None), None)


def _type_text(annotation: Any, metadata: Sequence[Any] = ()) -> str:
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _type_text(parts[0], parts[1:])
    if origin is Literal:
        return " | ".join(str(value) for value in parts)
    if origin in (Union, types.UnionType):
        texts = [_type_text(part, metadata) for part in parts if part is not type(None)]
        return " | ".join(dict.fromkeys(texts))
    if origin is tuple and parts[-1] is Ellipsis:
        return f"list of {_type_text(parts[0])}"
    if origin is tuple:
        return f"[{', '.join(_type_text(part) for part in parts)}]"
    if origin is dict:
        return f"mapping to {_type_text(parts[1])}"
    if _settings_in(annotation):
        return "section"
    return _TYPES[annotation] + _bounds_text(metadata)


def _bounds_text(metadata: Sequence[Any]) -> str:
    bounds = [part for meta in metadata for part in getattr(meta, "metadata", [meta])]
    texts = [
        f"{sign} {value:g}"
        for bound in bounds
        for attribute, sign in _BOUNDS.items()
        if (value := getattr(bound, attribute, None)) is not None
    ]
    return f" {' and '.join(texts)}" if texts else ""


def _default_text(field: FieldInfo) -> str:
    value = field.get_default(call_default_factory=True, validated_data={})
    if value is PydanticUndefined:
        return "required"
    if value is None:
        return "unset"
    return value if isinstance(value, str) and value else json.dumps(value)
