import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from leuk_ray.evaluation.decisions import Decisions
from leuk_ray.evaluation.error_rates import ErrorRates, PatientCounts
from leuk_ray.evaluation.intervals import GroupResamples
from leuk_ray.evaluation.predictive import predictive_values
from leuk_ray.evaluation.report import _report, write_report
from leuk_ray.evaluation.report_model import Report, ReportContext
from leuk_ray.evaluation.rules import DecisionRules
from leuk_ray.utils.errors import DataError, UserError

PNG = b"\x89PNG"
CONTEXT: dict[str, Any] = {
    "title": "A run",
    "recipe": "lite",
    "protocol": "subject-disjoint",
    "leaky": False,
    "leakage": "not leaky: No subject of the test cells stands in training.",
    "synthetic": False,
    "dataset_fingerprint": "0123456789abcdef" * 4,
    "dataset_counts": {"cells": 12345, "rejected": 2},
    "config": {"optimizer": {"name": "adamax", "lr": 0.001}, "augment": None},
    "environment": {"torch": "2.14.1", "where": Path("data")},
    "stopping": {"epochs": 3, "best_epoch": 2, "reason": "no improvement"},
    "notes": ["The threshold comes from validation."],
}
HISTORY: list[dict[str, Any]] = [
    {"epoch": 1, "train_loss": 0.7, "validation_loss": float("nan"), "lr": 0.001},
    {"epoch": 2, "train_loss": 0.5, "validation_loss": 0.6, "validation_auc": 0.8, "lr": 0.001},
    {"epoch": 3, "train_loss": 0.4, "validation_loss": 0.6, "validation_accuracy": 0.7},
]


def predictions(
    num_all: int = 6, num_healthy: int = 7, cells: int = 12, roles: tuple[str, ...] = ("test",)
) -> pa.Table:
    """Plausible scores: subjects differ, and some cells are called wrong."""
    generator = np.random.default_rng(0)
    rows = []
    for role in roles:
        for number in range(num_all + num_healthy):
            label = int(number < num_all)
            name = f"{role}-{number}" if label else f"{role}-H{number}"
            logits = (
                2.5 * label - 1.25 + generator.standard_normal() + generator.standard_normal(cells)
            )
            for index, logit in enumerate(logits.tolist()):
                row = {"uid": f"{name}_{index}", "subject": name, "group": f"g{name}", "role": role}
                probability = 1 / (1 + np.exp(-logit))
                rows.append({**row, "label": label, "logit": logit, "probability": probability})
    schema = pa.schema(
        [(name, pa.string()) for name in ("uid", "subject", "group", "role")]
        + [("label", pa.int8()), ("logit", pa.float64()), ("probability", pa.float64())]
    )
    return pa.Table.from_pylist(rows, schema=schema)


def pictures(uids: list[str]) -> list[np.ndarray]:
    return [np.full((16, 16, 3), 90, dtype=np.uint8) for _ in uids]


def report(directory: Path, table: pa.Table, **changed: Any) -> tuple[dict[str, Any], str]:
    """Write a report and read back its content and its page."""
    inputs = {
        "history": HISTORY,
        "rules": DecisionRules(),
        "images": None,
        "audit": None,
        **changed,
    }
    run = inputs.pop("run", ReportContext(**CONTEXT))
    report = write_report(directory, run=run, predictions=table, **inputs)
    assert Report.read(directory) == report
    content = report.model_dump(mode="json")
    text = (directory / "report.json").read_text()
    assert not re.search(r"\b(NaN|Infinity)\b", text)
    assert json.loads(text) == content
    for path in content["figures"].values():
        assert (directory / path).read_bytes().startswith(PNG)
    return content, (directory / "report.html").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], str]:
    table = predictions(10, 11, roles=("test", "validation", "train"))
    roles = {
        "test": {
            "cells": 252,
            "subjects": 21,
            "groups": 21,
            "classes": {"healthy": 132, "ALL": 120},
        }
    }
    roles["test"]["without_subject"] = 0
    return report(
        tmp_path_factory.mktemp("full") / "report",
        table,
        run=ReportContext(**{**CONTEXT, "roles": roles}),
        images=pictures,
        audit={
            "duplicates": {"pairs": 104},
            "baseline": float("nan"),
            "joined": [["20", "71"]],
            "warnings": ["image resolution alone tells ALL from healthy"],
        },
    )


def test_report_tells_the_result_in_counts(full: tuple[dict[str, Any], str]) -> None:
    content, page = full
    counts = content["metrics"]["test"]["confusion"]
    right, missed = counts["tp"] + counts["tn"], counts["fn"]
    assert (
        f"{right} of 252 test cells from 21 subjects in 21 groups are classified correctly" in page
    )
    assert f"{missed} of 120 ALL cells missed" in page
    interval = content["intervals"]["auc"]
    assert interval["low"] < content["metrics"]["test"]["auc"]["value"] < interval["high"]
    assert f"95% interval {interval['low']:.3f} to {interval['high']:.3f}" in page
    assert len(content["subjects"]) == 21
    assert content["metrics"]["validation"]["cells"] == 252


def test_blast_percentages_stand_beside_the_true_ones(tmp_path: Path) -> None:
    table = predictions(3, 3).append_column("reasons", pa.array([[]] * 72, pa.list_(pa.string())))
    table = table.append_column("source_image", pa.nulls(72, pa.string()))
    rates = ErrorRates(
        positive=(PatientCounts(cells=40, answered=40, called=36),) * 10,
        other=(PatientCounts(cells=40, answered=40, called=4),) * 12,
    )
    content, page = report(tmp_path / "with", table, rules=DecisionRules(error_rates=rates))
    found = content["blast_percentages"]
    assert found["patients"] == [10, 12]
    assert (found["estimated"], len(found["subjects"])) == (6, 6)
    assert {row["true"] for row in found["subjects"]} == {0, 100}
    assert found["held"] == sum(r["low"] <= r["true"] <= r["high"] for r in found["subjects"])
    assert "the blasts of 10 calibration patients and on the other cells of 12" in page
    few = rates.model_copy(update={"other": rates.other[:3]})
    content, page = report(tmp_path / "without", table, rules=DecisionRules(error_rates=few))
    assert content["blast_percentages"] is None
    assert "Blast percentage" not in page


def test_fields_and_cells_are_told_apart_and_together(tmp_path: Path) -> None:
    table = predictions(10, 11)
    is_field = np.arange(len(table)) % 3 == 0
    sources = np.where(is_field, "all-idb1", "all-idb2")
    told = table.append_column("source", pa.array(sources.tolist()))
    content, page = report(tmp_path / "both", told)
    fields, cells = content["by_source"]
    assert fields["title"] == "all-idb1 (fields of view)"
    assert (cells["source"], cells["title"]) == ("all-idb2", "all-idb2")
    label, called = table["label"].to_numpy() == 1, table["probability"].to_numpy() >= 0.5
    whole = content["metrics"]["test"]["confusion"]
    for part, own in ((fields, is_field), (cells, ~is_field)):
        counts = part["metrics"]["confusion"]
        assert counts["tp"] == (label & called & own).sum()
        assert counts["fn"] == (label & ~called & own).sum()
        interval, area = part["intervals"]["auc"], part["metrics"]["auc"]["value"]
        assert interval["low"] < area < interval["high"]
    for name, number in whole.items():
        parts = [part["metrics"]["confusion"][name] for part in (fields, cells)]
        assert sum(parts) == number
    assert f"By source: all-idb1 (fields of view) {(label == called)[is_field].sum()} of 84" in page
    assert "Test cells by source" in page
    alone, page = report(tmp_path / "one", told.filter(pa.array(is_field)))
    assert alone["by_source"] == []
    assert "by source" not in page.lower()


def test_page_stands_alone(full: tuple[dict[str, Any], str]) -> None:
    content, page = full
    assert "<script" not in page
    assert "http://" not in page
    assert "https://" not in page
    assert page.count('src="data:image/png;base64,') == len(content["figures"]) == 7
    assert not re.search(r'(src|href)="(?!data:|#)', page)
    targets = re.findall(r'href="#(\w+)"', page)
    assert targets == re.findall(r'<h2 id="(\w+)"', page)


def test_page_holds_what_the_run_is(full: tuple[dict[str, Any], str]) -> None:
    content, page = full
    for text in ("12,345", "optimizer.lr", "adamax", "0.001", "2.14.1", "no improvement"):
        assert text in page
    for text in ("The threshold comes from validation.", "duplicates: pairs", "20, 71"):
        assert text in page
    assert "research use only" in page
    assert content["audit"]["baseline"] is None
    assert content["history"][0]["validation_loss"] is None


def test_decisions_are_fixed_on_validation_and_counted_on_test(
    full: tuple[dict[str, Any], str],
) -> None:
    content, page = full
    decided = content["decided"]
    assert decided["fixed_on"]["cells"] == 252
    assert [point["held"] for point in decided["points"]] == ["specificity"] * 2 + [
        "sensitivity"
    ] * 2
    first = decided["points"][0]
    assert first["sensitivity"]["denominator"] == 120
    assert first["specificity"]["denominator"] == 132
    assert f"{first['sensitivity']['numerator']} of 120" in page
    called = decided["subjects"]
    assert called["accuracy"]["denominator"] + called["not_called"] == 21
    assert f"{called['not_called']} subjects not called" in page
    assert called["accuracy"]["low"] < called["accuracy"]["value"]
    assert [band["share"] for band in decided["bands"]] == [0.05, 0.1, 0.2]
    assert decided["bands"][2]["answered"]["denominator"] == 252
    shares = [row["correct"] / row["cells"] for row in content["worst_subjects"]]
    assert shares == sorted(shares)
    assert len(shares) == 5
    assert content["refitted"]["cells"] == 252
    assert content["intervals"]["brier"]["low"] < content["metrics"]["test"]["brier"]["value"]


def test_without_validation_cells_nothing_is_decided_unless_the_bundle_has(tmp_path: Path) -> None:
    content, page = report(tmp_path / "none", predictions())
    assert content["decided"] is None
    assert content["refitted"] is None
    assert page.count("Not available: no held-out validation cells") == 2
    point = {"held": "specificity", "target": 0.9, "log_odds": 0.25}
    counts = {"cells": 40, "num_all": 20, "num_healthy": 20, "num_subjects": 4}
    fixed = Decisions.model_validate(
        {"source": "cells elsewhere", "points": [point], "blast_fraction": 0.4, **counts}
    )
    table = predictions()
    content, page = report(tmp_path / "given", table, rules=DecisionRules(decisions=fixed))
    called = (table["logit"].to_numpy() >= 0.25) & (table["label"].to_numpy() == 1)
    assert content["decided"]["points"][0]["sensitivity"]["numerator"] == called.sum()
    assert "Thresholds fixed on cells elsewhere: 20 ALL and 20 healthy cells" in page


def test_predictive_values_are_stated_at_prevalences(full: tuple[dict[str, Any], str]) -> None:
    content, page = full
    counts = content["metrics"]["test"]["confusion"]
    sensitivity = counts["tp"] / (counts["tp"] + counts["fn"])
    specificity = counts["tn"] / (counts["tn"] + counts["fp"])
    assert [row["prevalence"] for row in content["predictive_values"]] == [0.05, 0.2, 0.5]
    for row in content["predictive_values"]:
        share = row["prevalence"]
        hit, alarm = sensitivity * share, (1 - specificity) * (1 - share)
        assert row["ppv"] == pytest.approx(hit / (hit + alarm))
        cleared, missed = specificity * (1 - share), (1 - sensitivity) * share
        assert row["npv"] == pytest.approx(cleared / (cleared + missed))
        assert row["ppv_interval"]["low"] < row["ppv"] < row["ppv_interval"]["high"]
    # At the test set's own share the positive predictive value is precision.
    label = np.repeat([1, 1, 0, 0], [8, 4, 2, 10])
    called = np.repeat([True, False, True, False], [8, 4, 2, 10])
    resampled = GroupResamples.sample(label, np.arange(24), seed=0)
    (_, _, even) = predictive_values(label, called, resampled)
    assert (even["ppv"], even["npv"]) == pytest.approx((8 / 10, 10 / 14))
    assert "Predictive values, were this share of all cells ALL" in page


def test_published_results_stand_beside_the_official_test_set_only(tmp_path: Path) -> None:
    context = {**CONTEXT, "protocol": "official-folds", "test_set": "c-nmc-preliminary"}
    content, page = report(tmp_path / "official", predictions(), run=ReportContext(**context))
    assert content["published"]["rows"][0]["preliminary"] == 92.5
    assert "Prellberg and Kramer" in page
    content, page = report(tmp_path / "own", predictions())
    assert content["published"] is None
    assert "Prellberg" not in page


def test_the_checklist_lies_beside_the_report(full: tuple[dict[str, Any], str]) -> None:
    content, page = full
    values = {item["about"]: item["value"] for item in content["checklist"]}
    assert values["cross table"].startswith(str(content["metrics"]["test"]["confusion"]["tp"]))
    assert values["age, sex, severity of disease"] == "not available"
    assert values["level at which the parts are disjoint"] == "not available"  # no unit is given
    assert values["limitations"].endswith("image resolution alone tells ALL from healthy")
    assert page.count("<td>not available</td>") >= 10


def test_worst_errors_are_the_most_confident_wrong_ones(full: tuple[dict[str, Any], str]) -> None:
    content, _ = full
    errors = content["worst_errors"]
    assert 0 < len(errors) <= 12
    wrongness = [row["logit"] if row["label"] == "healthy" else -row["logit"] for row in errors]
    assert wrongness == sorted(wrongness, reverse=True)
    assert min(wrongness) > 0


@pytest.mark.parametrize("leaky", [True, False, None])
@pytest.mark.parametrize("synthetic", [True, False])
def test_leaky_and_synthetic_are_said_when_so(
    tmp_path: Path, leaky: bool | None, synthetic: bool
) -> None:
    label = {True: "LEAKY", None: "PATIENT OVERLAP UNKNOWN", False: ""}[leaky]
    context = {**CONTEXT, "leaky": leaky, "synthetic": synthetic, "leakage": f"{label}: Because."}
    context["best_auc"] = 0.91 if synthetic else None
    content, page = report(tmp_path / "report", predictions(), run=ReportContext(**context))
    for word in ("LEAKY", "PATIENT OVERLAP UNKNOWN"):
        assert (word in page) == (word == label)
        assert content["sentence"].startswith(word) == (word == label)
    assert content["run"]["leaky"] is leaky
    assert ("Because." in page) == bool(label)
    assert ("synthetic" in page.lower()) == synthetic
    assert ("0.910" in page) == synthetic


def test_images_of_unknown_patients_get_no_interval(tmp_path: Path) -> None:
    """One group an image: by bootstrap over them the interval would look like that of patients."""
    table = predictions(10, 11)
    table = table.set_column(1, "subject", pa.nulls(table.num_rows, pa.string()))
    table = table.set_column(2, "group", table["uid"])
    content, page = report(tmp_path / "as-patients", table)
    assert content["intervals"]["auc"]["low"] is not None
    why = "no interval: it is not known which cells come from one patient"
    run = ReportContext(**{**CONTEXT, "leaky": None, "no_intervals": why})
    content, page = report(tmp_path / "unknown", table, run=run)
    assert all(interval["low"] is None for interval in content["intervals"].values())
    assert content["metrics"]["test"]["confusion"]["tp"] > 0
    assert "test cells from unknown patients are classified correctly" in page
    assert why in content["sentence"]
    assert "bootstrap" not in page
    values = {item["about"]: item["value"] for item in content["checklist"]}
    assert values["uncertainty"] == why


def test_few_groups_are_said_in_the_sentence(tmp_path: Path) -> None:
    content, _ = report(tmp_path / "report", predictions(6, 7))
    assert "(6 ALL + 7 healthy groups are few)." in content["sentence"]


def test_names_are_escaped(tmp_path: Path) -> None:
    table = predictions()
    names = [
        "<b>x</b>" if index < 12 else name
        for index, name in enumerate(table["subject"].to_pylist())
    ]
    uids = [f"<i>$uid_{index}$</i>" for index in range(table.num_rows)]
    table = table.set_column(1, "subject", pa.array(names)).set_column(0, "uid", pa.array(uids))
    run = ReportContext(**{**CONTEXT, "title": "<script>x</script>", "config": {"<u>": "</td>"}})
    content, page = report(tmp_path / "report", table, run=run, images=pictures)
    assert content["subjects"][0]["subject"] == "<b>x</b>"
    assert "&lt;b&gt;x&lt;/b&gt;" in page
    for raw in ("<b>x</b>", "<i>", "<script", "<u>"):
        assert raw not in page


def test_no_images_means_no_cell_picture(tmp_path: Path) -> None:
    shown, _ = report(tmp_path / "shown", predictions(), images=pictures)
    content, page = report(tmp_path / "hidden", predictions(), images=None)
    assert shown["figures"].keys() - content["figures"].keys() == {"errors"}
    assert page.count("<img") == len(content["figures"])
    assert not (tmp_path / "hidden/figures/errors.png").exists()
    assert content["worst_errors"] == shown["worst_errors"]


def test_one_class_alone_is_judged_without_ranking(tmp_path: Path) -> None:
    content, page = report(tmp_path / "report", predictions(num_healthy=0))
    assert content["metrics"]["test"]["auc"]["value"] is None
    assert "roc" not in content["figures"]
    assert "All 72 test cells are of one class" in page
    assert "too few subjects for an interval (6 ALL + 0 healthy groups)" in page


def test_a_run_without_test_cells_says_so(tmp_path: Path) -> None:
    table = predictions(roles=("validation",))
    content, page = report(tmp_path / "report", table, history=[])
    assert content["metrics"]["test"] is None
    assert content["figures"] == {}
    assert "No test cells were scored" in page
    assert "156" in page
    _, page = report(tmp_path / "nothing", table.slice(0, 0), history=[])
    assert "No test or validation cells were scored." in page


def test_unknown_subjects_are_counted(tmp_path: Path) -> None:
    table = predictions()
    some = [None if index < 12 else name for index, name in enumerate(table["subject"].to_pylist())]
    content, page = report(tmp_path / "some", table.set_column(1, "subject", pa.array(some)))
    assert "12 of 156 test cells carry no subject" in page
    assert len(content["subjects"]) == 12
    unknown = table.set_column(1, "subject", pa.nulls(table.num_rows, pa.string()))
    _, page = report(tmp_path / "none", unknown)
    assert "from 13 groups are classified correctly" in page
    assert "No test cell carries a subject." in page


@given(
    st.lists(
        st.tuples(
            st.sampled_from([None, "1", "2", "H1", "H2"]),
            st.integers(0, 1),
            st.floats(0.01, 0.99),
            st.sampled_from(["test", "validation", "train"]),
        ),
        min_size=1,
        max_size=30,
    ),
    st.sampled_from([None, (0.4, 0.6)]),
)
@settings(max_examples=60, deadline=None)
def test_counts_of_a_report_add_up(rows: list, band: tuple[float, float] | None) -> None:
    subject, label, probability, role = (list(column) for column in zip(*rows, strict=True))
    table = pa.table(
        {
            "uid": [f"c{n}" for n in range(len(rows))],
            "subject": pa.array(subject, pa.string()),
            "group": [name or f"uid:c{n}" for n, name in enumerate(subject)],
            "role": role,
            "label": pa.array(label, pa.int8()),
            "logit": pa.array(np.log(probability) - np.log1p(-np.asarray(probability))),
            "probability": probability,
        }
    )
    by_role = {name: table.filter(pc.field("role") == name) for name in ("test", "validation")}
    report = _report(ReportContext(**CONTEXT), by_role, DecisionRules(abstain_band=band), [], None)
    content = report.model_dump(mode="json")
    for name, scored in content["scored"].items():
        assert scored["rows"] == role.count(name) == scored["cells"]
        if scored["rows"]:
            found = content["metrics"][name]
            assert sum(found["confusion"].values()) == scored["rows"]
            assert sum(one["support"] for one in found["per_class"].values()) == scored["rows"]
    scored, subjects = content["scored"]["test"], content["subjects"]
    assert len(subjects) == scored["subjects"]
    nameless = scored["rows_without_subject"]
    assert sum(row["cells"] for row in subjects) + nameless == scored["rows"]
    for row in subjects:
        assert row["called_all"] <= row["answered"] <= row["cells"]
        assert row["correct"] <= row["answered"]
        assert (row["blast_fraction"] is None) == (row["answered"] == 0)
    if decided := content["decided"]:
        fixed = decided["fixed_on"]
        assert fixed["num_all"] + fixed["num_healthy"] == fixed["cells"] == role.count("validation")
        if called := decided["subjects"]:
            left_out = called["mixed"] + called["unanswered"] + called["not_called"]
            assert called["accuracy"]["denominator"] + left_out == len(subjects)
            both = called["sensitivity"]["denominator"] + called["specificity"]["denominator"]
            assert both == called["accuracy"]["denominator"]


def test_copies_are_told_from_cells(tmp_path: Path) -> None:
    table = predictions()
    content, page = report(tmp_path / "report", pa.concat_tables([table, table]))
    assert "The 312 scored rows of test are copies of 156 cells." in page
    uids = [row["uid"] for row in content["worst_errors"]]
    assert len(set(uids)) == len(uids)


def test_no_error_is_never_rounded_away(tmp_path: Path) -> None:
    table = predictions(2, 2, cells=20_000)
    label = table["label"].to_numpy()
    probability = np.where(label == 1, 0.9, 0.1)
    probability[0] = 0.4
    table = table.set_column(6, "probability", pa.array(probability))
    content, _ = report(tmp_path / "report", table, history=[])
    assert "79,999 of 80,000 test cells" in content["sentence"]
    assert "(>99.99%)" in content["sentence"]


def test_a_report_is_never_overwritten_or_half_written(tmp_path: Path) -> None:
    target = tmp_path / "report"
    with pytest.raises(ValueError, match="lack the columns"):
        report(target, predictions().drop_columns(["logit"]))
    assert list(tmp_path.iterdir()) == []
    report(target, predictions())
    with pytest.raises(UserError, match="exists already"):
        report(target, predictions())
    assert [path.name for path in tmp_path.iterdir()] == ["report"]


def test_a_report_of_another_version_is_refused_in_one_line(tmp_path: Path) -> None:
    folder = tmp_path / "report"
    report(folder, predictions())
    file = folder / "report.json"
    content = json.loads(file.read_text())
    for changes, advice in (
        ({"schema_version": 1}, "by an older leuk_ray; run `leuk-ray evaluate` again"),
        ({"schema_version": None}, "by an older leuk_ray; run `leuk-ray evaluate` again"),
        ({"schema_version": 3}, "schema_version 3 is newer than 2; update leuk_ray"),
        ({"threshold": "high"}, r"is damaged \(threshold.*; run `leuk-ray evaluate` again"),
        ({"intervals": {"auc": {"low": 0.1}}}, r"is damaged \(intervals.auc.high"),
    ):
        file.write_text(json.dumps(content | changes))
        with pytest.raises(DataError, match=advice) as refused:
            Report.read(folder)
        assert str(file) in str(refused.value)
        assert "\n" not in str(refused.value)
    file.write_text("[]")
    with pytest.raises(DataError, match="by an older leuk_ray"):
        Report.read(folder)
    file.unlink()
    with pytest.raises(DataError, match="is missing; run `leuk-ray evaluate` again"):
        Report.read(folder)
