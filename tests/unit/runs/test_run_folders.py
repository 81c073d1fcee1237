"""`leuk-ray runs`: what is in a folder of runs, and how they differ."""

import json
import shutil
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from leuk_ray.cli.main import cli
from leuk_ray.evaluation.metrics import evaluate
from leuk_ray.evaluation.report_model import Report, ReportContext
from leuk_ray.recipes.recipe import load_recipe
from leuk_ray.runs.folders import beside_recipe, differing, find_runs, read_run, side_by_side
from leuk_ray.runs.page import write_page
from leuk_ray.utils.errors import UserError


def write_run(folder: Path, overrides: list[str], epochs: int, *, ended: str = "") -> Path:
    folder.mkdir(parents=True)
    recipe = load_recipe("lite", overrides)
    (folder / "config.yaml").write_text(yaml.safe_dump(recipe.model_dump(mode="json")))
    (folder / "environment.json").write_text(json.dumps({"packages": {"ray": "2.60.0"}}))
    rows = [
        {"epoch": n, "validation_loss": 1 / n, "validation_auc": 0.5, "seconds": 2.0, "ended": ""}
        for n in range(1, epochs + 1)
    ]
    rows[-1]["ended"] = ended
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / "metrics.jsonl").write_text(text + '{"epoch": 9, "val')  # torn by a kill
    return folder


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    root = tmp_path / "runs"
    write_run(root / "b10", ["lr=1e-4"], 2)
    write_run(root / "deep" / "b9", ["lr=1e-3"], 3, ended="patience")
    (root / "deep" / "b9" / "checkpoints" / "x").mkdir(parents=True)
    shutil.copy(root / "b10" / "config.yaml", root / "deep" / "b9" / "checkpoints" / "x")
    shutil.copy(root / "b10" / "environment.json", root / "deep" / "b9" / "checkpoints" / "x")
    return root


def test_runs_are_found_once_each_with_state_and_size(runs: Path):
    found = find_runs(runs)
    assert [run.name for run in found] == ["b10", "deep/b9"]
    assert [run.status for run in found] == ["unfinished", "evaluation missing"]
    assert [(len(run.history), run.seconds) for run in found] == [(2, 4.0), (3, 6.0)]
    assert found[0].size == sum(f.stat().st_size for f in (runs / "b10").iterdir())
    assert found[0].protocol == load_recipe("lite").split.protocol
    assert read_run(runs / "b10").name == "b10"


def test_only_settings_that_differ_are_named(runs: Path):
    b10, b9 = find_runs(runs)
    assert differing([b10, b9]) == {"training.lr": [1e-4, 1e-3]}
    changed = beside_recipe(b10)
    assert list(changed) == ["training.lr"]
    assert changed["training.lr"][0] == 1e-4


def test_the_commands_print_runs_side_by_side_and_a_page_with_both(runs: Path, tmp_path: Path):
    page = tmp_path / "page.html"
    listed = CliRunner().invoke(cli, ["runs", "list", str(runs)])
    assert "2 runs" in listed.output
    shown = CliRunner().invoke(cli, ["runs", "show", str(runs / "b10")])
    assert "training.lr = 0.0001 (recipe: 0.001)" in shown.output
    both = CliRunner().invoke(cli, ["runs", "diff", str(runs), "--out", str(page)])
    assert both.exit_code == 0, both.output
    assert "training.lr" in both.output
    text = page.read_text()
    assert "b10" in text
    assert "deep/b9" in text
    assert "data:image/png" in text
    with pytest.raises(UserError, match="never overwritten"):
        write_page(find_runs(runs), page)


def test_the_figures_are_those_of_the_report(runs: Path):
    metrics = evaluate([0, 0, 1, 1], [0.1, 0.6, 0.7, 0.9], 0.5)
    context = ReportContext(
        "t", "lite", "image-random", True, True, "f", stopping={"best_epoch": 2}
    )
    values = {
        "run": context, "threshold": 0.5, "scored": {}, "metrics": {"test": metrics},
        "bootstrap": {}, "calibration_bins": 10, "intervals": {}, "by_source": [],
        "refitted": None, "decided": None, "subjects": [], "worst_subjects": [],
        "published": None, "worst_errors": [], "history": [], "audit": None,
    }  # fmt: skip
    report = Report(**values)
    (runs / "b10" / "report").mkdir()
    (runs / "b10" / "report" / "report.json").write_text(report.model_dump_json())
    run = read_run(runs / "b10")
    assert (run.status, run.label, run.synthetic, run.best_epoch) == ("finished", "LEAKY", True, 2)
    accuracy = run.metrics["accuracy"]
    assert (accuracy.numerator, accuracy.denominator, accuracy.value) == (3, 4, 0.75)


def test_a_damaged_run_hides_no_other_and_says_what_is_wrong(runs: Path):
    place = runs / "b10" / "metrics.jsonl"
    for line in (
        "garbage",
        "[1, 2]",
        '{"epoch": 1, "seconds": "x"}',
        '{"seconds": 1}',
        '{"epoch": NaN}',
    ):
        place.write_text(line + "\n")
        b10, b9 = find_runs(runs)
        assert b10.status == "damaged"
        assert b10.problem.startswith(str(place)), line
        assert b9.status == "evaluation missing"
        with pytest.raises(UserError, match="metrics"):
            read_run(runs / "b10")
    place.write_text('{"epoch": 1, "validation_loss": NaN, "seconds": 1.0}\n')
    for text in ("[]", '{"packages": null}'):
        (runs / "b10" / "environment.json").write_text(text)
        with pytest.raises(UserError, match="does not say what the run was made with"):
            read_run(runs / "b10")


def test_settings_of_another_version_are_shown_and_named_in_one_line(runs: Path):
    config = runs / "b10" / "config.yaml"
    foreign = 'schema_version: 9\nday: 2020-01-01\nodd: .nan\ntwo: "li\\nnes"\n'
    config.write_text(config.read_text() + foreign)
    line = f"{config}: is no recipe of this version (schema_version: extra inputs are not permitted"
    for words in (["list", runs], ["show", runs / "b10"], ["diff", runs]):
        done = CliRunner().invoke(cli, ["runs", *map(str, words)])
        assert done.exit_code == 0, done.output
        assert [text.startswith(line) for text in done.output.splitlines()].count(True) == 1
    assert '"li\\nnes"' in done.output
    shown = CliRunner().invoke(cli, ["runs", "show", str(runs / "b10"), "--json"])
    values = json.loads(shown.output)
    assert (values["settings"]["day"], values["changed"]) == ("2020-01-01", {})


@pytest.mark.parametrize("text", ["name: [lite\n :::", "", "- a", "? [x]\n: 1", "\x00\x01"])
def test_a_config_that_is_none_hides_no_other_run(runs: Path, text: str):
    (runs / "b10" / "config.yaml").write_text(text)
    listed = CliRunner().invoke(cli, ["runs", "list", str(runs)])
    assert listed.exit_code == 0, listed.output
    assert "deep/b9" in listed.output
    place = str(runs / "b10" / "config.yaml")
    assert sum(line.startswith(place) for line in listed.output.splitlines()) == 1
    with pytest.raises(UserError, match=r"config\.yaml") as refused:
        read_run(runs / "b10")
    assert "\n" not in str(refused.value)


def test_what_is_no_run_is_refused_by_name(runs: Path, tmp_path: Path):
    assert len(find_runs(runs / "b10" / "..")) == 2
    for read, path, words in (
        (find_runs, tmp_path / "nothing", "no such folder"),
        (read_run, runs, "is no run"),
        (lambda path: side_by_side([path]), runs / "b10", "give two or more"),
    ):
        with pytest.raises(UserError, match=words):
            read(path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="holds no run"):
        find_runs(tmp_path / "empty")
