import re

import yaml

from leuk_ray.evaluation import checklist
from leuk_ray.evaluation.checklist import NOT_AVAILABLE, fill_checklist
from leuk_ray.evaluation.published import beside_published


def test_places_are_filled_and_gaps_are_not_available(monkeypatch) -> None:
    items = [
        {
            "id": "1",
            "about": "a",
            "value": "{run.name}: {metrics.auc:decimal} of {cells:count}, lr {lr}",
        },
        {"id": "2", "about": "b", "value": "{run.name}, {run.unknown}"},
        {"id": "3", "about": "c", "value": "{run.empty}"},
        {"id": "4", "about": "d", "value": None},
        {"id": "5", "about": "e", "value": "{share:percent}, leaky: {leaky:yesno}"},
        {"id": "6", "about": "f", "value": "{run.name.deeper}"},
    ]
    monkeypatch.setattr(checklist, "_items", lambda: items)
    content = {
        "run": {"name": "lite", "empty": "", "unknown": None},
        "metrics": {"auc": 0.91234},
        "cells": 1234,
        "lr": 5e-4,
        "share": 0.5,
        "leaky": False,
    }
    values = [item["value"] for item in fill_checklist(content)]
    assert values == [
        "lite: 0.912 of 1,234, lr 0.0005",
        NOT_AVAILABLE,
        NOT_AVAILABLE,
        NOT_AVAILABLE,
        "50.00%, leaky: no",
        NOT_AVAILABLE,
    ]


def test_every_item_says_what_it_is_about_and_asks_for_real_places() -> None:
    items = checklist._items()
    assert len(items) > 35
    for item in items:
        assert {"id", "about", "value"} <= set(item) <= {"id", "about", "value", "several"}
        text = f"{item['value'] or ''}{item.get('several') or ''}"
        for place in re.findall(r"\{([^}]*)\}", text):
            assert checklist._PLACE.fullmatch("{" + place + "}"), place


def test_an_empty_report_fills_nothing_but_what_holds_for_all_runs() -> None:
    filled = [item for item in fill_checklist({}) if item["value"] != NOT_AVAILABLE]
    fixed = [item for item in checklist._items() if item["value"] and "{" not in item["value"]]
    assert [item["id"] for item in filled] == [item["id"] for item in fixed]
    assert yaml.safe_dump(filled)


def test_published_results_stand_beside_their_own_protocol_only() -> None:
    found = beside_published("official-folds", "c-nmc-preliminary")
    assert found is not None
    assert found["metric"] == "weighted_f1"
    assert len(found["rows"]) == 5
    others = {row["name"]: row["why"] for row in found["not_comparable"]}
    assert len(others) == 5
    for paper in ("2006.00304", "2003.03295", "2606.24944", "2601.01026", "2508.06535"):
        assert any(paper in name for name in others)
    assert sum("Looks leaky" in why for why in others.values()) == 2
    assert beside_published("subject-disjoint", "c-nmc-preliminary") is None
    assert beside_published("official-folds", "") is None


def test_classes_are_called_by_their_names_and_no_binary_number_stands_for_several() -> None:
    binary = {"test": {"confusion": {"tp": 5, "fn": 1, "fp": 2, "tn": 4}}}
    two = {"run": {"classes": {"names": ["stage 5", "stage 1"]}}, "metrics": binary}
    values = {item["id"]: item["value"] for item in fill_checklist(two)}
    assert values["STARD 23"].startswith("5 stage 1 called stage 1, 1 stage 1 called stage 5")
    tested = {
        "accuracy": {"value": 0.675, "denominator": 40},
        "confusion": [[3, 1, 0], [2, 4, 0], [0, 0, 5]],
    }
    several = {
        "run": {"classes": {"names": ["a", "b", "c"]}},
        "metrics": binary | {"validation": {"accuracy": {"value": 0.9, "denominator": 40}}},
        "classes": {"test": tested},
    }
    values = {item["id"]: item["value"] for item in fill_checklist(several)}
    assert values["CLAIM 3, STARD 3"].startswith("classification of cells as a, b, c")
    assert values["CLAIM 32, 37"] == "accuracy 67.50% of 40 test cells"
    assert "[3, 1, 0]; [2, 4, 0]; [0, 0, 5]" in values["STARD 23"]
    assert not any("ALL" in value or "healthy" in value for value in values.values())
