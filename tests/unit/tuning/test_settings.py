"""A sweep's file: what is refused before anything starts, and in which words."""

from pathlib import Path

import pytest
import yaml

from leuk_ray.tuning.settings import load_sweep
from leuk_ray.tuning.sweep import same_results
from leuk_ray.utils.errors import UserError

CONFIGS = sorted((Path(__file__).parents[3] / "tune_configs").glob("*.yaml"))
BASE = {
    "recipe": "lite",
    "search": {"lr": {"log_uniform": [1e-4, 1e-2]}},
    "trials": 4,
}


def load(tmp_path: Path, *overrides: str, **changes):
    path = tmp_path / "x.yaml"
    values = {key: value for key, value in (BASE | changes).items() if value is not None}
    path.write_text(yaml.safe_dump(values))
    return load_sweep(str(path), overrides)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_shipped_sweep_is_valid_and_says_how_to_start_it(path: Path):
    sweep = load_sweep(str(path))
    assert sweep.name == path.stem
    head = path.read_text().split("name:")[0]
    assert load_sweep(path.stem) == load_sweep(str(path))  # an installed package has it by name
    for word in ("# First: ", "# Launch: ", "# Override: ", f"tune_configs/{path.name}"):
        assert word in head


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_what_a_sweep_writes_down_is_that_sweep_whatever_its_runs_may_take(path, tmp_path: Path):
    sweep = load_sweep(str(path))
    written = tmp_path / "sweep.yaml"
    written.write_text(yaml.safe_dump(sweep.model_dump(mode="json")))
    assert load_sweep(str(written)) == sweep
    for same in ([], ["resources.cpus=2", "resources.side_by_side=1"]):
        assert same_results(sweep, load_sweep(str(path), same))
    for other in (["top=2"], ["weight_decay=0.5"], ["resources={workers: 2}"]):
        if other[0].startswith("resources") and sweep.scheduler.kind == "pbt":
            continue  # takes runs of one worker
        assert not same_results(sweep, load_sweep(str(path), other))


def test_keys_are_resolved_as_the_recipes_are(tmp_path: Path):
    sweep = load(tmp_path, search={"lr": {"choice": ["1e-3", 0.01]}}, overrides={"epochs": 2})
    assert sweep.search["training.lr"].extremes == [1e-3, 0.01], "text to YAML 1.1, a number here"
    assert sweep.base().training.epochs == 2
    assert sweep.base().training.select == "validation_auc"


def test_overrides_reach_the_sweep_or_else_the_recipe(tmp_path: Path):
    sweep = load(
        tmp_path, "trials=7", "resources.cpus=0.5", "scheduler.grace=2", "epochs=3", "hidden=32",
        scheduler="asha",
    )  # fmt: skip
    assert (sweep.trials, sweep.resources.cpus) == (7, 0.5)
    assert (sweep.scheduler.kind, sweep.scheduler.grace) == ("asha", 2)
    assert sweep.base().training.epochs == 3
    assert sweep.base().model.hidden == 32


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"search": {}}, "search: dictionary should have at least 1 item"),
        ({"search": None}, "search: field required"),
        ({"search": {"lrr": {"choice": [1]}}}, "lrr: no such setting; did you mean"),
        (
            {"search": {"attention": {"choice": ["multi", "mult"]}}},
            "search.model.attention: .*mult",
        ),
        ({"search": {"lr": {"choice": [-1]}}}, "search.training.lr: .*greater than 0, given -1"),
        ({"search": {"lr": {"log_uniform": [0, 1]}}}, "starts above 0"),
        ({"search": {"lr": {"uniform": [1, 0.1]}}}, "must lie below the upper"),
        ({"search": {"lr": {"uniform": [0.1, 1], "choice": [1]}}}, "give one of choice"),
        ({"search": {"lr": {"choice": []}}}, "at least 1 item"),
        ({"search": {"seed": {"choice": [1, 2]}}}, "list seeds under `seeds`"),
        ({"search": {"fraction": {"choice": [1]}}}, "no such setting"),
        ({"search": {"split.fold": {"choice": [0, 1]}}}, "compared on one split"),
        ({"search": {"filters": {"choice": [[4, 8, 8]]}}}, "filters does not apply"),
        (
            {"metric": "test_auc"},
            "metric: 'test_auc' is not known; choose",
        ),
        ({"overrides": {"select": "validation_loss"}}, "name it as `metric`"),
        ({"searcher": "grid"}, "a grid needs `choice`"),
        ({"searcher": "grid", "search": {"lr": {"choice": [1]}}}, "leave trials out"),
        ({"trials": None}, "how many configurations random may try"),
        ({"schedule": "asha"}, "schedule: extra inputs are not permitted"),
        ({"scheduler": "hyperband"}, "scheduler.kind"),
        ({"seeds": [1, 1]}, "seeds: each once"),
        ({"scheduler": "pbt", "seeds": [0, 1]}, "one seed"),
        ({"scheduler": "pbt", "trials": 2}, "population of 4"),
        (
            {"scheduler": "pbt", "search": {"attention": {"choice": ["none", "multi"]}}},
            "cannot change while a network trains",
        ),
        *(
            ({"scheduler": "pbt", "search": {key: {"choice": values}}}, f"{key}: cannot change")
            for key, values in (
                ("ema_decay", [0.9, 0.99]),
                ("layer_decay", [0.7, 1.0]),
                ("precision", ["fp32", "bf16"]),
            )
        ),
        ({"overrides": {"protocol": "paper-literal"}}, "tests on augmented copies"),
        ({"recipe": "lit"}, "did you mean lite"),
    ],
)
def test_what_cannot_work_is_refused_in_one_line(tmp_path: Path, changes: dict, words: str):
    with pytest.raises(UserError, match=words) as caught:
        load(tmp_path, **changes)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_there_or_no_yaml_is_named(tmp_path: Path):
    with pytest.raises(UserError, match=r"no such sweep or .yaml file; choose one of attention, "):
        load_sweep(str(tmp_path / "none.yaml"))
    (tmp_path / "bad.yaml").write_text("search: [")
    with pytest.raises(UserError, match="is not valid YAML"):
        load_sweep(str(tmp_path / "bad.yaml"))
    with pytest.raises(UserError, match="write key=value"):
        load(tmp_path, "trials")
