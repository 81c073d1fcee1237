"""Of labels flipped on purpose, how many lie among the most doubtful tenth of the cells.

5% of the labels of a prepared dataset are flipped at random. Logistic regression on colour and
texture scores each cell out of fold (5 folds of groups), trained on the flipped labels as well;
`evaluation.label_errors` ranks the cells. Chance finds a tenth.

    leuk-ray synth cells --cells 2000 --subjects 60
    leuk-ray prepare cells cells.dataset --layout c-nmc
    python benchmarks/label_errors.py cells.dataset
"""

from __future__ import annotations

import argparse

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedGroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from leuk_ray.datasets.prepared import PreparedDataset
from leuk_ray.evaluation.baselines import measure
from leuk_ray.evaluation.label_errors import doubt

FLIPPED, LOOKED_AT, FOLDS = 0.05, 0.10, 5


def main() -> None:
    """Print the share of flips found, over several drawings of which are flipped."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("dataset")
    parser.add_argument("--trials", type=int, default=20)
    given = parser.parse_args()
    dataset = PreparedDataset.open(given.dataset)
    rows = np.flatnonzero(dataset.cells["label"].is_valid().to_numpy())
    truth = dataset.cells["label"].to_numpy()[rows].astype(np.int64)
    groups = np.asarray(dataset.cells["group"].to_pylist(), object)[rows]
    (features,) = measure(["texture-svm"], dataset.reader(), rows)
    found, areas = [], []
    for seed in range(given.trials):
        generator = np.random.default_rng(seed)
        flipped = np.zeros(len(rows), bool)
        flipped[generator.choice(len(rows), round(FLIPPED * len(rows)), replace=False)] = True
        label = np.where(flipped, 1 - truth, truth)
        logits = np.empty((len(rows), 1))
        folds = StratifiedGroupKFold(FOLDS, shuffle=True, random_state=seed)
        for train, test in folds.split(rows, label, groups):
            model = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=1000))
            model.fit(features.values[train], label[train])
            logits[test, 0] = model.decision_function(features.values[test])
        order = np.argsort(doubt(logits, label))
        looked_at = order[: round(LOOKED_AT * len(rows))]
        found.append(flipped[looked_at].sum() / flipped.sum())
        areas.append(roc_auc_score(truth, logits[:, 0]))
    mean, low, high = np.mean(found), *np.quantile(found, (0.05, 0.95))
    print(
        f"{len(rows)} cells, {flipped.sum()} labels flipped, {given.trials} trials: the most "
        f"doubtful {LOOKED_AT:.0%} hold {mean:.0%} of the flips ({low:.0%} to {high:.0%} in 90% of "
        f"trials), chance {LOOKED_AT:.0%}; area under ROC of the scores for the true labels "
        f"{np.mean(areas):.3f}"
    )


if __name__ == "__main__":
    main()
