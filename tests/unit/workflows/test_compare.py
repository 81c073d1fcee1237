from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from scipy.special import softmax
from sklearn.metrics import roc_auc_score

from leuk_ray.cli.messages import compare_text
from leuk_ray.datasets.classes import ClassSet
from leuk_ray.datasets.splits import split_cells
from leuk_ray.recipes.recipe import load_recipe
from leuk_ray.training.record import bundle_manifest, start_record
from leuk_ray.utils.errors import UserError
from leuk_ray.workflows.comparable import Trained, comparable_rows
from leuk_ray.workflows.compare import compare
from tests.support.serving_bundles import write_small_bundle
from tests.support.small_dataset import STORED, small_dataset


def dataset(groups: str, labelled: bool = True) -> Any:
    """One cell a letter: its group; each is its own picture."""
    names = list(groups)
    cells = pa.table(
        {
            "uid": [f"c{n}" for n in range(len(names))],
            "label": [int(labelled)] * len(names),
            "group": names,
            "duplicate_id": [f"p{n}" for n in range(len(names))],
            "status": ["keep"] * len(names),
            "official_split": pa.nulls(len(names), pa.string()),
        }
    )
    return SimpleNamespace(cells=cells, location="d")


def trained(roles: str, protocol: str = "subject-disjoint") -> Trained:
    """One letter a cell: t train, v validation, e test."""
    words = {"t": "train", "v": "validation", "e": "test"}
    rows = [(f"c{n}", words[role]) for n, role in enumerate(roles)]
    uid, role = zip(*rows, strict=True)
    return Trained(pa.table({"uid": uid, "role": role}), protocol)


def test_a_dataset_that_trained_neither_is_compared_whole() -> None:
    assert comparable_rows(dataset("aabb"), {}).tolist() == [0, 1, 2, 3]


def test_only_what_all_runs_test_on_is_compared() -> None:
    runs = {"one": trained("ttveee"), "two": trained("ttvvee")}
    assert comparable_rows(dataset("aabcdd"), runs).tolist() == [4, 5]
    runs["three"] = trained("tteevv")
    with pytest.raises(UserError, match="one and two and three: d has no cell to compare on"):
        comparable_rows(dataset("aabcdd"), runs)


@pytest.mark.parametrize("role", ["t", "v"])
def test_groups_that_trained_or_chose_the_epoch_are_refused(role: str) -> None:
    runs = {"one": trained("teee"), "two": trained(f"t{role}ee", "image-random")}
    with pytest.raises(UserError, match="two: 1 of the 1 groups to compare on trained it"):
        comparable_rows(dataset("abbb"), runs)


def test_official_folds_keep_pictures_whole() -> None:
    runs = {"one": trained("tveee", "official-folds")}
    assert comparable_rows(dataset("aabbb"), runs).tolist() == [2, 3, 4]
    assert comparable_rows(dataset("aaaab"), runs).tolist() == [2, 3, 4]


def test_nothing_labelled_is_told() -> None:
    empty = dataset("ab")
    place = empty.cells.column_names.index("label")
    empty.cells = empty.cells.set_column(place, "label", pa.nulls(2, pa.int8()))
    with pytest.raises(UserError, match="no cell to compare on"):
        comparable_rows(empty, {})


def run_in(folder: Path, *overrides: str) -> Path:
    """The record and bundle of a run; its network is not trained."""
    data, recipe = small_dataset(), load_recipe("lite", overrides)
    start_record(recipe, data, folder, split_cells(data.cells, recipe.split))
    manifest = bundle_manifest(recipe, data, {"epoch": 1, "selection": 0.5}, "")
    write_small_bundle(
        folder / "bundle",
        **manifest.model_dump(include={"datasets", "dataset_fingerprint", "storage", "protocol"}),
    )
    return folder


def cross_validation(folder: Path, *overrides: str, folds: int = 3) -> list[Path]:
    return [
        run_in(folder / f"fold-{n}", f"split.folds={folds}", f"split.fold={n}", *overrides)
        for n in range(folds)
    ]


def scored(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Path, list[int]]]:
    """Which bundle scored which rows."""
    asked: list[tuple[Path, list[int]]] = []

    def score(bundle: Path, dataset: Any, rows: np.ndarray, *_: Any) -> tuple[Any, np.ndarray]:
        asked.append((bundle.parent, rows.tolist()))
        label = dataset.cells["label"].to_numpy()[rows]
        noise = np.random.default_rng(len(asked)).normal(size=len(rows))
        return rows, (2 * label - 1 + noise)[:, None]

    monkeypatch.setattr("leuk_ray.workflows.compare.score_rows", score)
    return asked


def test_two_cross_validations_are_compared_fold_by_fold_and_pooled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = cross_validation(tmp_path / "one"), cross_validation(tmp_path / "other", "lr=0.1")
    other[0].rename(tmp_path / "other" / "zeroth")  # found by what it tests, whatever its name
    asked = scored(monkeypatch)
    monkeypatch.chdir(tmp_path)
    found = compare((tmp_path / "one", Path("other/*")), small_dataset())
    assert (found["folds"], found["cells"], found["tested"]) == (3, 40, [40, 40])
    assert found["why_few"] == ""
    assert found["metrics"]["auc"]["low"] is not None
    half = len(asked) // 2
    assert sorted(row for _, rows in asked[:half] for row in rows) == list(range(40))
    assert [rows for _, rows in asked[:half]] == [rows for _, rows in asked[half:]]
    assert [run for run, _ in asked[:half]] == one
    assert {run.name for run, _ in asked[half:]} == {"zeroth", "fold-1", "fold-2"}
    text = compare_text(found)
    assert text.startswith("Compared on 40 cells (SYNTHETIC) of 20 ALL + 20 healthy groups, poo")
    for side, what in (
        (tmp_path / "one" / "fold-0", "has 1 run"),
        (tmp_path / "more", "same cells"),
    ):
        if not side.exists():
            cross_validation(side, "split.seed=4")
        with pytest.raises(UserError, match=f"{what}.*same split settings and split.fold=0"):
            compare((tmp_path / "one", side), small_dataset())


def test_runs_of_other_splits_say_first_on_how_few_cells_and_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wide = "split.fractions=[0.5,0.2,0.3]"
    places = run_in(tmp_path / "one", wide), run_in(tmp_path / "two", wide, "split.seed=1")
    scored(monkeypatch)
    found = compare(places, small_dataset())
    splits = [pq.read_table(place / "split.parquet") for place in places]
    tests = [set(split.filter(pc.field("role") == "test")["uid"].to_pylist()) for split in splits]
    assert 0 < found["cells"] == len(tests[0] & tests[1]) < min(map(len, tests))
    assert found["tested"] == [len(test) for test in tests]
    assert found["why_few"] == "split.seed 0 and 1"
    first, second, *_ = compare_text(found).splitlines()
    assert first.startswith(f"Compared on {found['cells']} cell")
    assert "split.seed 0 and 1" in second
    assert "two folders of runs" in second
    same = compare((places[0], places[0] / "bundle"), small_dataset())
    assert (same["why_few"], same["cells"]) == ("", len(tests[0]))
    with pytest.raises(UserError, match=r"holds no bundle; give a run, .* of a cross-validation"):
        compare((tmp_path / "none", places[0]), small_dataset())


FOUR = ClassSet(("a", "b", "c", "d"), ("c", "d"))


def test_bundles_of_four_classes_are_compared_by_class_and_as_positive_or_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = small_dataset()
    label = np.arange(40) // 2 % 4
    place = data.cells.column_names.index("label")
    data.__dict__["cells"] = data.cells.set_column(place, "label", pa.array(label, pa.int8()))
    data.manifest.update(classes=FOUR.names, positive=FOUR.positive)
    places = []
    for name, temperature in (("one", 1.0), ("two", 2.0)):
        bundle = tmp_path / name
        write_small_bundle(
            bundle,
            classes=FOUR.names,
            positive=FOUR.positive,
            temperature=temperature,
            datasets=[data.identity.model_copy(update={"images": "f" * 64})],
            storage=STORED,
        )
        places.append(bundle)
    logits = np.random.default_rng(0).normal(size=(2, 40, 3))

    def score(bundle: Path, _data: Any, rows: np.ndarray, *_: Any) -> tuple[Any, np.ndarray]:
        return rows, logits[places.index(bundle)]

    monkeypatch.setattr("leuk_ray.workflows.compare.score_rows", score)
    found = compare((places[0], places[1]), data)
    (warning,) = [line for line in found["warnings"] if "same weights" in line]
    assert "only temperature (1 and 2) and threshold (0.5 and 0.5) can make a difference" in warning
    stated = [
        softmax(np.pad(one, ((0, 0), (1, 0))) / temperature, axis=1)
        for one, temperature in zip(logits, (1.0, 2.0), strict=True)
    ]
    right = [one.argmax(axis=1) == label for one in stated]
    assert found["metrics"]["accuracy"]["first"] == right[0].mean()
    assert found["only_first"] == (right[0] & ~right[1]).sum()
    assert found["metrics"]["nll"]["second"] == pytest.approx(
        -np.log(stated[1][np.arange(40), label]).mean()
    )
    blast = [one[:, 2:].sum(axis=1) for one in stated]
    binary = found["binary"]["metrics"]
    assert binary["auc"]["first"] == pytest.approx(roc_auc_score(label > 1, blast[0]))
    assert binary["auc"]["second"] == pytest.approx(roc_auc_score(label > 1, blast[1]))
    text = compare_text(found)
    assert "40 cells (SYNTHETIC) of 40 groups" in text
    assert "balanced_accuracy" in text
    assert "Positive classes against the others:" in text
    data.__dict__["classes"] = ClassSet(
        ("b", "a", "c", "d"), ("c", "d")
    )  # the same, in other order
    with pytest.raises(UserError, match=r"--classes a,b,c,d --positive c,d"):
        compare((places[0], places[1]), data)
