"""Reports of more than two classes."""

import re
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from leuk_ray.bundles.model_card import results_of
from leuk_ray.datasets.classes import ClassSet
from leuk_ray.evaluation.calibration import (
    binary_log_odds,
    binary_probability,
    class_logits_of,
    class_probabilities,
)
from leuk_ray.evaluation.conformal import ClassLimit, Conformal
from leuk_ray.evaluation.differential import differential
from leuk_ray.evaluation.report import _report
from leuk_ray.evaluation.report_model import Report, ReportContext
from leuk_ray.evaluation.rules import DecisionRules
from leuk_ray.utils.wording import natural
from leuk_ray.workflows.fixed_rules import fix_rules
from tests.support.serving_bundles import plain_manifest
from tests.unit.bundles.test_model_card import card
from tests.unit.evaluation.test_report import CONTEXT, pictures, report

PBC = ClassSet(
    ("basophil", "eosinophil", "erythroblast", "ig", "lymphocyte", "monocyte", "neutrophil", "<b>")
)
ROLES = ("test", "validation")


def predictions(
    classes: ClassSet, num_cells: int = 400, groups: int = 20, missing: tuple[int, ...] = ()
) -> pa.Table:
    """Scores of which most are right; neighbouring classes are confused most."""
    generator, parts, num_classes = np.random.default_rng(0), [], len(classes)
    near = 2.5 * np.exp(-np.abs(np.subtract.outer(*[np.arange(num_classes)] * 2)))
    for role in ROLES:
        label = generator.integers(0, num_classes, num_cells)
        label = np.where(np.isin(label, missing), (label + 1) % num_classes, label)
        group = generator.integers(0, groups, num_cells)
        effect = 0.4 * generator.standard_normal((groups, num_classes))
        scores = near[label] + effect[group] + generator.standard_normal((num_cells, num_classes))
        logits = scores[:, 1:] - scores[:, :1]
        logit = probability = pa.nulls(num_cells, pa.float64())
        if classes.positive:
            logit = pa.array(binary_log_odds(logits, classes))
            probability = pa.array(binary_probability(logits, 1.0, classes))
        parts.append(
            pa.table(
                {
                    "uid": [f"{role}_{number}" for number in range(num_cells)],
                    "subject": [f"{role}-P{number}" for number in group.tolist()],
                    "group": [f"{role}-G{number}" for number in group.tolist()],
                    "role": [role] * num_cells,
                    "label": pa.array(label, pa.int8()),
                    "logit": logit,
                    "probability": probability,
                    "class_logits": pa.array(list(logits), pa.list_(pa.float64())),
                }
            )
        )
    return pa.concat_tables(parts)


def sets_of(*limits: float) -> Conformal:
    """Prediction sets with these limits on the log-odds of the classes."""
    own = [
        ClassLimit(patients=9, cells=9, log_odds=limit, pooled=limit, attainable=0.9, share=0.9)
        for limit in limits
    ]
    return Conformal(coverage=0.9, limits=tuple(own))


def context(classes: ClassSet, **changed: Any) -> ReportContext:
    roles = {
        role: {"cells": 400, "subjects": 20, "without_subject": 0, "groups": 20}
        | {"classes": dict.fromkeys(classes.names, 50)}
        for role in ("train", *ROLES)
    }
    return ReportContext(**(CONTEXT | {"classes": classes, "roles": roles} | changed))


def words_of(page: str) -> str:
    """The page down to its settings, without pictures and colours."""
    body = page.partition("</style>")[2].partition('<h2 id="settings">')[0]
    return re.sub(r'base64,[^"]+|class="(ALL|healthy)"', "", body)


def test_eight_classes_are_counted_by_class_without_a_binary_view(tmp_path: Path) -> None:
    table = predictions(PBC)
    content, page = report(
        tmp_path / "report",
        table,
        run=context(PBC),
        images=pictures,
        rules=DecisionRules(min_confidence=0.4),
    )
    tested = content["classes"]["test"]
    right = tested["accuracy"]["numerator"]
    test = table.slice(0, 400)
    stated = class_probabilities(np.asarray(test["class_logits"].to_pylist()), 1.0)
    assert right == (stated.argmax(axis=1) == test["label"].to_numpy()).sum()
    assert np.sum(tested["confusion"]) == 400
    assert content["metrics"] == {"test": None, "validation": None}
    assert (content["intervals"], content["subjects"], content["decided"]) == ({}, [], None)
    assert content["sentence"].startswith(f"{right} of 400 test cells from 20 subjects in 20 gr")
    assert "balanced accuracy 0." in content["sentence"]
    assert " over 8 classes; 95% interval 0." in content["sentence"]
    for name in ("accuracy", "balanced_accuracy", "macro_f1", "kappa"):
        interval = content["class_intervals"][name]
        assert interval["low"] < tested[name]["value"] < interval["high"]
    assert set(content["figures"]) == {"confusion", "calibration", "training", "errors"}
    for absent in ("ALL", "healthy", "Binary view", "Operating points", "blast fraction"):
        assert absent not in words_of(page)
    assert "erythroblast" in page
    assert "&lt;b&gt;" in page


def test_what_is_confused_most_is_shown_with_its_surest_cells(tmp_path: Path) -> None:
    content, page = report(tmp_path / "report", predictions(PBC), run=context(PBC), images=pictures)
    counts = np.asarray(content["classes"]["test"]["confusion"])
    np.fill_diagonal(counts, 0)
    pairs = content["worst_confusions"]
    assert pairs[0]["cells"] == counts.max()
    assert [pair["cells"] for pair in pairs] == sorted(counts.ravel().tolist())[
        : -len(pairs) - 1 : -1
    ]
    for row in content["worst_errors"]:
        assert row["truth_probability"] < row["probability"]
        assert row["uid"] in page
    assert [row["label"] for row in content["worst_errors"][:2]] == [pairs[0]["label"]] * 2
    stated = [row["probability"] for row in content["worst_errors"][:2]]
    assert stated == sorted(stated, reverse=True)


def test_limits_of_confidence_are_fixed_on_validation(tmp_path: Path) -> None:
    table = predictions(PBC)
    content, _ = report(
        tmp_path / "report", table, run=context(PBC), rules=DecisionRules(min_confidence=0.4)
    )
    bands = content["confidence"]
    assert [band["share"] for band in bands] == [None, 0.05, 0.1, 0.2]
    stated = class_probabilities(np.asarray(table["class_logits"].to_pylist()), 1.0).max(axis=1)
    for band in bands[1:]:
        left = (stated[400:] < band["min_confidence"]).mean()
        assert left == pytest.approx(band["share"], abs=0.003)
    for band in bands:
        assert band["answered"]["numerator"] == (stated[:400] >= band["min_confidence"]).sum()
    assert bands[0]["min_confidence"] == 0.4
    shares = [band["accuracy"]["value"] for band in bands[1:]]
    assert shares[0] > content["classes"]["test"]["accuracy"]["value"]
    assert shares[-1] > shares[0]


def test_positive_classes_have_their_binary_view_beside_the_classes(tmp_path: Path) -> None:
    classes = replace(PBC, positive=("erythroblast", "ig"))
    content, page = report(tmp_path / "report", predictions(classes), run=context(classes))
    label = predictions(classes).slice(0, 400)["label"].to_numpy()
    counts = content["metrics"]["test"]["confusion"]
    assert counts["tp"] + counts["fn"] == np.isin(label, (2, 3)).sum()
    assert content["intervals"]["auc"]["low"] < content["metrics"]["test"]["auc"]["value"]
    assert content["intervals"]["auc"]["groups_positive"] is None
    assert len(content["subjects"]) == 20
    assert content["decided"]["points"]
    assert content["decided"]["bands"] == []
    assert content["threshold"] == 0.5
    assert "Binary view: erythroblast or ig against other classes" in page
    assert "Subjects, binary view: erythroblast or ig against other classes" in page
    assert f"{counts['tp']} of {counts['tp'] + counts['fn']} erythroblast or ig" in page
    assert {"roc", "precision_recall", "subjects"} <= set(content["figures"])


def test_calibration_fixes_operating_points_of_positive_classes(tmp_path: Path) -> None:
    classes = ClassSet(("a", "b", "c", "d"), ("c", "d"))
    table, bundle = predictions(classes), plain_manifest(classes=classes.names, positive=("c", "d"))
    held_out = table.filter(pc.field("role") == "validation")
    rules = fix_rules(held_out, classes, bundle, 1.5, 0.05, None)
    assert rules.decisions is not None
    assert (rules.decisions.blast_fraction, rules.decisions.bands) == (None, ())
    tested = table.filter(pc.field("role") == "test")
    content, page = report(tmp_path / "report", tested, rules=rules, run=context(classes))
    points = content["decided"]["points"]
    assert [(point["held"], point["target"]) for point in points] == [
        ("specificity", 0.9), ("specificity", 0.95), ("sensitivity", 0.9), ("sensitivity", 0.95)
    ]  # fmt: skip
    positive = classes.is_positive[tested["label"].to_numpy()]
    called = tested["logit"].to_numpy() >= points[2]["log_odds"]
    assert points[2]["sensitivity"]["numerator"] == (called & positive).sum()
    assert points[2]["sensitivity"]["denominator"] == positive.sum()
    assert "leuk-ray calibrate made" not in page
    assert rules.decisions.basis(classes.binary_names).startswith("400 cells (")


def test_a_class_without_test_cells_is_not_part_of_the_means(tmp_path: Path) -> None:
    content, page = report(
        tmp_path / "report", predictions(PBC, missing=(3,)), run=context(PBC, leaky=None)
    )
    assert content["classes"]["test"]["balanced_accuracy"]["classes"] == 7
    assert "over the 7 of 8 classes that occur" in content["sentence"]
    assert content["classes"]["test"]["per_class"][PBC.names[3]]["auc"]["value"] is None
    assert content["sentence"].startswith("PATIENT OVERLAP UNKNOWN: ")
    assert f"No test cell is of the class {PBC.names[3]}: recall and area" in page


def test_each_subject_has_its_differential_beside_the_true_one(tmp_path: Path) -> None:
    table = predictions(PBC)
    content, page = report(
        tmp_path / "report", table, run=context(PBC), rules=DecisionRules(min_confidence=0.4)
    )
    assert content["threshold"] is None  # no class is positive
    tested = table.slice(0, 400)
    label = tested["label"].to_numpy()
    called = class_probabilities(class_logits_of(tested), 1.0).argmax(axis=1)
    subject = np.asarray(tested["subject"].to_pylist())
    known = {one["subject"]: one for one in content["differentials"]}
    assert set(known) == set(subject)
    assert len(known) == 20
    assert list(known) == sorted(known, key=natural)
    for name, one in known.items():
        own = subject == name
        assert one["cells"] == one["answered"] == own.sum()
        expected = differential([PBC.names[k] for k in called[own]], PBC.names)
        for number, (row, share) in enumerate(zip(one["classes"], expected, strict=True)):
            assert {key: row[key] for key in asdict(share)} == asdict(share)
            assert row["true_share"] == (label[own] == number).mean()
    for number, row in enumerate(content["share_errors"]):
        pairs = [(o["classes"][number]["share"], o["classes"][number]["true_share"])
                 for o in known.values()]  # fmt: skip
        assert row["mean_error"] == pytest.approx(np.mean([abs(a - b) for a, b in pairs]))
        assert 0 < row["held"] <= 20
    assert "Subjects: differential" in page
    assert "binary view" not in page.lower()
    limits = {item["id"]: item["value"] for item in content["checklist"]}["STARD 15"]
    assert limits.startswith(
        "no answer where the most probable class is less probable than a limit"
    )
    assert "(0.400, " in limits
    kept = results_of(Report.read(tmp_path / "report"))
    assert kept["threshold"] is None
    text = card(classes=PBC, test=kept)
    assert "at temperature 1." in text
    assert "balanced accuracy" in text.lower()


def test_unanswered_cells_are_in_no_called_share(tmp_path: Path) -> None:
    table = predictions(PBC)
    reasons = [["low_confidence"] if n % 3 == 0 else [] for n in range(len(table))]
    table = table.append_column("reasons", pa.array(reasons, pa.list_(pa.string())))
    rules = DecisionRules(conformal=sets_of(*[-1.0] * 8))
    calibrated = table.filter(pc.field("role") == "test")
    site = [None if n < 20 else f"hospital {n % 3}" for n in range(400)]
    calibrated = calibrated.append_column("site", pa.array(site, pa.string()))
    sex = pa.array(["f" if n < 150 else "m" for n in range(400)])
    calibrated = calibrated.append_column("kept.sex", sex)
    content, page = report(tmp_path / "report", calibrated, rules=rules, run=context(PBC))
    subjects = content["differentials"]
    assert sum(one["cells"] for one in subjects) == 400
    assert sum(one["answered"] for one in subjects) == 400 - 134
    # A calibrated bundle is not told to be calibrated, and its headline says what it answers.
    assert "leuk-ray calibrate made" not in page
    deployed = content["deployed"]
    assert deployed["answered"]["numerator"] == np.sum(deployed["confusion"]) == 266
    right = int(np.trace(deployed["confusion"]))
    assert right == deployed["accuracy"]["numerator"]
    answered = f"As deployed the bundle answers for 266 of them (66.50%), {right} correctly"
    assert answered in content["sentence"]
    assert "Of the 266 answered ones alone" in page
    assert [(row["column"], row["value"]) for row in content["slices"]] == [
        ("site", None), ("site", "hospital 0"), ("site", "hospital 1"), ("site", "hospital 2"),
        ("sex", "f"), ("sex", "m"),
    ]  # fmt: skip
    assert [row["cells"] for row in content["slices"][4:]] == [150, 250]
    correct = content["classes"]["test"]["accuracy"]["numerator"]
    for column, count in (("site", 400), ("sex", 400)):
        rows = [row for row in content["slices"] if row["column"] == column]
        assert sum(row["cells"] for row in rows) == count
        assert sum(row["accuracy"]["numerator"] for row in rows) == correct
    assert all(row["interval"]["low"] is not None for row in content["slices"][1:])
    assert "Test cells by columns of the dataset" in page


def test_two_classes_by_other_names_are_called_by_them(tmp_path: Path) -> None:
    classes = ClassSet(("monocyte", "blast <5%"), ("blast <5%",))
    table = predictions(classes, num_cells=200)
    content, page = report(tmp_path / "report", table, run=context(classes), images=pictures)
    words = words_of(page)
    for old in ("ALL", "healthy"):
        assert old not in words
    assert "blast &lt;5%" in words
    assert " monocyte" in content["sentence"]
    assert content["classes"]["test"]["accuracy"] == content["metrics"]["test"]["accuracy"]


def test_one_hundred_classes_one_cell_and_none_have_a_report() -> None:
    names = tuple(f"cell type {number}" for number in range(100))
    classes = ClassSet(names, names[:1], ordered=True)
    table = predictions(classes)

    def of(rows: pa.Table) -> Report:
        by_role = {role: rows.filter(pc.field("role") == role) for role in ROLES}
        return _report(context(classes), by_role, DecisionRules(min_confidence=0.1), [], None)

    many = of(table).tested_classes
    assert many is not None
    assert (many["cells"], many["balanced_accuracy"]["classes"]) == (400, 100)
    one = of(table.slice(0, 1))
    assert one.tested_classes is not None
    assert one.tested_classes["balanced_accuracy"]["value"] is None
    assert "1 of 100 classes occurs" in one.sentence
    none = of(table.slice(0, 0))
    assert none.sentence == "No test cells were scored, so there is no result."


def test_predictions_without_class_logits_are_refused(tmp_path: Path) -> None:
    table = predictions(PBC).drop_columns(["class_logits"])
    with pytest.raises(ValueError, match="lack the columns class_logits"):
        report(tmp_path / "report", table, run=context(PBC))
