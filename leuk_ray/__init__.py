"""leuk_ray: train and evaluate leukemia cell classifiers on Ray."""

__version__ = "0.1.0"
