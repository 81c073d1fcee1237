"""leuk_ray: train, evaluate and serve leukemia cell classifiers on Ray.

The names below are the public Python API; each is imported when it is first used. All else is the
command line's, `leuk-ray --help`, and may change.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from leuk_ray.bundles.bundle import load_bundle
    from leuk_ray.datasets.prepared import PreparedDataset
    from leuk_ray.inference.classifier import Classifier
    from leuk_ray.recipes.recipe import load_recipe
    from leuk_ray.utils.errors import UserError

__version__ = "0.1.0"
__all__ = ["Classifier", "PreparedDataset", "UserError", "load_bundle", "load_recipe"]

_MODULES = {
    "Classifier": "inference.classifier",
    "PreparedDataset": "datasets.prepared",
    "UserError": "utils.errors",
    "load_bundle": "bundles.bundle",
    "load_recipe": "recipes.recipe",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
