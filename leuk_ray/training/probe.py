"""A probe: penalized logistic regression on the embeddings of a frozen backbone.

It takes the place of an epoch's steps: one pass over the training cells as they are, then a fit
whose weights, with the standardization of the features, are written into the linear head.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn

from leuk_ray.datasets.loaders import Loader
from leuk_ray.inference.engines import score_images
from leuk_ray.models.network import LinearHead
from leuk_ray.training import collective
from leuk_ray.training.cells import EpochPlanner

PENALTIES = tuple(float(10.0**n) for n in range(-6, 2))  # C of scikit-learn: smaller is stronger
INNER_FOLDS = 5
_PENALTY_ALONE = 0.01  # where a class is in one group only, so that none can be left out


def fit_head(network: nn.Module, planner: EpochPlanner, loader: Loader) -> dict[str, Any]:
    """Fit the linear head of a network to the training cells. All workers must call.

    Args:
        network: with a `LinearHead`; nothing but this head changes.
        planner: rows, labels, groups and seed; the batches of the pass are of its batch size.
        loader: delivers training pixels to this worker.

    Returns:
        What `loop.train_epoch` returns, of the fitted cells, and `penalty` (C of scikit-learn),
        `penalty_folds` and `penalty_loss` (mean log-loss of cells left out; None where the
        penalty could not be chosen).
    """
    head = network.get_submodule("head")
    assert isinstance(head, LinearHead), "a probe needs a linear head"
    cells = planner.cells
    features = _embed(network, planner, loader)
    labels = cells.labels[cells.train]
    groups = cells.groups[cells.train]
    fitted = None
    if collective.rank() == 0:
        fitted = fit(features, labels, groups, planner.seed, cells.num_classes)
    fitted = collective.from_rank_zero(fitted)
    assert fitted is not None
    weight, bias, found = fitted
    with torch.no_grad():
        head.classifier.weight.copy_(torch.from_numpy(weight))
        head.classifier.bias.copy_(torch.from_numpy(bias))
    return {**found, "train_images": len(labels), "batch_norms": 0, "data_wait_seconds": 0.0}


def fit(
    features: np.ndarray, labels: np.ndarray, groups: np.ndarray, seed: int, num_classes: int
) -> tuple[np.ndarray, np.ndarray, dict[str, Any]]:
    """Fit multinomial logistic regression with an L2 penalty chosen on inner folds of groups.

    Features are standardized; of `PENALTIES` the one with the lowest mean log-loss of cells whose
    groups were left out is taken, of equal ones the strongest.

    Args:
        features: (N, D). labels: (N,) 0 to K-1, each class with a cell. groups: (N,).
        seed: of the folds. num_classes: K.

    Returns:
        weight (K, D) and bias (K,) of a softmax over the features as they are, float32; and
        train_loss, train_accuracy, penalty, penalty_folds, penalty_loss.
    """
    features = features.astype(np.float64)
    penalty, folds, loss = _choose(features, labels, groups, seed)
    model = _regression(penalty).fit(features, labels)
    scale, regression = model[0], model[-1]
    weight, bias = regression.coef_ / scale.scale_, regression.intercept_
    bias = bias - weight @ scale.mean_
    if num_classes == 2:  # scikit-learn keeps the log-odds of the second class alone
        weight, bias = np.concatenate([-weight, weight]) / 2, np.concatenate([-bias, bias]) / 2
    stated = model.predict_log_proba(features)
    own = np.take_along_axis(stated, labels[:, None], axis=1)
    metrics = {
        "train_loss": float(-own.mean()),
        "train_accuracy": float((stated.argmax(axis=1) == labels).mean()),
        "penalty": penalty,
        "penalty_folds": folds,
        "penalty_loss": loss,
    }
    return weight.astype(np.float32), bias.astype(np.float32), metrics


def _choose(
    features: np.ndarray, labels: np.ndarray, groups: np.ndarray, seed: int
) -> tuple[float, int, float | None]:
    """Penalty, number of inner folds and mean log-loss of left-out cells."""
    from sklearn.metrics import log_loss
    from sklearn.model_selection import StratifiedGroupKFold

    classes = np.unique(labels)
    folds = min(INNER_FOLDS, *(len(np.unique(groups[labels == label])) for label in classes))
    if folds < 2:
        return _PENALTY_ALONE, 0, None
    splitter = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
    parts = [
        (kept, out)
        for kept, out in splitter.split(features, labels, groups)
        if len(np.unique(labels[kept])) == len(classes)
    ]
    if len(parts) < 2:
        return _PENALTY_ALONE, 0, None
    losses = []
    for penalty in PENALTIES:
        total = 0.0
        for kept, out in parts:
            stated = _regression(penalty).fit(features[kept], labels[kept])
            probabilities = stated.predict_proba(features[out])
            total += log_loss(labels[out], probabilities, labels=classes) * len(out)
        losses.append(total / sum(len(out) for _, out in parts))
    best = int(np.argmin(losses))
    return PENALTIES[best], len(parts), float(losses[best])


def _regression(penalty: float) -> Any:
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    return make_pipeline(StandardScaler(), LogisticRegression(C=penalty, max_iter=2000))


def _embed(network: nn.Module, planner: EpochPlanner, loader: Loader) -> np.ndarray:
    """Embeddings of the training rows, (N, D), each computed once over all workers."""
    rows = planner.cells.train
    mine = np.arange(len(rows))[collective.rank() :: collective.world_size()]
    size = planner.settings.batch_size
    batches = [mine[start : start + size] for start in range(0, len(mine), size)]
    network.eval()
    delivered = loader.iter_batches([rows[places] for places in batches])
    parts = [score_images(network, images)[1].cpu().numpy() for images in delivered]
    places, features = collective.gather_scores(mine, np.concatenate(parts))
    assert np.array_equal(places, np.arange(len(rows))), "rows were lost"
    return features
