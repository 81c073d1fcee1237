"""Two bundles on the same cells of a dataset, none of which trained either of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from leuk_ray.bundles.hub import fetch, is_on_hub
from leuk_ray.bundles.manifest import MANIFEST, WEIGHTS, BundleManifest
from leuk_ray.datasets.classes import ClassSet
from leuk_ray.datasets.leakage import NO_INTERVALS, origin_of
from leuk_ray.datasets.prepared import PreparedDataset
from leuk_ray.evaluation.class_report import ClassCells, binary_view
from leuk_ray.evaluation.decided import FOLD
from leuk_ray.evaluation.paired import paired_bootstrap, paired_classes
from leuk_ray.io.locations import Location, join, name_of
from leuk_ray.io.storage import exists
from leuk_ray.runs.report import check_pixels, score_columns
from leuk_ray.runs.target import EvaluationTarget
from leuk_ray.utils.errors import DataError
from leuk_ray.utils.wording import counted, natural
from leuk_ray.workflows.comparable import (
    Trained,
    comparable_rows,
    count_tested,
    split_here,
    tested_uids,
    why_other,
)
from leuk_ray.workflows.out_of_fold import is_crossval, out_of_fold, require_same_folds
from leuk_ray.workflows.pool import DEFAULT, Pool, score_rows

BOOTSTRAP: dict[str, Any] = {"seed": 0, "resamples": 2000}


@dataclass(frozen=True)
class Part:
    """Two bundles and the rows they are compared on: all there is, or one fold."""

    targets: tuple[EvaluationTarget, EvaluationTarget]
    rows: np.ndarray


def compare(
    places: tuple[Location, Location],
    dataset: PreparedDataset,
    pool: Pool = DEFAULT,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Any]:
    """Compare two bundles of the same classes by a paired bootstrap over groups.

    The cells are those that both runs keep for testing, where the dataset is theirs; else all
    its labelled, kept cells. Of two cross-validations over the same folds their own pooled
    out-of-fold scores are compared, averaged over seeds; of two folders of runs, those of all
    folds' test cells.

    Args:
        places: two runs or bundles; or two cross-validations; or folders or patterns of runs, a
            run a fold.
        dataset: prepared as the bundles expect it.
        pool: where to score.
        progress: called with (cells scored, cells in all), of both sides together.

    Returns:
        What `paired_bootstrap` returns, or of more than two classes `paired_classes`, which then
        has that of the positive classes against the others as `binary` (None where no class is
        positive); and `first`, `second` (names of the places), `folds`,
        `tested` (cells that each side keeps for testing; None where that is not known),
        `why_few` (why fewer are compared; else empty), `synthetic` and `warnings`.

    Raises:
        UserError: the dataset has other pixels than a bundle expects, its cells trained one of
            them or may have, or two cross-validations are not over the same folds.
    """
    first, second = (fetch(str(one)) if is_on_hub(one) else one for one in places)
    places = (first, second)
    if all(is_crossval(place) for place in places):
        return _compare_crossvals(places, dataset)
    sides = [find_runs(place) for place in places]
    parts, known = [], []
    for pair in _same_folds(places, sides, dataset):
        for one in pair:
            check_pixels(one, dataset)
        names = [str(one.run or one.bundle) for one in pair]
        splits = {
            name: Trained(split, one.manifest.protocol)
            for name, one in zip(names, pair, strict=True)
            if (split := split_here(one, dataset)) is not None
        }
        parts.append(Part(pair, comparable_rows(dataset, splits)))
        known.append([splits.get(name) for name in names])
    tested = [count_tested([pair[side] for pair in known]) for side in (0, 1)]
    rows = np.concatenate([part.rows for part in parts])
    warnings = [
        f"{place}: was trained on another dataset; whether patients of this one were in it cannot "
        "be known"
        for place, count in zip(places, tested, strict=True)
        if count is None
    ]
    warnings += _same_weights(places, parts)
    thresholds = [_threshold(place, parts, side) for side, place in enumerate(places)]
    scored = [_score(parts, side, dataset, pool, progress) for side in (0, 1)]
    withheld = NO_INTERVALS if origin_of(dataset.cells, rows) == "image" else ""
    found = _paired(scored, thresholds, dataset.classes, withheld)
    few = [count for count in tested if count is not None and count > len(rows)]
    return {
        "first": str(places[0]),
        "second": str(places[1]),
        "folds": len(parts),
        "tested": tested,
        "why_few": why_other(*parts[0].targets) if few else "",
        "synthetic": dataset.synthetic,
        "warnings": warnings,
        **found,
    }


def _compare_crossvals(
    places: tuple[Location, Location], dataset: PreparedDataset
) -> dict[str, Any]:
    """Compare the pooled out-of-fold scores of two cross-validations over the same folds."""
    tables = [out_of_fold(place, dataset) for place in places if isinstance(place, Path)]
    require_same_folds(places, tables)
    row_of = {uid: row for row, uid in enumerate(dataset.cells["uid"].to_pylist())}
    rows = np.asarray([row_of[uid] for uid in tables[0]["uid"].to_pylist()], np.int64)
    withheld = NO_INTERVALS if origin_of(dataset.cells, rows) == "image" else ""
    return {
        "first": str(places[0]),
        "second": str(places[1]),
        "folds": len(set(tables[0][FOLD].to_pylist())),
        "tested": [len(rows)] * 2,
        "why_few": "",
        "synthetic": dataset.synthetic,
        "warnings": [],
        **_paired(tables, [0.5, 0.5], dataset.classes, withheld),
    }


def find_runs(place: Location) -> list[EvaluationTarget]:
    """Return a run or bundle; else the runs in a folder, or those that a pattern names, in order.

    Raises:
        UserError: there is none.
    """
    if isinstance(place, Path) and exists(join(place, "crossval.yaml")):
        place = place / "runs"
    if isinstance(place, Path) and not exists(join(place, "bundle.json")):
        folders = list(place.iterdir()) if place.is_dir() else []
        if "*" in str(place):
            folders = list(Path("/").glob(str(place.absolute())[1:]))
        runs = [folder for folder in folders if exists(join(folder, "bundle", "bundle.json"))]
        if runs and not exists(join(place, "bundle", "bundle.json")):
            return [
                EvaluationTarget.at(folder)
                for folder in sorted(runs, key=lambda one: natural(str(one)))
            ]
    if not any(exists(join(folder, "bundle.json")) for folder in (place, join(place, "bundle"))):
        raise DataError(
            f"{place}: holds no bundle; give a run, a bundle, the folder of a cross-validation, or "
            "a folder or pattern of runs"
        )
    return [EvaluationTarget.at(place)]


def _same_folds(
    places: tuple[Location, Location], sides: list[list[EvaluationTarget]], dataset: PreparedDataset
) -> list[tuple[EvaluationTarget, EvaluationTarget]]:
    """Pair runs of both sides that test the same cells; two alone are a pair as they are."""
    first, second = sides
    if len(first) == len(second) == 1:
        return [(first[0], second[0])]
    advice = "cross-validate both with the same split settings and split.fold=0, 1, ..."
    if len(first) != len(second):
        counts = " and ".join(
            f"{place} has {counted(len(side), 'run')}"
            for place, side in zip(places, sides, strict=True)
        )
        raise DataError(f"{counts}: {advice}")
    tests = [{tested_uids(one, dataset): one for one in side} for side in sides]
    if len(tests[0]) < len(first) or sum(map(len, tests[0])) > len(frozenset().union(*tests[0])):
        raise DataError(f"{places[0]}: its runs test some cells more than once; {advice}")
    for test, one in tests[0].items():
        if test not in tests[1]:
            raise DataError(f"{one.run}: no run of {places[1]} tests the same cells; {advice}")
    return [(one, tests[1][test]) for test, one in tests[0].items()]


def _same_weights(places: tuple[Location, Location], parts: list[Part]) -> list[str]:
    """Say what differs between two bundles whose networks are the same file; nothing of others."""
    pairs = [[one.manifest for one in part.targets] for part in parts]
    if any(_network_hashes(first) != _network_hashes(second) for first, second in pairs):
        return []
    temperatures = [f"{manifest.temperature:.3g}" for manifest in pairs[0]]
    thresholds = [f"{manifest.threshold:.3g}" for manifest in pairs[0]]
    return [
        f"{places[0]} and {places[1]}: have the same weights; only temperature "
        f"({' and '.join(temperatures)}) and threshold ({' and '.join(thresholds)}) can make a "
        "difference here, and when they abstain is not compared: `leuk-ray evaluate` measures that"
    ]


def _network_hashes(manifest: BundleManifest) -> dict[str, str]:
    """SHA-256 of the weights, or of an ensemble the manifests of its members."""
    parts = (WEIGHTS, MANIFEST)
    return {name: own for name, own in manifest.files.items() if name_of(name) in parts}


def _threshold(place: Location, parts: list[Part], side: int) -> float:
    """Return that of all runs of one side."""
    found = {part.targets[side].manifest.threshold for part in parts}
    if len(found) > 1:
        raise DataError(f"{place}: its runs have several thresholds; compare them one by one")
    return found.pop()


def _paired(
    scored: list[pa.Table], thresholds: list[float], classes: ClassSet, withheld: str
) -> dict[str, Any]:
    """Compare the tables of scores of both sides."""
    binary = None
    if classes.positive:
        first, second = (binary_view(table, classes) for table in scored)
        binary = paired_bootstrap(
            first["label"].to_numpy(),
            first["probability"].to_numpy(),
            second["probability"].to_numpy(),
            first["group"].to_pylist(),
            (thresholds[0], thresholds[1]),
            **BOOTSTRAP,
            withheld=withheld,
            names=classes.binary_names,
        )
        if len(classes) == 2:
            return binary
    first, second = (ClassCells.of(table, classes, 1.0, thresholds[0]) for table in scored)
    found = paired_classes(first, second, classes, **BOOTSTRAP, withheld=withheld)
    return found | {"binary": binary}


def _score(
    parts: list[Part],
    side: int,
    dataset: PreparedDataset,
    pool: Pool,
    progress: Callable[[int, int], None],
) -> pa.Table:
    """Label, group and calibrated scores of all parts' rows, in order, by the bundles of one side.

    The class logits are divided by each bundle's temperature already.
    """
    total = 2 * sum(len(part.rows) for part in parts)
    done, tables = side * total // 2, []
    for part in parts:
        _, scores = score_rows(
            part.targets[side].bundle,
            dataset,
            part.rows,
            pool,
            lambda scored, _, before=done: progress(before + scored, total),
        )
        done += len(part.rows)
        table = dataset.cells.take(pa.array(part.rows)).select(["label", "group"])
        temperature = part.targets[side].manifest.temperature
        for name, column in score_columns(scores / temperature, 1.0, dataset.classes).items():
            table = table.append_column(name, column)
        tables.append(table)
    return pa.concat_tables(tables)
