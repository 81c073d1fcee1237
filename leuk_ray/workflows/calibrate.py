"""Calibrating a bundle: its decisions on cells that did not train it, scope on all of them."""

from __future__ import annotations

import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from leuk_ray.bundles.bundle import derive_bundle, lineage_of, open_bundle
from leuk_ray.bundles.lineage import CellLineage, cell_hashes
from leuk_ray.bundles.manifest import SCOPE_FILE
from leuk_ray.datasets.classes import ClassSet
from leuk_ray.datasets.leakage import origin_of
from leuk_ray.datasets.prepared import PreparedDataset
from leuk_ray.datasets.splits import rows_with_role
from leuk_ray.evaluation.calibration import (
    binary_probability,
    class_logits_of,
    fit_temperature,
    temperature_caution,
)
from leuk_ray.evaluation.conformal import fit_conformal, require_patients
from leuk_ray.evaluation.decisions import Decisions
from leuk_ray.evaluation.error_rates import ErrorRates
from leuk_ray.evaluation.guarantee import count_sizes
from leuk_ray.inference.classifier import Classifier
from leuk_ray.inference.scope import OUT_OF_SCOPE, fit_scope, measure, pixel_reasons
from leuk_ray.io.locations import Location
from leuk_ray.runs.report import predictions_table, split_of
from leuk_ray.runs.target import EvaluationTarget
from leuk_ray.utils.errors import ConfigError, DataError
from leuk_ray.utils.wording import counted
from leuk_ray.workflows.detect import read_recall
from leuk_ray.workflows.fixed_rules import count_error_rates, fix_rules

MIN_CELLS = 20
_BATCH = 32  # as evaluate


def calibrate(
    target: EvaluationTarget,
    dataset: PreparedDataset,
    out: Location,
    *,
    abstain_share: float | None = None,
    coverage: float | None = None,
    out_of_fold: pa.Table | None = None,
    misses: Path | None = None,
    max_cells: int = 2000,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Any]:
    """Write a calibrated copy of a bundle.

    Args:
        target: with a run, or where the dataset made the bundle, the validation cells calibrate,
            and with the training cells they are the scope; else all labelled, kept cells that
            the bundle has not seen do both.
        dataset: the run's dataset, or another one for a bare bundle.
        out: folder of the copy.
        abstain_share: of the calibrating cells, how many stay without an answer because
            they are the closest to the threshold, or, of more than two classes, the least
            certain; None is 0.05. It guarantees nothing.
        coverage: answer with prediction sets instead, which hold the class of a new patient's
            cell with this probability; see `evaluation.conformal`.
        out_of_fold: of an ensemble of a cross-validation's networks, the pooled predictions for
            its cells (see `workflows.out_of_fold`), each by networks that did not see the cell:
            temperature and decisions are fixed on these scores, as no cell is left that none of
            the members has seen.
        misses: detect.json of `detect --boxes`: how often the detector misses blasts and other
            cells, which intervals of the blast percentage then carry.
        max_cells: at most so many are looked at for each of the two.
        progress: called with (cells scored, cells in all).

    Returns:
        bundle, cells, fixed_on (`Decisions.basis`), caution (that of the decisions and of the
        temperature), temperature, abstain_band (of two classes), min_confidence (of more),
        prediction_sets (`Conformal` with its caution, and answered, several and none as
        `guarantee.count_sizes` counts them on these cells; None without coverage),
        scope_cells, and blast_percentage: on how many patients the error rates stand that correct
        it, or why it stays uncorrected; None where no class is positive.

    Raises:
        UserError: too few cells, one class alone, too few or unknown patients for the coverage, or
            another dataset than the run's.
    """
    if coverage is not None and abstain_share is not None:
        raise ConfigError("--coverage and --abstain: exclude each other; give one of them")
    # NaN passes click's ranges.
    if coverage is not None and not 0 < coverage < 1:
        raise ConfigError(f"--coverage {coverage}: give a probability between 0 and 1")
    abstain_share = 0.05 if abstain_share is None else abstain_share
    if not 0 <= abstain_share <= 0.9:
        raise ConfigError(f"--abstain {abstain_share}: give a share from 0 to 0.9")
    detector = None if misses is None else read_recall(misses, dataset.classes)
    bundle = open_bundle(target.bundle)
    if out_of_fold is not None:
        split = out_of_fold  # all of the role test
        parted, basis = False, "folds"
    else:
        split = split_of(target, dataset)
        parted = target.run is not None or "validation" in split["role"].to_pylist()
        basis = "validation" if parted else "unseen"
    trained, held = ("train", "validation") if parted else ("test", "test")
    rows = {
        "scope": _some(rows_with_role(dataset.cells, split, (trained, held)), max_cells),
        "decision": _some(rows_with_role(dataset.cells, split, (held,)), max_cells),
    }
    num_held = len(rows["decision"])
    labels = dataset.cells["label"].to_numpy()[rows["decision"]].astype(np.int64)
    if num_held < MIN_CELLS or len(set(labels.tolist())) < 2:
        one_class = ", all of one class" if len(set(labels.tolist())) == 1 else ""
        few = counted(num_held, f"{held} cell")
        which = "both" if len(dataset.classes) == 2 else "several"
        raise DataError(
            f"{target.run or dataset.location}: has {few} to calibrate on{one_class}; {MIN_CELLS} "
            f"of {which} classes are needed: {_larger(target, split)}"
        )
    groups = dataset.cells["group"].take(pa.array(rows["decision"])).to_pylist()
    if coverage is not None:
        if origin_of(dataset.cells, rows["decision"]) != "subject":
            raise DataError(
                f"--coverage: guarantees something for new patients, and {dataset.location} does "
                "not name the patient of every cell; prepare it with subjects, or use --abstain"
            )
        require_patients(labels, groups, dataset.classes.names, coverage)
    classifier = Classifier(bundle)
    scored = np.unique(np.concatenate(list(rows.values())))
    every_score, every_embedding, every_feature = _score(
        classifier, dataset, scored, lambda done: progress(done, len(scored))
    )
    scores = every_score[np.searchsorted(scored, rows["decision"])]
    if out_of_fold is not None:
        uids = dataset.cells["uid"].take(pa.array(rows["decision"]))
        known = out_of_fold["uid"].combine_chunks()
        scores = class_logits_of(out_of_fold.take(pc.index_in(uids, known)))  # pyright: ignore
    in_scope = np.searchsorted(scored, rows["scope"])
    embedding, features = every_embedding[in_scope], [every_feature[i] for i in in_scope.tolist()]
    temperature = fit_temperature(scores, labels)
    conformal = None
    if coverage is not None:
        names = dataset.classes.names
        conformal = fit_conformal(scores, labels, groups, names, coverage, basis=basis)
    predictions = predictions_table(
        dataset, split.filter(pc.field("role") == held), rows["decision"], scores, temperature
    )
    rules = fix_rules(
        predictions, dataset.classes, bundle.manifest, temperature, abstain_share, conformal
    )
    of_scope = dataset.cells["group"].take(pa.array(rows["scope"])).to_pylist()
    scope, neighbourhood = fit_scope(features, embedding, of_scope)
    if dataset.classes.positive:
        held_out = binary_probability(scores, temperature, dataset.classes)
        scope.typical["probability"] = (float(held_out.mean()), float(held_out.std()))
    decided_on = dataset.cells.take(pa.array(rows["decision"]))
    if dataset.classes.positive and decided_on["subject"].null_count < num_held:
        at = np.searchsorted(scored, rows["decision"])
        limit = np.inf if scope.distance is None else scope.distance
        far = neighbourhood.distance(every_embedding[at]) > limit
        out_of_scope = [
            pixel_reasons(every_feature[i], scope) or [OUT_OF_SCOPE] * bool(is_far)
            for i, is_far in zip(at.tolist(), far, strict=True)
        ]
        rates = count_error_rates(
            decided_on, scores, temperature, out_of_scope, rules, dataset.classes
        )
        rules = replace(rules, error_rates=rates.model_copy(update={"detector": detector}))
    elif detector is not None:
        raise DataError(
            f"--misses: correct the blast percentage, which needs the patients of the cells, and "
            f"{dataset.location} names none; prepare it with subjects"
        )
    calibrated = CellLineage.of("calibrated", cell_hashes(decided_on))
    derive_bundle(
        bundle,
        out,
        changes=vars(rules) | {"temperature": temperature, "scope": scope},
        add={SCOPE_FILE: neighbourhood.save},
        lineage=CellLineage.union((lineage_of(bundle) or CellLineage(), calibrated)),
    )
    return {
        "bundle": str(out),
        "cells": num_held,
        "fixed_on": _basis(labels, dataset.classes, rules.decisions),
        "caution": " ".join(
            filter(
                None,
                (
                    rules.decisions and rules.decisions.caution,
                    temperature_caution(scores, labels),
                ),
            )
        ),
        "temperature": temperature,
        "abstain_band": list(rules.abstain_band) if rules.abstain_band else None,
        "min_confidence": rules.min_confidence,
        "prediction_sets": None
        if conformal is None
        else conformal.model_dump()
        | {"caution": conformal.caution}
        | count_sizes(conformal.sets(scores)),
        "scope_cells": len(embedding),
        "blast_percentage": _blasts(rules.error_rates) if dataset.classes.positive else None,
    }


def _blasts(rates: ErrorRates | None) -> str:
    """On what a patient's blast percentage will stand."""
    if rates is None:
        return "not corrected: patients are unknown"
    if rates.shortage:
        return f"not corrected: {rates.shortage}"
    more = f"; {rates.detector.described}" if rates.detector else ""
    return f"corrected with {rates.described}{more}"


def _basis(labels: np.ndarray, classes: ClassSet, decisions: Decisions | None) -> str:
    """`Decisions.basis` of two classes; of more `40 cells (30 monocyte, 10 blast)`."""
    if len(classes) == 2:
        assert decisions is not None
        return decisions.basis(classes.binary_names)
    by_class = classes.count(labels.tolist()).items()
    return f"{counted(len(labels), 'cell')} ({', '.join(f'{n:,} {name}' for name, n in by_class)})"


def _larger(target: EvaluationTarget, split: pa.Table) -> str:
    """How to get more cells to calibrate on."""
    if target.run is None:
        return "give a dataset with more"
    cells = len(split["uid"].unique())
    tested = len(split.filter(pc.field("role") == "test")["uid"].unique()) / cells
    wanted = math.ceil(20 * 1.5 * MIN_CELLS / cells) / 20  # a little more than is needed
    if wanted + tested > 0.6:
        return f"its split has {counted(cells, 'cell')}, too few for that: prepare a larger dataset"
    shares = f"[{1 - wanted - round(tested, 2):g},{wanted:g},{round(tested, 2):g}]"
    return f"train again with a larger validation share, as split.fractions={shares}"


def _some(rows: np.ndarray, most: int) -> np.ndarray:
    """All rows, or evenly spaced ones."""
    if len(rows) <= most:
        return rows
    return rows[np.linspace(0, len(rows) - 1, most).astype(np.int64)]


def _score(
    classifier: Classifier,
    dataset: PreparedDataset,
    rows: np.ndarray,
    progress: Callable[[int], None],
) -> tuple[np.ndarray, np.ndarray, list[dict[str, float]]]:
    """Class logits, embedding and pixel features of rows.

    Batches are scored side by side, each on one thread of PyTorch: faster than one batch on all of
    them, most of all where other processes work on the same cores.
    """
    reader, threads = dataset.reader(), torch.get_num_threads()

    def score(pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray, list[dict[str, float]]]:
        scores = classifier.score(pixels)
        return scores.class_logits, scores.embedding, [measure(cell) for cell in pixels]

    parts = []
    torch.set_num_threads(1)
    try:
        with ThreadPoolExecutor(threads) as pool:
            for start in range(0, len(rows), _BATCH * threads):
                some = rows[start : start + _BATCH * threads]
                batches = [reader.read(some[i : i + _BATCH]) for i in range(0, len(some), _BATCH)]
                parts += pool.map(score, batches)
                progress(start + len(some))
    finally:
        torch.set_num_threads(threads)
    class_logits, embeddings, features = zip(*parts, strict=True)
    return np.concatenate(class_logits), np.concatenate(embeddings), [*chain(*features)]
