"""Judging a bundle on a dataset: every row of a role scored once, then the report."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import yaml

from leuk_ray.bundle import BundleFacts, Facts, find_bundle, read_facts
from leuk_ray.datasets.audit import audit_cells
from leuk_ray.datasets.prepared import PreparedDataset
from leuk_ray.datasets.splits import (
    copies_with_role,
    describe,
    eligible,
    is_leaky,
    rows_with_role,
)
from leuk_ray.environment import environment
from leuk_ray.errors import UserError
from leuk_ray.evaluation.report import RunFacts, write_report
from leuk_ray.inference.calibration import probability
from leuk_ray.locations import Location, join
from leuk_ray.prediction import score_rows
from leuk_ray.progress import note
from leuk_ray.storage import read_bytes, read_json, read_table, refuse_existing, write_table
from leuk_ray.training.attempts import interruptions

_COUNTS = (
    "files",
    "rejected",
    "rows",
    "ALL",
    "healthy",
    "unlabelled",
    "subjects",
    "groups",
    "roles",
)


@dataclass(frozen=True)
class Judged:
    """What is judged: a bundle, and the run that made it where there is one."""

    bundle: Location
    run: Location | None

    @classmethod
    def at(cls, path: Location) -> Judged:
        """A run's folder, or a bundle's."""
        bundle = find_bundle(path)
        return cls(bundle, None if bundle == path else path)


def judge(
    judged: Judged,
    dataset: PreparedDataset,
    out: Location,
    *,
    roles: tuple[str, ...] = ("test",),
    actors: int = 1,
    gpus: bool = False,
    show_images: bool = True,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict:
    """Score the rows of `roles` on a pool of actors and report on them in the folder `out`.

    Args:
        judged: with a run, rows and roles come from its split; a bare bundle is judged on
            all labelled, kept cells of the dataset as `test`.
        dataset: the run's dataset, or another one for a bare bundle.
        out: report folder to make; predictions.parquet lies in it.
        roles: which rows to score.
        actors, gpus: size of the scoring pool.
        show_images: False keeps every picture of a cell out of the report.
        progress: called with (cells scored, cells in all).

    Returns:
        The content of report.json.

    Raises:
        UserError: another dataset than the run's, nothing to judge, or `out` exists.
    """
    refuse_existing(out, "report")
    split = split_of(judged, read_facts(judged.bundle), dataset)
    if copies_with_role(split, roles) is not None:
        raise UserError(
            f"{judged.run}: paper-literal tests on augmented copies, which training scores; read "
            "its own report/, or judge its bundle/ on the cells as they are"
        )
    rows = rows_with_role(dataset.cells, split, roles)
    if not len(rows):
        raise UserError(f"{dataset.location}: has no cell to judge in {', '.join(roles)}")
    rows, logits = score_rows(
        judged.bundle, dataset, rows, actors=actors, gpus=gpus, progress=progress
    )
    return report_on(judged, dataset, rows, logits, out, show_images=show_images)


def report_on(
    judged: Judged,
    dataset: PreparedDataset,
    rows: np.ndarray,
    logits: np.ndarray,
    out: Location,
    *,
    copies: np.ndarray | None = None,
    show_images: bool = True,
) -> dict:
    """Report on scored rows: predictions.parquet and the report in the folder `out`.

    Args:
        judged, dataset, out, show_images: see `judge`.
        rows: (N,) dataset rows, in the order of the split.
        logits: (N,) their log-odds of ALL.
        copies: (N,) under `paper-literal`, which copy of the row was scored.
    """
    facts = read_facts(judged.bundle)
    split = split_of(judged, facts, dataset)
    cells = dataset.cells.take(pa.array(rows))
    columns = ["uid", "subject", "group", "label"]
    if copies is not None:
        cells = cells.append_column("copy", pa.array(copies, pa.int64()))
        columns.append("copy")
    predictions = (
        cells.select(columns)
        .append_column("role", _roles(split, cells))
        .append_column("logit", pa.array(logits, pa.float64()))
        .append_column("probability", pa.array(probability(logits, facts.temperature)))
    )
    row_of = dict(zip(cells["uid"].to_pylist(), rows.tolist(), strict=True))
    reader = dataset.reader()

    def pictures(uids: list[str]) -> list[np.ndarray]:
        return list(reader.read(np.asarray([row_of[uid] for uid in uids], np.int64)))

    note("report: drawing figures")
    report = write_report(
        out,
        run=_facts(judged, facts, dataset, split),
        predictions=predictions,
        history=_history(judged),
        threshold=facts.threshold,
        images=pictures if show_images else None,
        audit=_audit_summary(dataset),
    )
    write_table(join(out, "predictions.parquet"), predictions)
    return report


def _roles(split: pa.Table, cells: pa.Table) -> pa.Array:
    """The role that a split gives each of `cells`, or each copy."""
    names = [name for name in ("uid", "copy") if name in split.column_names]
    known = zip(*(split[name].to_pylist() for name in names), strict=True)
    role_of = dict(zip(known, split["role"].to_pylist(), strict=True))
    wanted = zip(*(cells[name].to_pylist() for name in names), strict=True)
    return pa.array([role_of[key] for key in wanted])


def split_of(judged: Judged, facts: Facts, dataset: PreparedDataset) -> pa.Table:
    """The run's split; for a bare bundle every labelled, kept cell as `test`.

    Raises:
        UserError: another dataset than the run's.
    """
    if judged.run is None:
        cells = eligible(dataset.cells)
        role = pa.array(["test"] * len(cells))
        return cells.select(["uid", "subject", "group"]).append_column("role", role)
    if dataset.facts["fingerprint"] != facts.dataset_fingerprint:
        raise UserError(
            f"{dataset.location}: is not the dataset of {judged.run}; give that one, or judge "
            f"{judged.bundle} on this one"
        )
    return read_table(join(judged.run, "split.parquet"))


def _facts(judged: Judged, facts: Facts, dataset: PreparedDataset, split: pa.Table) -> RunFacts:
    history = _history(judged)
    config = facts.model_dump(mode="json", include={"model", "members", "rule", "storage"})
    notes = []
    if judged.run is None:
        notes.append("A bundle judged on a dataset of its own: every kept, labelled cell is test.")
    else:
        config = yaml.safe_load(read_bytes(join(judged.run, "config.yaml")))
        notes += batch_norm_notes(config["training"], history)
        notes += interruption_notes(interruptions(judged.run))
        if isinstance(facts, BundleFacts):  # a report tells no path of this machine
            config["model"]["weights"] = facts.model.weights
    stopping = {"epochs": len(history), "best_epoch": facts.metrics.get("epoch")} if history else {}
    return RunFacts(
        title=f"{facts.recipe} on {dataset.facts['layout']}",
        recipe=facts.recipe,
        protocol=facts.protocol,
        leaky=is_leaky(facts.protocol),
        synthetic=dataset.synthetic,
        best_auc=dataset.facts.get("best_auc"),
        dataset_fingerprint=dataset.facts["fingerprint"],
        dataset_counts={name: dataset.facts["counts"][name] for name in _COUNTS},
        roles=describe(split, dataset.cells),
        config=config,
        environment=_environment(judged),
        stopping=stopping | ({"reason": facts.metrics["stopped"]} if history else {}),
        notes=notes,
    )


def batch_norm_notes(training: dict, history: list[dict]) -> list[str]:
    """Which cells BatchNorm normalised by, where that depends on how the run was placed."""
    seen = dict.fromkeys((line["workers"], line["batch_norms"]) for line in history)
    notes = []
    for workers, layers in seen:
        passes = 1 if training["sync_batchnorm"] else workers
        passes *= training["accumulate"]
        if layers == 0 or passes == 1:
            continue
        epochs = [line["epoch"] for line in history if line["workers"] == workers]
        whole = " of all workers" if training["sync_batchnorm"] else " of one worker"
        notes.append(
            f"BatchNorm, epochs {min(epochs)} to {max(epochs)}: {workers} workers; {layers} layers "
            f"normalised by a pass{whole}, about {training['batch_size'] / passes:g} of a batch's "
            f"{training['batch_size']} cells. Running statistics are the mean over the workers, "
            "taken once an epoch."
        )
    return notes


def interruption_notes(items: list[dict]) -> list[str]:
    """What was lost during the run, and that it went on."""
    return [
        f"Interrupted at {item['time']} after {item['epochs_done']} epochs: worker "
        f"{', '.join(map(str, item['lost_workers']))} was lost. The run went on from its last "
        "checkpoint."
        for item in items
    ]


def _environment(judged: Judged) -> dict:
    if judged.run is None:
        return environment()
    return read_json(join(judged.run, "environment.json"))


def _history(judged: Judged) -> list[dict]:
    if judged.run is None:
        return []
    lines = read_bytes(join(judged.run, "metrics.jsonl")).splitlines()
    return [json.loads(line) for line in lines]


def _audit_summary(dataset: PreparedDataset) -> dict:
    audit = audit_cells(dataset.cells)
    return {
        "identical images": audit["identical_images"],
        "of these under several subjects": audit["identical_images_across_subjects"],
        "largest group": "{group} ({cells} cells)".format(**audit["largest_group"]),
        "warnings": audit["warnings"],
    }
