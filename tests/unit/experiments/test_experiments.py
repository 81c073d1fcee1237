"""The papers as data: every row there, every network planned, every figure as reported."""

import re
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest

from leuk_ray.datasets.splits import SplitSettings
from leuk_ray.evaluation.metrics import evaluate
from leuk_ray.experiments import check
from leuk_ray.experiments.check import check_networks
from leuk_ray.experiments.plan import RunKey, make_plan
from leuk_ray.experiments.results import (
    Outcome,
    evaluate_predictions,
    intervals_over_patients,
    pool_folds,
)
from leuk_ray.experiments.settings import ScaleName, experiment_names, load_experiment
from leuk_ray.experiments.table_cells import cell, reported
from leuk_ray.experiments.tables import fill_table, leaks, summary
from leuk_ray.utils.errors import UserError

CELLS = pa.table(
    {
        "uid": [f"c{n:02}" for n in range(40)],
        "label": pa.array([n % 3 // 2 for n in range(40)], pa.int8()),
        "status": ["keep"] * 40,
        "official_split": pa.array([None] * 40, pa.string()),
        "source": ["all-idb1"] * 10 + ["all-idb2"] * 30,
        "group": [f"g{n}" for n in range(40)],
    }
)
SCALES: tuple[ScaleName, ...] = ("paper", "small", "tiny")


def plan(name: str, scale: ScaleName, **options):
    experiment = load_experiment(name)
    return make_plan(
        experiment, experiment.scales[scale], CELLS, options.pop("values", {}), **options
    )


def outcome(tp: int, fn: int, fp: int, tn: int, costs: dict | None = None) -> Outcome:
    label = np.repeat([1, 1, 0, 0], [tp, fn, fp, tn])
    probability = np.repeat([0.9, 0.2, 0.8, 0.1], [tp, fn, fp, tn])
    roles = {role: {"classes": {"ALL": tp + fn, "healthy": fp + tn}} for role in ("train", "test")}
    return Outcome(evaluate(label, probability, 0.5), {}, roles, costs or {}, "all 2 epochs done")


def repeats_on(patients: list[list[int]]) -> dict[int, Outcome]:
    """A repeat a list of patients, twenty cells each, odd ones ALL; scores differ by patient."""
    out = {}
    for number, tested in enumerate(patients, 1):
        noise = np.random.default_rng(number)
        effect = {name: np.random.default_rng([7, name]).normal() for name in tested}
        group = np.repeat(tested, 20)
        label = group % 2
        score = 1.2 * (2 * label - 1) + np.asarray([effect[name] for name in group])
        score = score + 0.3 * noise.normal(size=len(group))
        cells = {
            "uid": [f"{name}-{n % 20}" for n, name in enumerate(group)],
            "group": [str(name) for name in group],
            "label": label,
            "probability": 1 / (1 + np.exp(-score)),
        }
        out[number] = evaluate_predictions(pa.table(cells))
    return out


def test_repeats_on_the_same_patients_have_an_interval_over_patients() -> None:
    """As under official-folds with the preliminary set: one seed or another, the same patients."""
    same = repeats_on([list(range(28))] * 3)
    patients = intervals_over_patients(list(same.values()))
    assert patients is not None
    found = cell("accuracy", None, same, patients=patients)
    assert found["cells"] == found["denominator"] == 560, "each cell counts once"
    assert found["numerator"] == pytest.approx(560 * found["value"])
    alone = same[1].intervals["accuracy"]
    assert alone.low is not None
    assert alone.high is not None
    assert found["high"] - found["low"] == pytest.approx(alone.high - alone.low, rel=0.3)
    over_repeats = cell("accuracy", None, same)
    assert found["value"] == over_repeats["value"]
    assert found["high"] - found["low"] > 3 * (over_repeats["high"] - over_repeats["low"])
    assert "over groups, mean of 3 repeats on the same cells" in found["detail"]
    assert "of 560;" in found["detail"]
    loss = cell("loss", None, same, patients=patients)
    assert loss["low"] < loss["value"] < loss["high"]
    assert cell("precision", "healthy", same, patients=patients)["low"] is None
    resplit = repeats_on([list(range(28)), list(range(14, 42))])
    assert intervals_over_patients(list(resplit.values())) is None
    assert intervals_over_patients([same[1]]) is None


def test_repeats_on_other_patients_are_pooled_as_folds() -> None:
    folds = repeats_on([list(range(0, 14)), list(range(14, 28)), list(range(28, 42))])
    (whole,) = repeats_on([list(range(42))]).values()
    pooled = pool_folds(list(folds.values()))
    assert pooled is not None
    assert pooled.metrics["cells"] == 840
    found = cell("auc", None, folds, pooled=pooled)
    assert found["value"] == pooled.metrics["auc"]["value"] != cell("auc", None, folds)["value"]
    assert "over 840 cells; 95% " in found["detail"]
    assert "over groups of 3 folds; SD " in found["detail"]
    alone = whole.intervals["auc"]
    assert alone.low is not None
    assert alone.high is not None
    assert found["high"] - found["low"] == pytest.approx(alone.high - alone.low, rel=0.3)
    assert cell("loss", None, folds, pooled=pooled)["low"] is not None
    assert cell("weighted_f1", None, folds, pooled=pooled)["detail"].startswith("over 840 cells")
    assert "of 420; 95%" in cell("sensitivity", None, folds, pooled=pooled)["detail"]
    f1 = cell("f1", "healthy", folds, pooled=pooled)
    assert (f1["low"], f1["note"]) == (None, "no interval over groups for this figure")
    shared = repeats_on([list(range(14)), list(range(13, 28))])
    assert pool_folds(list(shared.values())) is None, "a patient is tested twice"
    assert pool_folds([folds[1]]) is None


def test_differences_over_folds_are_paired_over_patients() -> None:
    experiment = load_experiment("bukhari2022")
    table5 = next(table for table in experiment.tables if table.id == "table5")
    ends = [list(range(0, 14)), list(range(14, 28)), list(range(28, 42))]
    better, honest = repeats_on(ends), "slide-group-disjoint"
    found = {}
    for repeat, tested in better.items():
        assert tested.tested is not None
        place = tested.tested.column_names.index("probability")
        half = pa.array(tested.tested["probability"].to_numpy() * 0.6)
        found[RunKey("cnn", "both", honest, repeat)] = evaluate_predictions(
            tested.tested.set_column(place, "probability", half)
        )
        found[RunKey("se", "both", honest, repeat)] = tested
    rows = fill_table(table5, experiment, plan("bukhari2022", "tiny"), found)["rows"]
    (mean,) = [row for row in rows if row["differences"]]
    accuracy, auc = mean["differences"]
    gaps = list(accuracy["differences"].values())
    assert accuracy["mean"] == pytest.approx(sum(gaps) / 3), "folds of equal size"
    assert 0 < accuracy["low"] < accuracy["mean"] < accuracy["high"] < 1
    assert auc["mean"] == 0, "cells stand in the same order"
    unknown = {place: replace(one, no_intervals="not known") for place, one in found.items()}
    del unknown[RunKey("cnn", "both", honest, 3)]
    rows = fill_table(table5, experiment, plan("bukhari2022", "tiny"), unknown)["rows"]
    accuracy = next(row for row in rows if row["differences"])["differences"][0]
    assert accuracy["low"] is None
    assert accuracy["note"] == "not known; over the 2 folds that both have"
    assert (auc["low"] is None) == bool(auc["note"])


@pytest.mark.parametrize(
    ("name", "letter", "last"), [("saeed2022", "A", 35), ("bukhari2022", "B", 20)]
)
def test_every_row_of_the_paper_is_met_by_id(name: str, letter: str, last: int):
    experiment = load_experiment(name)
    assert list(experiment.rows) == [f"{letter}{n:02}" for n in range(1, last + 1)]
    in_tables = {key for table in experiment.tables for key in table.paper_rows}
    assert in_tables <= experiment.rows.keys()
    own = {"A": {"A27", "A28", "A35"}, "B": {"B14", "B15", "B16", "B17", "B18"}}
    assert own[letter] <= in_tables


@pytest.mark.parametrize("name", experiment_names())
@pytest.mark.parametrize("scale", SCALES)
def test_every_row_of_every_table_is_planned_or_says_why_not(name: str, scale: ScaleName):
    experiment, planned = load_experiment(name), plan(name, scale)
    trained = {(place.of, place.data) for place in planned.specs}
    for row in (row for table in experiment.tables for row in table.rows):
        members = experiment.votes[row.of].members if row.of in experiment.votes else (row.of,)
        if row.of in experiment.baselines:
            continue
        for member in members:
            assert row.why or (member, row.data) in trained or member in planned.left_out, row.name
    if scale == "tiny":
        assert not planned.left_out, "tiny keeps every row"
    names = [spec.name for spec in planned.specs.values()]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("name", experiment_names())
def test_settings_that_stand_for_the_papers_are_those_of_a_recipe(name: str):
    experiment, planned = load_experiment(name), plan(name, "paper")
    recipe = next(s for p, s in planned.specs.items() if p.of == experiment.figures.main).resolved
    known = recipe.model_dump(mode="json")
    for row in experiment.rows.values():
        for path in row.settings:
            section, _, key = path.partition(".")
            value = known[section]
            for part in key.split("."):
                value = value[part]
            assert value is not None, path


def test_a_repeat_is_a_seed_and_a_fold_or_a_resplit_shared_by_all_networks():
    def splits(values: dict | None = None) -> dict[tuple[str, int], SplitSettings]:
        planned = plan("saeed2022", "paper", values=values or {})
        own: dict[tuple[str, int], set[str]] = {}
        for place, spec in planned.specs.items():
            assert spec.resolved.seed == place.repeat - 1
            split = spec.resolved.split.model_dump_json()
            own.setdefault((place.protocol, place.repeat), set()).add(split)
        assert len(own) == 12
        assert all(len(of_networks) == 1 for of_networks in own.values()), "the ablation is paired"
        return {key: SplitSettings.model_validate_json(*found) for key, found in own.items()}

    found, three = splits(), splits({"split.folds": 3})
    for repeat in (1, 2, 3):
        disjoint = found["subject-disjoint", repeat]
        assert (disjoint.folds, disjoint.fold, disjoint.seed) == (10, repeat - 1, 0), "8:1:1"
        assert found["official-folds", repeat].fold == repeat - 1
        again = found["image-random", repeat]
        assert (again.folds, again.fold, again.seed) == (0, 0, repeat - 1)
    few = CELLS.set_column(5, "group", pa.array([f"g{n // 6}" for n in range(40)]))
    experiment = load_experiment("saeed2022")
    planned = make_plan(experiment, experiment.scales["paper"], few, {}).specs.values()
    assert max(spec.resolved.split.folds for spec in planned) == 7, "a group of each class a fold"
    turns = [three["subject-disjoint", repeat] for repeat in (1, 2, 3)]
    assert [(one.fold, one.seed) for one in turns] == [(0, 0), (1, 0), (2, 0)]
    assert {three[key].folds for key in three if key[0] != "subject-disjoint"} == {0}


def test_scales_change_size_and_nothing_else():
    tiny, paper = plan("saeed2022", "tiny"), plan("saeed2022", "paper")
    place = RunKey("v2s-spatial", "all", "subject-disjoint", 1)
    small, large = tiny.specs[place].resolved, paper.specs[place].resolved
    assert small.model.attention == large.model.attention == "channel_spatial"
    assert small.augment == large.augment
    assert small.training.optimizer == large.training.optimizer == "adamax"
    assert large.training.balance == large.split.copies == 20_000
    # 27 healthy cells are the larger class; 1.5 times as many uses of each.
    assert small.training.balance == small.split.copies == 41
    assert "test_efficientnet" in small.model.backbone
    assert "test_efficientnet" in tiny.stand_ins["v2s-spatial"]


def test_a_part_of_the_data_counts_its_own_cells_and_splits_by_source():
    planned = plan("bukhari2022", "small")
    for data, source, uses in (("idb1", "all-idb1", 14), ("idb2", "all-idb2", 40)):
        recipe = planned.specs[RunKey("se", data, "image-random", 2)].resolved
        assert recipe.split.source == source
        assert recipe.training.balance == uses
    plain = planned.specs[RunKey("se-plain", "both", "image-random", 1)].resolved
    assert plain.augment.policy == plain.training.balance == "none"


def test_weights_come_from_a_folder_where_one_is_named(tmp_path):
    planned = plan("saeed2022", "paper", weights=tmp_path, only=["vgg16-eca"])
    (spec, *_) = planned.specs.values()
    assert spec.resolved.model.weights == str(tmp_path / "vgg16.tv_in1k.safetensors")
    assert planned.left_out["v2s"] == "left out by --models"


@pytest.mark.parametrize(
    ("scale", "options", "message"),
    [
        ("paper", {"only": ["v2"]}, "--models v2: saeed2022 has none; did you mean v2s"),
        ("small", {"only": ["b3"]}, "nothing is left to train: Not trained at scale small"),
        ("paper", {"values": {"model.attention": "multi"}}, "attention does not apply"),
        ("paper", {"values": {"split.folds": 2}}, "split.folds 2: give 3 or more, one a repeat"),
    ],
)
def test_what_cannot_be_planned_is_refused(scale: ScaleName, options: dict, message: str):
    with pytest.raises(UserError, match=message):
        plan("saeed2022", scale, **options)


def test_comparators_without_weights_are_named_before_anything_is_built(monkeypatch):
    monkeypatch.setattr(check, "missing_imagenet", lambda names: [n for n in names if "vgg" in n])
    planned = plan("saeed2022", "paper")
    recipes = {place.of: spec.resolved for place, spec in planned.specs.items()}
    with pytest.raises(UserError, match=re.escape("no weights here for vgg16-eca, vgg19,")) as told:
        check_networks(recipes)
    assert "weights fetch vgg16.tv_in1k vgg19.tv_in1k --to weights" in str(told.value)
    assert "weights=scratch" in str(told.value)


def test_an_experiment_that_does_not_exist_is_named():
    with pytest.raises(UserError, match="did you mean saeed2022"):
        load_experiment("saeed")


def test_a_figure_has_its_counts_its_mean_and_its_interval():
    found = cell("accuracy", None, {1: outcome(9, 1, 2, 8), 2: outcome(10, 0, 1, 9)})
    assert (found["numerator"], found["denominator"]) == (36, 40)
    assert found["value"] == pytest.approx(0.9)
    # Two values 0.05 from their mean: t(0.975, 1) = 12.706 standard errors of 0.05.
    assert (found["low"], found["high"]) == pytest.approx((0.9 - 0.6353, 0.9 + 0.6353), abs=1e-3)
    assert found["text"] == "90.00%"
    assert "36 of 40" in found["detail"]
    assert "to 100.00% over 2 repeats" in found["detail"]
    same = cell("accuracy", None, {1: outcome(9, 1, 2, 8), 2: outcome(9, 1, 2, 8)})
    assert same["low"] is None
    assert "same value" in same["detail"]


def test_classes_in_turn_and_their_mean():
    one = {1: outcome(9, 1, 2, 8)}
    assert cell("recall", "ALL", one)["value"] == pytest.approx(0.9)
    assert cell("recall", "healthy", one)["value"] == pytest.approx(0.8)
    assert cell("recall", "both", one)["value"] == pytest.approx(0.85)
    assert cell("precision", "healthy", one)["numerator"] == 8
    undefined = cell("precision", "ALL", {1: outcome(0, 3, 0, 4)})
    assert undefined["text"] == "n/a"
    assert undefined["detail"] == "0 of 0 in repeat 1"


@pytest.mark.parametrize(("fn", "fp", "model"), [(8, 3, "v2s"), (10, 20, "b3")])
def test_the_papers_counts_give_its_own_row_of_table_1(fn: int, fp: int, model: str):
    row = next(r for r in load_experiment("saeed2022").tables[0].rows if r.of == model)
    judged = {1: outcome(2000 - fn, fn, fp, 2000 - fp)}
    for column in ("accuracy", "precision", "sensitivity", "specificity", "f1"):
        # V2-S's accuracy is 99.725, which the paper rounds up; its F1 is 99.7246.
        assert 100 * cell(column, None, judged)["value"] == pytest.approx(
            row.reported[column], abs=0.0051
        )
        assert reported(column, row.reported[column]).endswith("%")


def test_a_table_has_no_cell_without_text_and_no_gap_without_reason():
    experiment, planned = load_experiment("saeed2022"), plan("saeed2022", "tiny", only=["v2s"])
    good = replace(outcome(9, 1, 2, 8, {"epochs": 2}), leaky=None)
    found = {
        place: "failed: out of memory" if place.repeat == 2 else good for place in planned.specs
    }
    for table in experiment.tables:
        filled = fill_table(table, experiment, planned, found)
        keys = {column["key"] for column in filled["columns"]}
        for row in filled["rows"]:
            assert row["reported"] is None or row["reported"].keys() == keys
            assert row["ours"] or row["reason"], row["name"]
            for line in row["ours"]:
                assert "cells" in line or line["reason"]
                assert all(part["text"] for part in line.get("cells", {}).values())
    first = fill_table(experiment.tables[0], experiment, planned, found)["rows"]
    assert (
        first[0]["ours"][0]["leaky"] is None
    )  # as its split has it, not as its protocol is called
    assert first[0]["ours"][0]["reason"] == "repeat 2 failed: out of memory"
    assert first[1]["reason"] == "left out by --models"
    votes = fill_table(experiment.tables[1], experiment, planned, found)["rows"][3]
    assert votes["reason"].startswith("No vote without nasnetalarge")


def test_the_leak_is_paired_by_repeat():
    experiment = load_experiment("bukhari2022")
    found = {}
    for repeat, (leaky, honest) in enumerate([(10, 8), (9, 8), (10, 6)], 1):
        found[RunKey("cnn", "both", "image-random", repeat)] = outcome(leaky, 10 - leaky, 0, 10)
        found[RunKey("cnn", "both", "slide-group-disjoint", repeat)] = outcome(
            honest, 10 - honest, 0, 10
        )
        found[RunKey("se", "both", "image-random", repeat)] = outcome(leaky - 2, 12 - leaky, 0, 10)
    table5 = next(table for table in experiment.tables if table.id == "table5")
    rows = fill_table(table5, experiment, plan("bukhari2022", "tiny"), found)["rows"]
    (mean,) = [row for row in rows if row["differences"]]
    first = mean["differences"][0]
    assert (mean["name"], first["metric"]) == ("SE-CNN, mean", "accuracy")
    assert list(first["differences"].values()) == pytest.approx([-0.1] * 3)
    assert (first["against"], first["low"]) == ("CNN (SE-CNN without SE)", None)
    cnn = {place: one for place, one in found.items() if place.of == "cnn"}
    by_metric = {item["metric"]: item for item in leaks(experiment, cnn)}
    assert list(by_metric["accuracy"]["differences"].values()) == pytest.approx([0.1, 0.05, 0.2])
    assert by_metric["accuracy"]["mean"] == pytest.approx(0.35 / 3)
    assert by_metric["accuracy"]["low"] < 0 < by_metric["accuracy"]["high"]
    assert summary({1: 0.2})["note"] == "one repeat"
    assert summary({1: 0.2, 2: 0.2})["low"] is None
