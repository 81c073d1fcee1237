"""A dry run counts what training takes, without Ray."""

import ray

from leuk_ray.cli.messages import dry_run_text
from leuk_ray.datasets.splits import split_cells
from leuk_ray.recipes.recipe import load_recipe
from leuk_ray.training.cells import check_run
from leuk_ray.training.dry_run import dry_run
from tests.support.small_dataset import small_dataset


def test_it_counts_the_samples_and_steps_of_training():
    for override in ("protocol=subject-disjoint", "protocol=paper-literal"):
        recipe = load_recipe("bukhari2022-se", [override, "input_size=32", "split.copies=100"])
        dataset = small_dataset()
        values = dry_run(recipe, dataset, workers=(2, 3))
        split = split_cells(dataset.cells, recipe.split)
        planner = check_run(recipe, dataset, split, workers=3, gpus=False)  # that of training
        plan = planner.plan(epoch=0)
        assert values["samples_per_epoch"] == len(plan.rows)
        assert values["steps_per_epoch"] == len(plan)
        assert values["workers"] == 2
        assert values["cells"]["train"] == len(planner.cells.train)
    assert (
        values["samples_per_epoch"] == 128
    )  # 0.64 of 100 copies of each class, not balanced again
    assert "seconds" not in values
    assert "Add --measure for the memory and time of a step." in dry_run_text(values)
    assert not ray.is_initialized()
