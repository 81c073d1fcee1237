"""Every shipped recipe's network builds at its own size and learns from one step."""

import pytest
import torch

from leuk_ray.models.drop_path import drop_paths
from leuk_ray.models.zoo import build, class_logits
from leuk_ray.recipes.recipe import load_recipe, recipe_names
from leuk_ray.training.learner import make_optimizer
from leuk_ray.training.losses import classification_loss

LARGE = {"nasnetalarge", "inception-resnet-v2", "vgg19"}
SIZES = {
    "saeed2022-v2s": 300, "saeed2022-b3": 300, "bukhari2022-se": 224, "bukhari2022-cnn": 224,
    "vgg16-eca": 224, "vgg19": 224, "efficientnet-b0": 224, "vit-b16": 224, "densenet121": 224,
    "alexnet": 224, "inception-v3": 299, "inception-resnet-v2": 299, "xception": 299,
    "nasnetalarge": 331,
}  # fmt: skip


def test_every_network_of_the_papers_has_a_recipe_at_its_size():
    sizes = {name: load_recipe(name).model.input_size for name in recipe_names()}
    assert SIZES.items() <= sizes.items()


def test_the_recipes_of_the_papers_say_what_their_rows_say():
    for name in ("saeed2022-v2s", "saeed2022-b3"):
        training = load_recipe(name).training
        assert (training.epochs, training.batch_size) == (20, 16)
        assert (training.optimizer, training.lr, training.balance) == ("adamax", 1e-3, 20000)
        assert training.select == "validation_accuracy"
        assert (training.plateau.factor, training.plateau.patience) == (0.5, 1)
    se, cnn = load_recipe("bukhari2022-se"), load_recipe("bukhari2022-cnn")
    assert (se.training.optimizer, se.training.lr) == ("adam", 1e-3)
    same = {"name": "", "model": {**se.model.model_dump(), "attention": "", "reduction": 0}}
    assert {**se.model_dump(), **same} == {
        **cnn.model_dump(),
        "name": "",
        "model": {**cnn.model.model_dump(), "attention": "", "reduction": 0},
    }


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.slow if name in LARGE else ())
        for name in recipe_names()
    ],
)
def test_the_network_takes_a_training_step(name: str):
    torch.manual_seed(0)
    recipe = load_recipe(name, ["weights=scratch", "frozen_norm=none"])
    model = build(recipe.model, load_weights=True).train()
    side = recipe.model.input_size
    images = torch.randint(0, 256, (2, 3, side, side), dtype=torch.uint8)
    optimizer = make_optimizer(model, recipe.training)
    for layer in drop_paths(model):
        layer.chance = torch.ones(2)
    logits, embedding = model(images)
    assert logits.shape == (2, 1 if recipe.model.architecture == "se_cnn" else 2)
    assert embedding.ndim == 2
    loss = classification_loss(class_logits(logits), torch.tensor([0, 1])).mean()
    before = [p.detach().clone() for p in model.head.parameters()]
    loss.backward()
    # DistributedDataParallel would wait for ever for one that takes no part.
    unused = [name for name, p in model.named_parameters() if p.grad is None]
    assert not unused
    optimizer.step()
    assert loss.isfinite()
    assert any(not torch.equal(p, q) for p, q in zip(before, model.head.parameters(), strict=True))
