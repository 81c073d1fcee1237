"""The table of runs and the arithmetic of placing them."""

import json
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from pydantic import ValidationError

from leuk_ray.datasets.prepared import PreparedDataset
from leuk_ray.recipes.recipe import Recipe, load_recipe, with_values
from leuk_ray.runs.folder import RunFolder
from leuk_ray.runs.placement import Resources, place
from leuk_ray.runs.recorder import _best
from leuk_ray.runs.table import RunRecord, RunTable, read_history, read_steps
from leuk_ray.runs.trial import _remove_unless_same, reason
from leuk_ray.training.record import check_same_run
from leuk_ray.tuning import sweep
from leuk_ray.utils.errors import UserError
from tests.support.toy_training import make_cells, make_model

RECORD = RunRecord(
    name="000",
    status="finished",
    recipe="lite",
    overrides={"training.lr": 1e-3, "model.filters": [4, 8, 8]},
    seed=0,
    reason="all 2 epochs done",
    metrics={"selection": 0.8},
    curve=[0.7, 0.8],
    seconds=3.5,
    bundle=True,
    lineage={"dataset": "abc"},
)


def test_what_is_appended_is_read_again(tmp_path: Path):
    table = RunTable(tmp_path / "runs.jsonl")
    assert table.records() == {}
    other = replace(RECORD, name="001", status="failed", metrics={}, curve=[])
    table.append(RECORD)
    table.append(other)
    assert table.records() == {"000": RECORD, "001": other}
    assert RECORD.done
    assert RECORD.score == 0.8
    assert not other.done
    assert other.score is None


def test_of_two_records_with_one_name_the_later_holds(tmp_path: Path):
    table = RunTable(tmp_path / "runs.jsonl")
    for status in ("failed", "finished"):
        table.append(replace(RECORD, status=status))
    assert table.records()["000"].status == "finished"


@pytest.mark.parametrize("torn", ['{"name": "001", "sta', "\0\0\0", "{"])
def test_a_torn_last_line_is_passed_over_and_cut_off_by_the_next_writer(tmp_path: Path, torn: str):
    table = RunTable(tmp_path / "runs.jsonl")
    table.append(RECORD)
    with table.path.open("a") as file:
        file.write(torn)
    assert list(table.records()) == ["000"]
    table.append(replace(RECORD, name="001"))
    assert list(table.records()) == ["000", "001"]


def line_with(**changes: object) -> str:
    return json.dumps(asdict(RECORD) | changes)


@pytest.mark.parametrize(
    "line",
    [
        "{}", "[1]", '{"name": "000"}', "no JSON",
        line_with(seed="0"), line_with(status="done"), line_with(curve=["0.8"]), line_with(gpu=1),
    ],
)  # fmt: skip
def test_a_whole_line_that_is_no_record_is_named(tmp_path: Path, line: str):
    table = RunTable(tmp_path / "runs.jsonl")
    table.append(RECORD)
    with table.path.open("a") as file:
        file.write(line + "\n")
    with pytest.raises(UserError, match="line 2: is no record of a run"):
        table.records()


NODE = {"CPU": 4.0, "GPU": 1.0}


@pytest.mark.parametrize(
    ("resources", "nodes", "fit"),
    [
        ({}, [NODE], 4),
        ({"cpus": 0.5}, [{"CPU": 2.0}], 4),
        ({"cpus": 0.1}, [{"CPU": 1.0}], 10),  # ten tenths, whatever binary fractions say
        ({"gpus": 0.25}, [NODE], 4),
        ({"cpus": 0.5, "gpus": 0.25}, [NODE, NODE], 8),
        ({"cpus": 3}, [NODE, NODE], 2),
        ({"side_by_side": 3}, [NODE], 3),
        ({"side_by_side": 30}, [NODE], 4),
        ({"workers": 2}, [{"CPU": 4.0}], 1),  # 2 for workers, 1 for Ray Data, a part for Tune
        ({"workers": 2}, [NODE, NODE], 3),  # 7 CPUs hold 3 pairs
        ({"workers": 2}, [{"CPU": 5.0}, {"CPU": 2.0}], 2),  # 3 pairs would take all 6 CPUs
        ({"workers": 2, "gpus": 1}, [NODE, NODE], 1),
        ({}, [{"memory": 1.0}, NODE], 4),  # a head node without CPUs
    ],
)
def test_how_many_runs_go_side_by_side(resources: dict, nodes: list, fit: int):
    placement = place(Resources(**resources), nodes)
    assert placement.side_by_side == fit
    assert placement.text.endswith(f"{fit} side by side")


@pytest.mark.parametrize(
    ("resources", "nodes", "words"),
    [
        ({"cpus": 3}, [{"CPU": 2.0}, {"CPU": 2.0}], r"takes 3 CPUs; .* 2 nodes with 4 CPUs"),
        ({"gpus": 0.5}, [{"CPU": 8.0}], r"0.5 GPUs; .* 8 CPUs and 0 GPUs"),
        ({"workers": 2}, [{"CPU": 3.0}], r"2 workers of 1 CPUs, .*1 CPU kept for Ray Data"),
        ({}, [], r"0 nodes with 0 CPUs"),
    ],
)
def test_what_can_never_be_placed_is_refused_with_the_arithmetic(resources, nodes, words):
    with pytest.raises(UserError, match=words):
        place(Resources(**resources), nodes)


def test_several_workers_take_whole_resources():
    with pytest.raises(ValidationError, match="parts are for runs of one worker"):
        Resources(workers=2, cpus=0.5)


@pytest.fixture
def run(store_pixels, tmp_path: Path) -> tuple[Recipe, PreparedDataset, Path]:
    """A run's folder, as a run that was killed in its first epoch leaves it."""
    recipe = load_recipe("lite")
    dataset = store_pixels(tmp_path / "dataset", make_cells()[1])
    RunFolder(tmp_path / "000", recipe, dataset).start(
        pa.table({name: pa.array([], pa.string()) for name in ("uid", "role")})
    )
    return recipe, dataset, tmp_path / "000"


def test_a_run_goes_on_in_its_own_folder_and_in_no_other_ones(run):
    recipe, dataset, path = run
    _remove_unless_same(recipe, dataset, path)
    assert (path / "config.yaml").exists()
    _remove_unless_same(with_values(recipe, {"training.lr": 0.5}), dataset, path)
    assert not path.exists(), "its name went to another configuration"
    _remove_unless_same(recipe, dataset, path)
    path.mkdir()
    (path / "split.parquet").touch()
    _remove_unless_same(recipe, dataset, path)
    assert not path.exists(), "killed before it was a run"


def test_a_run_goes_on_whatever_keeps_its_pixels(run):
    recipe, dataset, path = run
    assert recipe.training.cache == "auto"
    check_same_run(with_values(recipe, {"training.cache": "none"}), dataset, path)
    with pytest.raises(UserError, match="another recipe"):
        check_same_run(with_values(recipe, {"training.window": 64}), dataset, path)


@pytest.mark.parametrize("torn", [b'{"epoch": 3, "selec', b"\0\0\0", b"{"])
def test_a_torn_last_line_of_a_history_is_passed_over_and_no_other(tmp_path: Path, torn: bytes):
    whole = b'{"epoch": 1}\n{"epoch": 2}\n'
    for name, read in (("metrics.jsonl", read_history), ("steps.jsonl", read_steps)):
        assert read(tmp_path) == []
        (tmp_path / name).write_bytes(whole + torn)
        assert read(tmp_path) == [{"epoch": 1}, {"epoch": 2}]
        (tmp_path / name).write_bytes(torn + b"\n" + whole)
        with pytest.raises(json.JSONDecodeError):
            read(tmp_path)


@pytest.mark.parametrize("make", [torch.zeros, np.zeros])
def test_memory_that_is_not_there_is_named_as_the_reason(make):
    with pytest.raises((RuntimeError, MemoryError)) as caught:
        make(2**50)
    assert reason(caught.value).startswith("out of memory: lower training.batch_size")
    assert "\n" not in reason(caught.value)


def test_another_error_keeps_its_kind_and_fits_one_line():
    assert reason(ValueError("a\n  b")) == "ValueError: a b"
    assert reason(UserError("training.lr: lower it")) == "training.lr: lower it"


def test_a_record_is_made_whatever_a_killed_run_left(run):
    recipe, dataset, path = run
    history = [
        {"epoch": n, "selection": n / 10, "images_per_second": 10.0 * n} for n in range(1, 4)
    ]
    assert _best(path, []) == {}
    assert _best(path, history) == history[2]
    RunFolder(path, recipe, dataset).keep(history[1], "", make_model())
    assert _best(path, history)["selection"] == 0.2
    assert _best(path, history)["images_per_second"] == 20
    assert _best(path, []) == {}
    assert _best(path, history[:1]) == {}, "the bundle's epoch is not in the history"


def test_another_winner_is_evaluated_anew_and_the_same_one_is_not(monkeypatch, tmp_path: Path):
    """Scoring needs Ray; which run is scored does not."""
    met = []

    def evaluate(target, dataset, out: Path, **options):
        out.mkdir()
        met.append((target.run.name, list(out.iterdir())))

    monkeypatch.setattr(sweep, "evaluate", evaluate)
    for name in ("000", "000", "003", "003"):
        sweep._evaluate_winner(name, None, tmp_path)  # pyright: ignore[reportArgumentType]
    assert met == [("000", []), ("003", [])]
    (tmp_path / "winner" / "run.txt").unlink()  # killed while it was evaluated
    sweep._evaluate_winner("003", None, tmp_path)  # pyright: ignore[reportArgumentType]
    assert len(met) == 3
