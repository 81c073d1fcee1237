"""Every setting is explained at its field; the command and the page print what stands there."""

import json
import re
from pathlib import Path

import pytest
from click.testing import CliRunner

from leuk_ray.cli.main import cli
from leuk_ray.cli.reference import settings_page, settings_under
from leuk_ray.utils.errors import UserError

PAGE = Path(__file__).parents[3] / "docs" / "reference" / "settings.md"


@pytest.mark.parametrize(
    ("kind", "fewest"), [("", 55), ("sweep", 20), ("experiment", 50), ("serve", 20)]
)
def test_no_setting_lacks_a_text(kind: str, fewest: int):
    settings = settings_under(kind)
    assert len(settings) >= fewest
    for setting in settings:
        assert re.fullmatch(r"[A-Z`\[].{6,}\.", setting.meaning), setting
        assert not re.search(r"\b[AB]\d{2}\b", setting.meaning), "name the paper's row in words"


def test_the_page_is_up_to_date():
    assert PAGE.read_text() == settings_page(), "run: make docs"


def test_name_type_default_and_meaning():
    (lr,) = settings_under("lr")
    assert lr == settings_under("training.lr")[0]
    assert (lr.name, lr.type, lr.default) == ("training.lr", "number > 0", "0.001")
    kinds = {setting.name: setting.type for setting in settings_under()}
    assert kinds["training.window"] == "all | integer >= 64"
    assert kinds["training.compile"] == "true | false"
    assert kinds["training.layer_decay"] == "number > 0 and <= 1"
    assert kinds["split.fractions"] == "[number, number, number]"
    assert {s.name for s in settings_under("sweep.search")} >= {"search", "search.*.choice"}
    loss = [setting.name for setting in settings_under("training.loss")]
    assert loss[0] == "training.loss"
    assert len(loss) > 1
    assert all(name.startswith("training.loss") for name in loss)


def test_a_misspelt_prefix_suggests_the_near_one():
    with pytest.raises(UserError, match=r"--settings trainin: .* did you mean training"):
        settings_under("trainin")


def test_the_command_prints_them():
    text = CliRunner().invoke(cli, ["recipes", "--settings", "balance"]).output
    assert text.startswith("training.balance: none | equal | integer (default: none)\n    Samples")
    done = CliRunner().invoke(cli, ["recipes", "--settings", "--json"])
    assert len(json.loads(done.output)["settings"]) == len(settings_under())
    refused = CliRunner().invoke(cli, ["recipes", "lite", "--settings"])
    assert isinstance(refused.exception, UserError)
