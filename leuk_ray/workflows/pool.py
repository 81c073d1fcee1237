"""Scoring on Ray Data: pools of actors, each with the bundle loaded once."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import ray
import ray.data
import torch

from leuk_ray.cluster import ray_cluster
from leuk_ray.datasets.prepared import PixelReader, PreparedDataset
from leuk_ray.evaluation.calibration import class_logits_of
from leuk_ray.inference.answers import part_of
from leuk_ray.inference.classifier import Classifier
from leuk_ray.inference.files import NamedFile
from leuk_ray.io.locations import Location, parse

HERE = 500
_ROWS_PER_BLOCK = 32
_FILES_PER_BLOCK = 256
_SCHEMA = pa.schema(
    [
        ("row", pa.int64()),
        ("class_logits", pa.list_(pa.float64())),
        ("reasons", pa.list_(pa.string())),
    ]
)


@dataclass(frozen=True)
class Pool:
    """Where to score.

    actors: processes on Ray; 0 scores in this process. None: 0 for up to HERE images without
        GPUs or a cluster, which are scored sooner than Ray starts; else 1.
    gpus: one for each of them.
    address: Ray cluster to join.
    """

    actors: int | None = None
    gpus: bool = False
    address: str | None = None

    def actors_for(self, images: int) -> int:
        """Say how many processes on Ray score so many images; 0 is this process."""
        if self.actors is not None:
            return self.actors
        return 0 if images <= HERE and not (self.gpus or self.address) else 1


DEFAULT = Pool()


class _RowScorer:
    """An actor: rows of a prepared dataset in, scores out, and why a cell gets no answer."""

    def __init__(
        self, bundle: Location, device: str, threads: int, reader: PixelReader, answering: bool
    ) -> None:
        torch.set_num_threads(threads)
        self.classifier = Classifier.load(bundle, device)
        self.reader = reader
        self.answering = answering

    def __call__(self, block: pa.Table) -> pa.Table:
        rows = block["row"].to_numpy()
        pixels = self.reader.read(rows)
        scores = self.classifier.score(pixels)
        reasons = (
            self.classifier.abstentions(pixels, scores) if self.answering else [None] * len(rows)
        )
        columns = {"row": rows, "class_logits": list(scores.class_logits), "reasons": reasons}
        return pa.table(columns, schema=_SCHEMA)


class _FileAnswerer:
    """An actor: names and places of image files in, answers out."""

    def __init__(self, bundle: Location, device: str, threads: int) -> None:
        torch.set_num_threads(threads)
        self.classifier = Classifier.load(bundle, device)

    def __call__(self, block: pa.Table) -> pa.Table:
        rows = block.to_pylist()
        files = [(row["name"], parse(row["place"])) for row in rows]
        answers = self.classifier.predict(files)
        numbers = [row["number"] for row in rows]
        return part_of(numbers, answers, self.classifier.manifest.class_set)


def score_rows(
    bundle: Location,
    dataset: PreparedDataset,
    rows: np.ndarray,
    pool: Pool,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[np.ndarray, np.ndarray]:
    """Score rows of a dataset, each exactly once.

    Returns:
        The rows, ascending, and their class logits (N, K-1).

    Raises:
        AssertionError: a row was lost or scored twice.
    """
    scores = _score(bundle, dataset, rows, pool, progress, answering=False)
    return scores["row"].to_numpy(), class_logits_of(scores)


def answer_rows(
    bundle: Location,
    dataset: PreparedDataset,
    rows: np.ndarray,
    pool: Pool,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[np.ndarray, np.ndarray, pa.ChunkedArray]:
    """Score rows as `score_rows` does, and say why the bundle gives no answer for a cell.

    Returns:
        The rows, ascending, their class logits (N, K-1), and the reasons of each, empty where
        it is answered.
    """
    scores = _score(bundle, dataset, rows, pool, progress, answering=True)
    return scores["row"].to_numpy(), class_logits_of(scores), scores["reasons"]


def _score(
    bundle: Location,
    dataset: PreparedDataset,
    rows: np.ndarray,
    pool: Pool,
    progress: Callable[[int, int], None],
    *,
    answering: bool,
) -> pa.Table:
    assert len(rows), "nothing to score"
    blocks = cut(pa.table({"row": rows}), _ROWS_PER_BLOCK)
    parts, done = [], 0
    progress(0, len(rows))
    reader = dataset.reader()
    if actors := pool.actors_for(len(rows)):
        ray_cluster.connect(pool.address, actors)
        more = {"reader": reader, "answering": answering}
        scored_parts = on_pool(
            _RowScorer,
            blocks,
            actors,
            pool.gpus,
            scoring(bundle, min(actors, len(blocks)), pool.gpus) | more,
        )
    else:
        scorer = _RowScorer(bundle, "cpu", os.cpu_count() or 1, reader, answering)
        scored_parts = map(scorer, blocks)
    for part in scored_parts:
        parts.append(part)
        done += len(part)
        progress(done, len(rows))
    scores = pa.concat_tables(parts).sort_by("row")
    assert np.array_equal(scores["row"], np.sort(rows)), "rows in and scores out differ"
    return scores


def answer_on_pool(
    bundle: Location,
    files: Sequence[NamedFile],
    numbers: Sequence[int],
    *,
    actors: int,
    gpus: bool = False,
) -> Iterator[pa.Table]:
    """Answer for image files as `Classifier.predict` does; Ray must be initialised.

    Args:
        bundle: that answers; where all nodes find it.
        files: all of a job, where all nodes find them.
        numbers: of the files that are wanted.
        actors: how many score at once.
        gpus: one for each actor.

    Yields:
        Parts of a table of answers, in no order.
    """
    wanted = pa.table(
        {
            "number": numbers,
            "name": [files[number][0] for number in numbers],
            "place": [str(files[number][1]) for number in numbers],
        }
    )
    # At the end no actor should wait long for the last block of another.
    size = min(_FILES_PER_BLOCK, max(1, len(numbers) // (8 * actors)))
    blocks = cut(wanted, size)
    arguments = scoring(bundle, min(actors, len(blocks)), gpus)
    yield from on_pool(_FileAnswerer, blocks, actors, gpus, arguments)


def cut(table: pa.Table, size: int) -> list[pa.Table]:
    """Cut a table into blocks of `size` rows."""
    return [table.slice(start, size) for start in range(0, len(table), size)]


def scoring(bundle: Location, actors: int, gpus: bool) -> dict[str, Any]:
    """Say what each of some actors on one machine loads a bundle with."""
    return {
        "bundle": bundle.absolute() if isinstance(bundle, Path) else bundle,
        "device": "cuda" if gpus else "cpu",
        "threads": max(1, (os.cpu_count() or 1) // actors),
    }


def on_pool(
    actor: type, blocks: list[pa.Table], actors: int, gpus: bool, arguments: dict[str, Any]
) -> Iterator[pa.Table]:
    """Map blocks by a pool of actors, each made with `arguments`; yields tables in no order."""
    actors = min(actors, len(blocks))
    done = ray.data.from_arrow(blocks).map_batches(
        actor,
        batch_size=len(blocks[0]),  # as they are cut; Ray Data asks for a number where GPUs work
        batch_format="pyarrow",
        compute=ray.data.ActorPoolStrategy(size=actors),
        num_gpus=1 if gpus else 0,
        # Ray warns on the terminal of actors that restart with arguments from its store.
        max_restarts=0,
        fn_constructor_kwargs=arguments,
    )
    yield from done.iter_batches(batch_size=None, batch_format="pyarrow")
