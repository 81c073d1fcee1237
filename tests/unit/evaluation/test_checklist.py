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
        assert set(item) == {"id", "about", "value"}
        for place in re.findall(r"\{([^}]*)\}", item["value"] or ""):
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
    assert beside_published("subject-disjoint", "c-nmc-preliminary") is None
    assert beside_published("official-folds", "") is None
