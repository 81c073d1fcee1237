"""JSON and YAML from anybody: refused before they grow, in one line."""

import time
from itertools import pairwise
from pathlib import Path

import pytest

from leuk_ray.experiments.settings import load_experiment
from leuk_ray.recipes.recipe import load_recipe
from leuk_ray.tuning.settings import load_sweep
from leuk_ray.utils.errors import UserError
from leuk_ray.utils.parsing import parse_json, parse_yaml

BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{new}: &{new} [{', '.join(['*' + old] * 9)}]\n" for old, new in pairwise("abcdefghi")
)


@pytest.mark.parametrize("load", [load_recipe, load_sweep, load_experiment])
@pytest.mark.parametrize(
    ("text", "message"),
    [
        (BOMB, "aliases expand to more than 50,000 values"),  # 9**9 words
        (BOMB + "k:\n  <<: [*i, *i]\n", "aliases expand to more than"),
        ("a: &a [*a]\n", "aliases expand to more than"),
        ("[" * 100_000, "is not valid YAML"),
        ("name: !!python/object/apply:os.system [true]\n", "is not valid YAML"),
        ("name: [\n", "is not valid YAML"),
        ("name: 2026-99-99\n", "is not valid YAML"),
        ("name: x\n" * 200_000, "is larger than"),
    ],
)
def test_settings_that_grow_or_run_are_refused(load, text: str, message: str, tmp_path: Path):
    file = tmp_path / "settings.yaml"
    file.write_text(text)
    started = time.process_time()
    with pytest.raises(UserError, match=message) as caught:
        load(str(file))
    assert time.process_time() - started < 5
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 600


@pytest.mark.parametrize("value", [".inf", "-.inf", ".nan"])
def test_an_override_without_a_finite_value_is_refused(value: str):
    with pytest.raises(UserError, match="finite number"):
        load_recipe("lite", [f"lr={value}"])


def test_what_is_in_order_is_read():
    assert parse_yaml(b"a: [1, {b: 2}]", "x") == {"a": [1, {"b": 2}]}
    assert parse_json(b'{"a": [1, {"b": 2}]}', "x") == {"a": [1, {"b": 2}]}
    assert parse_json(b"[" * 60 + b"]" * 60, "x")
    assert parse_yaml("a: &a [1]\nb: [*a, *a]", "x") == {"a": [1], "b": [[1], [1]]}
    with pytest.raises(UserError, match="x: is nested deeper than 64 levels"):
        parse_json(b"[" * 70 + b"]" * 70, "x")
