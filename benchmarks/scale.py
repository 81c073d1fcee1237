"""How the stages that see metadata alone grow: groups, split, plan, search for near duplicates.

    python benchmarks/scale.py [--rows 10000 100000 1000000] [--results F.json]

SYNTHETIC metadata: 150 cells a subject, one row in 100 a copy of the one before, and one in 1,000 a
near duplicate, whose 64-bit hash differs from its original's by 11 bits at most. No pixel is made
or read. Each stage's time is fitted by t = a n^b over the sizes, least squares on logarithms;
b = 1 is linear. The last stage counts the hashes that are compared.
"""

from __future__ import annotations

import argparse
import hashlib
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from results import Result, finish

from leuk_ray.datasets.groups import assign_groups
from leuk_ray.datasets.near_duplicates import MAX_DISTANCE, candidate_pairs
from leuk_ray.datasets.plan import plan_epoch, uid_keys
from leuk_ray.datasets.prepared import CELL_COLUMNS, METADATA_SCHEMA
from leuk_ray.datasets.splits import SplitSettings, split_cells

CELLS_PER_SUBJECT = 150


def metadata(num: int, generator: np.random.Generator) -> pa.Table:
    """Rows as `prepare` makes them, of cells that are not there."""
    subject = np.arange(num) // CELLS_PER_SUBJECT
    original = np.arange(num) - (np.arange(num) % 100 == 99)  # one in 100 copies the row before
    digest = [hashlib.sha256(row.tobytes()).hexdigest() for row in original.astype(np.int64)]
    columns = {
        "uid": [f"UID_{s}_{row}_1" for row, s in enumerate(subject.tolist())],
        "label": (subject % 2).tolist(),
        "subject": [f"S{s}" for s in subject.tolist()],
        "source": ["c-nmc"] * num,
        "source_image": [None] * num,
        "official_split": [f"fold_{s % 3}" for s in subject.tolist()],
        "site": [None] * num,
        "stain": [None] * num,
        "sha256": digest,
        "pixels_sha256": digest,
        "phash": [f"{value:016x}" for value in hashes(num, generator).tolist()],
        "width": [450] * num,
        "height": [450] * num,
        "format": ["BMP"] * num,
        "file_bytes": [607_554] * num,
    }
    return pa.table(columns, schema=METADATA_SCHEMA)


def hashes(num: int, generator: np.random.Generator) -> np.ndarray:
    """(num,) uint64, every 1,000th near the one before it."""
    values = generator.integers(0, 2**64, num, np.uint64)
    for row in planted(num):
        bits = generator.choice(64, generator.integers(1, MAX_DISTANCE + 1), replace=False)
        values[row] = values[row - 1] ^ np.bitwise_or.reduce(np.uint64(1) << bits.astype(np.uint64))
    return values


def planted(num: int) -> np.ndarray:
    """Rows that are near duplicates of the row before."""
    return np.arange(999, num, 1000)


def measure(num: int) -> tuple[dict[str, float], dict[str, float]]:
    """Seconds of each stage; and bytes a row, the share of planted pairs found, and the like."""
    cells = metadata(num, np.random.default_rng(num))
    seconds: dict[str, float] = {}

    def clocked(stage: str, work: Callable) -> object:
        started = time.process_time()
        made = work()
        seconds[stage] = time.process_time() - started
        return made

    groups = clocked("group", lambda: assign_groups(cells))
    for name in ("group", "status", "duplicate_id"):
        cells = cells.append_column(name, groups[name])
    split = clocked("split", lambda: split_cells(cells, SplitSettings()))
    rows = np.flatnonzero(np.asarray(split["role"]) == "train")
    labels = np.asarray(cells["label"].to_numpy(), np.int64)[rows]
    uids = cells["uid"].to_pylist()

    def plan() -> None:
        uid_keys(uids)
        plan_epoch(rows, labels, seed=0, epoch=1, balance="equal", batch_size=256, window=4096)

    clocked("plan", plan)
    phash = np.asarray([int(text, 16) for text in cells["phash"].to_pylist()], np.uint64)
    found: set[tuple[int, int]] = set()

    def search() -> None:
        for pairs in candidate_pairs(phash):
            found.update(map(tuple, pairs.tolist()))

    clocked("near duplicates", search)
    return seconds, {
        "bytes a row": cells.select([*CELL_COLUMNS, "group", "status", "duplicate_id"]).nbytes
        / num,
        "bytes a row, stored": _stored(cells) / num,
        "planted found": float(np.mean([(row - 1, row) in found for row in planted(num).tolist()])),
        "pairs proposed": len(found),
        "peak memory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def _stored(cells: pa.Table) -> int:
    """Bytes of a table as Parquet."""
    sink = pa.BufferOutputStream()
    pq.write_table(cells, sink, compression="lz4")
    return sink.getvalue().size


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--results", type=Path)
    options = parser.parse_args()
    measure(2000)  # imports and first calls
    times: list[dict[str, float]] = []
    facts: list[dict[str, float]] = []
    for num in options.rows:
        seconds, fact = measure(num)
        times.append(seconds)
        facts.append(fact)
        print(f"{num:9,} rows: {seconds} {fact}", file=sys.stderr)
    results = []
    for stage in times[0]:
        spent = [seconds[stage] for seconds in times]
        (exponent, _) = np.polyfit(np.log(options.rows), np.log(spent), 1)
        results.append(
            Result(f"{stage}: exponent of time in rows", [float(exponent)], 1.15, "", "less")
        )
        per_row = [1e6 * s / num for s, num in zip(spent, options.rows, strict=True)]
        results.append(Result(f"{stage}: time a row", per_row, unit="us"))
    for name, key in (("in memory", "bytes a row"), ("stored", "bytes a row, stored")):
        results.append(Result(f"metadata {name}", [f[key] for f in facts], 200, "B/row", "less"))
    found = [fact["planted found"] for fact in facts]
    results.append(Result("planted near duplicates found", found, 1.0))
    results.append(Result("peak memory", [fact["peak memory"] for fact in facts], unit="MB"))
    finish(results, options.results)


if __name__ == "__main__":
    main()
