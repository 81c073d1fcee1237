"""Scoring on Ray Data: a pool of actors, each with the bundle loaded once."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import ray
import ray.data
import torch

from leuk_ray.datasets.prepared import PixelReader, PreparedDataset
from leuk_ray.inference.classifier import Classifier
from leuk_ray.locations import Location

_ROWS_PER_BLOCK = 32
_SCHEMA = pa.schema([("row", pa.int64()), ("logit", pa.float64())])


class _RowScorer:
    """An actor: rows of a prepared dataset in, scores out."""

    def __init__(self, bundle: Location, reader: PixelReader, device: str, threads: int) -> None:
        torch.set_num_threads(threads)
        self.classifier = Classifier.load(bundle, device)
        self.reader = reader

    def __call__(self, block: pa.Table) -> pa.Table:
        rows = block["row"].to_numpy()
        scores = self.classifier.score(self.reader.read(rows))
        return pa.table({"row": rows, "logit": scores.logit}, schema=_SCHEMA)


def score_rows(
    bundle: Location,
    dataset: PreparedDataset,
    rows: np.ndarray,
    *,
    actors: int = 1,
    gpus: bool = False,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[np.ndarray, np.ndarray]:
    """Score rows of a dataset, each exactly once; Ray must be initialised.

    Returns:
        The rows, ascending, and their log-odds of ALL.

    Raises:
        AssertionError: a row was lost or scored twice.
    """
    assert len(rows), "nothing to score"
    blocks = [
        pa.table({"row": rows[start : start + _ROWS_PER_BLOCK]})
        for start in range(0, len(rows), _ROWS_PER_BLOCK)
    ]
    scored = ray.data.from_arrow(blocks).map_batches(
        _RowScorer,
        batch_size=None,
        batch_format="pyarrow",
        compute=ray.data.ActorPoolStrategy(size=min(actors, len(blocks))),
        num_gpus=1 if gpus else 0,
        # Ray warns on the terminal of actors that restart with arguments from its store.
        max_restarts=0,
        fn_constructor_kwargs={
            "bundle": bundle.absolute() if isinstance(bundle, Path) else bundle,
            "reader": dataset.reader(),
            "device": "cuda" if gpus else "cpu",
            "threads": max(1, (os.cpu_count() or 1) // actors),
        },
    )
    parts, done = [], 0
    progress(0, len(rows))
    for part in scored.iter_batches(batch_size=None, batch_format="pyarrow"):
        parts.append(part)
        done += len(part)
        progress(done, len(rows))
    scores = pa.concat_tables(parts).sort_by("row")
    scored = scores["row"].to_numpy()
    assert np.array_equal(scored, np.sort(rows)), "rows in and scores out differ"
    return scored, scores["logit"].to_numpy()
