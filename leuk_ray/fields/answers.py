"""A field with the answers for its cells, and what they add up to, for JSON."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from leuk_ray.evaluation.differential import differential
from leuk_ray.fields.field import Field

CLUMP = "clump"  # why a clump is not answered for


def field_answer(
    field: Field, answers: Sequence[Mapping[str, Any] | None], classes: Sequence[str]
) -> dict[str, Any]:
    """Join a field and the answers for its cells.

    Args:
        field: with its cells.
        answers: for each of them, as plain values of a `Prediction` or a `Failure`; None for a
            clump.
        classes: of the bundle that answered.

    Returns:
        What `Field` holds, with the answers in its cells, and `summarise_cells` of these.
    """
    cells = [
        asdict(cell) | ({"label": None, "reasons": [CLUMP]} if answer is None else _unnamed(answer))
        for cell, answer in zip(field.cells, answers, strict=True)
    ]
    return {
        "name": field.name,
        "status": field.status,
        "reasons": list(field.reasons),
        "warnings": list(field.warnings),
        "detail": field.detail,
        "width": field.width,
        "height": field.height,
        "scale": None if field.scale is None else asdict(field.scale),
        "cells": cells,
        "summary": summarise_cells(cells, classes),
    }


def _unnamed(answer: Mapping[str, Any]) -> dict[str, Any]:
    if "error" in answer:
        return {"label": None, "reasons": ["failed"], "error": answer["error"]}
    return {name: value for name, value in answer.items() if name != "name"}


def summarise_cells(cells: Sequence[Mapping[str, Any]], classes: Sequence[str]) -> dict[str, Any]:
    """Count the cells of one or several fields.

    Args:
        cells: each with `clump`, `label`, one of `classes` where it is answered for, and `reasons`.
        classes: of the bundle that answered.

    Returns:
        cells (= answered + not_answered), clumps beside them, not_answered_reasons (a cell may have
        several), and the differential of the answered ones: name, cells and share of each class.
        Cells may be of several patients, so shares have no interval.
    """
    found, cells = cells, [cell for cell in cells if not cell["clump"]]
    labels = [cell["label"] for cell in cells]
    unanswered = [cell for cell in cells if cell["label"] not in classes]
    reasons = Counter(reason for cell in unanswered for reason in cell["reasons"])
    return {
        "cells": len(cells),
        "clumps": len(found) - len(cells),
        "answered": len(cells) - len(unanswered),
        "not_answered": len(unanswered),
        "not_answered_reasons": dict(reasons.most_common()),
        "differential": [
            {"name": each.name, "cells": each.cells, "share": each.share}
            for each in differential(labels, classes)
        ],
    }
