"""leuk_ray: train, evaluate and serve classifiers of blood cells in leukemia on Ray.

    import leuk_ray as lr

    lr.prepare("cells", "cells.dataset", "folders")  # cells/CLASS/PATIENT/image.png
    run = lr.train("lite", "cells.dataset", "runs/lite", settings={"epochs": 5})
    print(run)
    print(run.classifier().predict("new_cells").to_pandas())

The names below are the public Python API; each is imported when it is first used. The functions are
those that the commands of `leuk-ray --help` call. All else may change.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from leuk_ray.api.data import detect, prepare
    from leuk_ray.api.runs import calibrate, crossval, evaluate, train, tune
    from leuk_ray.bundles.bundle import load_bundle
    from leuk_ray.datasets.prepared import PreparedDataset
    from leuk_ray.inference.classifier import Classifier
    from leuk_ray.recipes.recipe import load_recipe
    from leuk_ray.serving.client import Client
    from leuk_ray.utils.errors import UserError

__version__ = "0.2.0"
__all__ = [
    "Classifier",
    "Client",
    "PreparedDataset",
    "UserError",
    "calibrate",
    "crossval",
    "detect",
    "evaluate",
    "load_bundle",
    "load_recipe",
    "prepare",
    "train",
    "tune",
]

_MODULES = {
    "Classifier": "inference.classifier",
    "Client": "serving.client",
    "PreparedDataset": "datasets.prepared",
    "UserError": "utils.errors",
    "calibrate": "api.runs",
    "crossval": "api.runs",
    "detect": "api.data",
    "evaluate": "api.runs",
    "load_bundle": "bundles.bundle",
    "load_recipe": "recipes.recipe",
    "prepare": "api.data",
    "train": "api.runs",
    "tune": "api.runs",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
