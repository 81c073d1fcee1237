"""leuk_ray: train, search, judge and serve leukemia cell classifiers on Ray."""

__version__ = "0.1.0"
