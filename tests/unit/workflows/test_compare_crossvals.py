"""Two cross-validations are compared by their own pooled scores, of any number of seeds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from scipy.special import expit
from sklearn.metrics import roc_auc_score

from leuk_ray.io.storage import make_folder, write_table
from leuk_ray.training.record import write_environment
from leuk_ray.utils.errors import UserError
from leuk_ray.workflows.compare import compare
from tests.support.small_dataset import small_dataset


def crossval_folder(folder: Path, seed: int, shift: int = 0) -> Path:
    """What a cross-validation over four folds leaves of its scores."""
    dataset = small_dataset()
    make_folder(folder)
    (folder / "crossval.yaml").write_text("{}")
    write_environment(dataset, folder)
    label = dataset.cells["label"].to_numpy()
    logit = 1.5 * label + np.random.default_rng(seed).standard_normal(len(label))
    fold = (np.arange(len(label)) // 2 + shift) % 4
    table = dataset.cells.select(["uid", "label", "group"])
    for name, values in {"logit": logit, "probability": expit(logit), "fold": fold}.items():
        table = table.append_column(name, pa.array(values))
    tested = table.append_column("role", pa.array(["test"] * len(table)))
    fixing = table.append_column("role", pa.array(["validation"] * len(table)))
    shuffled = tested.take(np.random.default_rng(seed).permutation(len(table)))
    make_folder(folder / "report")
    write_table(folder / "report" / "predictions.parquet", pa.concat_tables([fixing, shuffled]))
    return folder


def test_pooled_scores_are_paired_and_other_folds_are_refused(tmp_path: Path) -> None:
    one, two = (crossval_folder(tmp_path / str(seed), seed) for seed in (1, 2))
    found = compare((one, two), small_dataset())
    assert (found["folds"], found["cells"], found["tested"]) == (4, 40, [40, 40])
    label = small_dataset().cells["label"].to_numpy()
    for side, seed in (("first", 1), ("second", 2)):
        logit = 1.5 * label + np.random.default_rng(seed).standard_normal(len(label))
        assert found["metrics"]["auc"][side] == pytest.approx(roc_auc_score(label, logit))
    assert found["metrics"]["auc"]["low"] < found["metrics"]["auc"]["difference"]
    other = crossval_folder(tmp_path / "other", 3, shift=1)
    with pytest.raises(UserError, match="40 of 40 cells are in other folds") as refused:
        compare((one, other), small_dataset())
    assert "\n" not in str(refused.value)
    (other / "report" / "predictions.parquet").unlink()
    with pytest.raises(UserError, match="has no report yet"):
        compare((one, other), small_dataset())
