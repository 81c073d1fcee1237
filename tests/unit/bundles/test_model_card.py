"""Cards of bundles and datasets: what they say, and what they do not claim."""

from types import SimpleNamespace
from typing import Any

from leuk_ray.bundles.model_card import model_card, results_of
from leuk_ray.datasets.classes import BINARY, ClassSet
from leuk_ray.datasets.datasheet import datasheet
from leuk_ray.datasets.images import StorageSettings
from leuk_ray.evaluation.decisions import Decisions
from leuk_ray.evaluation.intervals import Interval
from leuk_ray.evaluation.report_model import Report, ReportContext

OLD = ("protocol", "leaky", "threshold", "temperature", "scored", "metrics")
METRICS = ("auc", "weighted_f1", "accuracy", "sensitivity", "specificity", "brier", "nll", "ece")


def a_report(leaky: bool | None = False) -> Report:
    ratio = {"value": 0.9, "numerator": 90, "denominator": 100}
    score = {"value": 0.2, "cells": 100}
    own = {name: ratio if name in METRICS[2:5] else score for name in METRICS}
    few = Interval(None, None, 1, 1, 0, "too few subjects for an interval")
    interval = Interval(0.8, 0.95, 4, 4, 2000, "")
    why = {True: "LEAKY: Why.", None: "PATIENT OVERLAP UNKNOWN: Why.", False: ""}[leaky]
    context = ReportContext("t", "lite", "image-random", leaky, False, "ab" * 32, leakage=why)
    return Report.model_construct(  # of the metrics, those that a card shows
        run=context,
        audit={"warnings": ["mean colour alone tells ALL from healthy"]},
        threshold=0.5,
        scored={"test": {"rows": 100, "subjects": 9, "groups": 8}},
        metrics={"test": own},
        intervals={name: few if name == "auc" else interval for name in METRICS},
    )


def card(**changes: Any) -> str:
    manifest: dict[str, Any] = {
        "synthetic": False,
        "storage": StorageSettings(size=300, crop="center"),
        "shows": "cells",
        "threshold": 0.5,
        "temperature": 1.0,
        "abstain_band": None,
        "min_confidence": None,
        "conformal": None,
        "scope": None,
        "dataset_fingerprint": "ab" * 32,
        "protocol": "subject-disjoint",
        "recipe": "lite",
        "seed": 0,
        "test": {},
        "decisions": None,
    }
    classes: ClassSet = changes.pop("classes", BINARY)
    manifest |= {"class_set": classes, "classes": classes.names, "positive": classes.positive}
    return model_card(SimpleNamespace(**{**manifest, **changes}), "- Network: x")  # pyright: ignore


def test_a_card_names_its_classes_and_how_one_is_decided_on() -> None:
    assert "Decision: ALL from probability 0.5 on" in card()
    assert "as leukemic blast (ALL) or healthy" in card()
    text = card(classes=ClassSet(("blast", "monocyte", "<b>"), ("blast",)), min_confidence=0.4)
    assert "one cell as one of: blast (positive), monocyte," in text
    assert "<b>" not in text
    assert "Decision: the most likely class" in text
    assert "none where the most likely class has a probability below 0.400" in text
    assert "ALL" not in text.split("## Results")[0]


def test_results_come_with_counts_and_intervals_or_the_reason_for_none() -> None:
    text = card(test=results_of(a_report()))
    assert "100 test cells of 9 subjects in 8 groups" in text
    assert "| Accuracy | 90.00% | 90 of 100 | 80.00% to 95.00% |" in text
    assert "| Area under ROC | 0.200 | 100 cells | none |" in text
    assert "too few subjects for an interval." in text
    assert "LEAKY" not in text
    assert "audit of its dataset warns: mean colour alone tells ALL from healthy." in text


def test_limits_say_what_the_bundle_is() -> None:
    text = card(test=results_of(a_report(leaky=True)))
    assert "LEAKY: 100 test cells" in text
    assert "- LEAKY: Why." in text
    unknown = card(test=results_of(a_report(leaky=None)))
    assert "PATIENT OVERLAP UNKNOWN: 100 test cells" in unknown
    before = {k: v for k, v in results_of(a_report(leaky=True)).items() if k in OLD}
    assert "- LEAKY: patients cross into the test set." in card(test=before)  # a bundle of before
    assert "not calibrated" in text
    assert "rendered cells" not in text
    text = card(synthetic=True, temperature=1.4, abstain_band=(0.4, 0.6), scope=object())
    assert "says nothing about real ones" in text
    assert "not calibrated" not in text
    assert "none between probabilities 0.400 and 0.600" in text
    assert "No test result is kept" in text


def test_a_calibrated_bundle_says_whose_results_it_keeps_and_on_how_little_it_was_fixed() -> None:
    few = Decisions(source="s", cells=26, num_all=13, num_healthy=13, num_subjects=7)
    text = card(test=results_of(a_report()), temperature=0.5, decisions=few)
    assert "**Of the bundle before `leuk-ray calibrate`**" in text
    assert text.index("before `leuk-ray calibrate`") < text.index("| metric | value |")
    assert "26 cells (13 ALL, 13 healthy) of 7 subjects with cells of one class. That is" in text
    enough = few.model_copy(update={"cells": 400, "num_subjects": 30})
    assert "That is little" not in card(temperature=0.5, decisions=enough)
    nobody = few.model_copy(update={"num_subjects": 0})
    assert "of subjects that are unknown or have" in card(decisions=nobody)
    plain = card(test=results_of(a_report()))
    assert "before `leuk-ray calibrate`" not in plain
    assert "Calibrated on" not in plain


def test_a_bundle_of_fields_is_for_fields() -> None:
    cells, fields, both = (card(shows=shows) for shows in ("cells", "fields", "both"))
    assert "not for pictures of several cells" in cells
    assert "several cells" not in fields + both
    assert "not for pictures of single cells" in fields
    assert "Expects: one whole field of view in center crop" in fields
    assert "single cells" not in both
    assert "One cell or field of view says little of a patient" in both


def test_without_test_cells_nothing_is_kept() -> None:
    assert results_of(a_report().model_copy(update={"metrics": {"test": None}})) == {}


def test_a_datasheet_claims_nothing_that_the_files_do_not_say() -> None:
    manifest = {
        "layout": "csv",
        "fingerprint": "ab" * 32,
        "synthetic": False,
        "counts": {"files": 12, "rows": 10, "rejected": 2},
        "storage": {"crop": "full", "size": 300},
    }
    audit = {
        "classes": {"ALL": {"cells": 6, "subjects": 2, "groups": 2}},
        "shortcuts": {},
        "identical_images": 1,
        "identical_images_across_subjects": 0,
        "near_duplicates": [],
        "balance": {"site": {"Ghent": {}, "unknown": {}}, "stain": {"unknown": {}}},
        "warnings": ["one patient decides much"],
    }
    text = datasheet(manifest, audit)
    assert "not measured, since no class is positive" in text
    assert "Files: 12 = 10 rows + 2 rejected + 0 skipped" in text
    assert "Sites: Ghent; stains: not available" in text
    assert "Licence: not available" in text
    assert "Made for: not available" in text
    assert "- one patient decides much" in text
    assert "CC BY 3.0" in datasheet({**manifest, "layout": "c-nmc"}, audit)
    assert "SYNTHETIC" in datasheet({**manifest, "layout": "c-nmc", "synthetic": True}, audit)


def test_what_data_call_themselves_is_no_html() -> None:
    script = "<script>alert('1')</script> & <img src=x>"
    manifest = {
        "layout": script,
        "fingerprint": "ab" * 32,
        "synthetic": False,
        "counts": {"files": 12, "rows": 10, "rejected": 2},
        "storage": {"crop": "full", "size": 300},
    }
    audit = {
        "classes": {script: {"cells": 6, "subjects": 2, "groups": 2}},
        "shortcuts": {},
        "identical_images": 1,
        "identical_images_across_subjects": 0,
        "near_duplicates": [],
        "balance": {"site": {script: {}}, "stain": {script: {}}},
        "warnings": [script],
    }
    for text in (datasheet(manifest, audit), card(recipe=script, protocol=script)):
        assert "<" not in text
        assert "&lt;script>alert" in text
