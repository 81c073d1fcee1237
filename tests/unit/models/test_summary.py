"""The layer table adds up, and agrees with sums done by hand."""

import pytest
from click.testing import CliRunner

from leuk_ray.cli.main import cli
from leuk_ray.models.settings import ModelSettings
from leuk_ray.models.summary import MAX_ROWS, summarise
from leuk_ray.recipes.recipe import load_recipe


def test_the_se_cnns_table_is_the_papers_network():
    table = summarise(load_recipe("bukhari2022-se").model)
    rows = {row["name"]: row for row in table["layers"]}
    conv, dense = rows["backbone.blocks.0.conv"], rows["backbone.dense"]
    assert conv["output"] == [32, 222, 222]
    assert conv["parameters"] == 896
    assert conv["flops"] == 2 * 222 * 222 * 32 * 27
    assert rows["backbone.blocks.2.pool"]["output"] == [128, 26, 26]
    assert dense["flops"] == 2 * 128 * 128
    assert table["parameters"] == 113_263
    assert sum(row["parameters"] for row in table["layers"]) == 113_263
    assert sum(row["flops"] for row in table["layers"]) == table["flops"]


@pytest.mark.parametrize("attention", ["none", "multi", "cbam"])
def test_the_rows_of_a_timm_network_add_up(attention):
    table = summarise(ModelSettings(input_size=64, attention=attention, weights="scratch"))
    assert len(table["layers"]) <= MAX_ROWS
    assert sum(row["parameters"] for row in table["layers"]) == table["parameters"]
    assert sum(row["flops"] for row in table["layers"]) == table["flops"]


def test_the_command_prints_the_table():
    done = CliRunner().invoke(cli, ["recipes", "bukhari2022-cnn", "--summary"])
    assert done.exit_code == 0, done.output
    assert "110,337 trainable parameters" in done.output
    assert "backbone.blocks.2.conv" in done.output
