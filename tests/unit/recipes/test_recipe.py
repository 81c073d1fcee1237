from pathlib import Path

import pytest
import yaml

from leuk_ray.recipes.recipe import Recipe, load_recipe, recipe_names
from leuk_ray.utils.errors import UserError


@pytest.mark.parametrize("name", recipe_names())
def test_every_shipped_recipe_loads_and_survives_a_round_trip(name: str, tmp_path: Path):
    recipe = load_recipe(name)
    assert recipe.name == name
    (tmp_path / "config.yaml").write_text(recipe.to_yaml())
    assert load_recipe(str(tmp_path / "config.yaml")) == recipe


def test_overrides_by_full_or_short_name():
    recipe = load_recipe("lite", ["training.lr=1e-4", "attention=none", "fractions=[0.6,0.2,0.2]"])
    assert recipe.training.lr == 1e-4
    assert recipe.model.attention == "none"
    assert recipe.split.fractions == (0.6, 0.2, 0.2)
    assert load_recipe("lite", ["plateau.factor=0.1"]).training.plateau.factor == 0.1
    assert load_recipe("lite", ["seed=7"]).seed == 7
    assert load_recipe("lite", ["split.seed=7"]).split.seed == 7


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("epoch=1", "no such setting; did you mean"),
        ("lr=fast", "training.lr: input should be a valid number"),
        ("fractions=[0.5,0.5,0.5]", "split.fractions: give shares above 0 .* that add up to 1"),
        ("fractions=[0.9,0.1,0]", "split.fractions: give shares above 0 .* that add up to 1"),
        ("epochs=0", "training.epochs: input should be greater than or equal to 1, given 0"),
        ("attention=more", "model.attention: 'more' is not known; choose one of none"),
        ("lr", "write key=value"),
        ("lr=[", "not valid YAML"),
    ],
)
def test_a_wrong_override_names_what_and_where(override: str, message: str):
    with pytest.raises(UserError, match=message) as caught:
        load_recipe("lite", [override])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kept", ["backbone", "all"])
def test_statistics_that_there_are_not_cannot_be_kept(kept: str):
    with pytest.raises(
        UserError, match=r"recipe lite: training.frozen_norm .*set frozen_norm=none"
    ):
        load_recipe("lite", ["weights=scratch", f"frozen_norm={kept}"])
    assert load_recipe("lite", ["weights=scratch", "frozen_norm=none"]).model.weights == "scratch"


def test_an_unknown_key_in_a_file_is_refused(tmp_path: Path):
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump({"training": {"learning_rate": 1}}))
    with pytest.raises(UserError, match=r"training.learning_rate: extra inputs"):
        load_recipe(str(path))
    path.write_text("- a list")
    with pytest.raises(UserError, match="must be a mapping"):
        load_recipe(str(path))


def test_settings_cannot_be_changed_by_accident():
    with pytest.raises(ValueError, match="frozen"):
        Recipe(name="x").training.lr = 1.0  # pyright: ignore[reportAttributeAccessIssue]
