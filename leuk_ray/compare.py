"""Two bundles on the same cells of a dataset, none of which trained either of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from leuk_ray.bundle import Facts, read_facts
from leuk_ray.datasets.identity import check_same_dataset
from leuk_ray.datasets.prepared import PreparedDataset
from leuk_ray.datasets.splits import eligible
from leuk_ray.errors import UserError
from leuk_ray.evaluation.paired import paired_bootstrap
from leuk_ray.inference.calibration import probability
from leuk_ray.judge import Judged, check_pixels
from leuk_ray.judged import trained_on_images_of
from leuk_ray.locations import Location, join, parent
from leuk_ray.pool import score_rows
from leuk_ray.storage import exists, read_table

BOOTSTRAP: dict[str, Any] = {"seed": 0, "resamples": 2000}
_TRAINED = ("train", "validation")  # validation chose the epoch


@dataclass(frozen=True)
class Trained:
    """On what a bundle was trained: the run's split, and the protocol's name."""

    split: pa.Table
    protocol: str


def compare(
    places: tuple[Location, Location],
    dataset: PreparedDataset,
    *,
    actors: int = 1,
    gpus: bool = False,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Any]:
    """Compare two bundles by a paired bootstrap over groups; Ray must be initialised.

    The cells are those that both runs keep for testing, where the dataset is theirs; else all
    its labelled, kept cells.

    Args:
        places: two runs or bundles.
        dataset: prepared as both bundles expect it.
        actors, gpus: size of the scoring pool.
        progress: called with (cells scored, cells in all), of both bundles together.

    Returns:
        What `paired_bootstrap` returns, and `first`, `second` (names of the places), `synthetic`
        and `warnings`.

    Raises:
        UserError: the dataset has other pixels than a bundle expects, or its cells trained one
            of them or may have.
    """
    judged = [Judged.at(place) for place in places]
    facts = [read_facts(one.bundle) for one in judged]
    for one, own in zip(judged, facts, strict=True):
        check_pixels(one, own, dataset)
    splits = {
        str(place): Trained(_split(one, own, dataset), own.protocol)
        for place, one, own in zip(places, judged, facts, strict=True)
        if trained_on_images_of(dataset, own) or not own.datasets
    }
    rows = comparable_rows(dataset, splits)
    warnings = [
        f"{place}: was trained on another dataset; whether patients of this one were in it cannot "
        "be known"
        for place in map(str, places)
        if place not in splits
    ]
    logits = []
    for number, one in enumerate(judged):
        _, scored = score_rows(
            one.bundle,
            dataset,
            rows,
            actors=actors,
            gpus=gpus,
            progress=lambda done, total, before=number: progress(before * total + done, 2 * total),
        )
        logits.append(scored)
    cells = dataset.cells.take(pa.array(rows))
    before, after = (
        probability(scores, own.temperature) for scores, own in zip(logits, facts, strict=True)
    )
    found = paired_bootstrap(
        cells["label"].to_numpy(),
        before,
        after,
        cells["group"].to_pylist(),
        (facts[0].threshold, facts[1].threshold),
        **BOOTSTRAP,
    )
    names = {"first": str(places[0]), "second": str(places[1])}
    return names | {"synthetic": dataset.synthetic, "warnings": warnings} | found


def comparable_rows(dataset: PreparedDataset, known: Mapping[str, Trained]) -> np.ndarray:
    """Rows that every known split tests on, ascending, (N,); without one all that may be judged.

    Args:
        dataset: of the rows.
        known: by name, what is known to have been trained on this dataset, and how.

    Raises:
        UserError: there is none, or a group of them trained or chose one of the bundles (under
            `official-folds` a picture, as its folds join no subjects that share one).
    """
    row_of = {uid: row for row, uid in enumerate(dataset.cells["uid"].to_pylist())}
    uids = set(eligible(dataset.cells)["uid"].to_pylist())
    if known:
        uids = set.intersection(*(_uids(one.split, ("test",)) for one in known.values()))
    if not uids:
        raise UserError(
            f"{' and '.join(known) or 'compare'}: {dataset.location} has no cell to compare on; "
            "runs must share test cells"
        )
    rows = np.asarray(sorted(row_of[uid] for uid in uids), np.int64)
    for name, one in known.items():
        unit = "picture" if one.protocol == "official-folds" else "group"
        units = dataset.cells[unit].to_pylist()
        trained = {units[row_of[uid]] for uid in _uids(one.split, _TRAINED)}
        asked = {units[row] for row in rows.tolist()}
        if crossing := trained & asked:
            raise UserError(
                f"{name}: {len(crossing)} of the {len(asked)} {unit}s to compare on trained it or "
                "chose its epoch; compare on other patients"
            )
    return rows


def _uids(split: pa.Table, roles: tuple[str, ...]) -> set[str]:
    return set(split.filter(pc.field("role").isin(roles))["uid"].to_pylist())


def _split(judged: Judged, facts: Facts, dataset: PreparedDataset) -> pa.Table:
    """The split of a bundle that the dataset trained, from the run's folder around it."""
    run = parent(judged.bundle) if judged.run is None else judged.run
    split = join(run, "split.parquet")
    if facts.datasets and not exists(split):
        raise UserError(
            f"{judged.bundle}: was trained on cells of {dataset.location}, and without its run it "
            "is not known on which; give the run's folder"
        )
    advice = "compare on the dataset that trained it, or on other images"
    check_same_dataset(facts.datasets, dataset, judged.bundle, advice, split)
    return read_table(split)
