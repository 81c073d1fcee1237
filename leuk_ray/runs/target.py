"""What a report says of a run besides its predictions."""

from __future__ import annotations

import itertools
import json
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pyarrow as pa

from leuk_ray.bundles.bundle import find_bundle
from leuk_ray.bundles.lineage import CellLineage
from leuk_ray.bundles.manifest import BundleManifest, ModelManifest, network_title, read_manifest
from leuk_ray.datasets.leakage import Leakage, find_leakage, origin_of
from leuk_ray.datasets.prepared import PreparedDataset
from leuk_ray.datasets.protocols import PROTOCOLS
from leuk_ray.datasets.split_summary import describe
from leuk_ray.datasets.splits import rows_with_role
from leuk_ray.evaluation.report_model import ReportContext
from leuk_ray.io.locations import Location, join
from leuk_ray.io.storage import read_bytes, read_json
from leuk_ray.runs.seen import SeenCells
from leuk_ray.training.attempts import interruptions
from leuk_ray.utils.parsing import parse_yaml
from leuk_ray.utils.provenance import environment
from leuk_ray.utils.wording import counted

_OLD = "The bundle was written by an older leuk_ray, which did not record its images"
_COUNTS = (
    "files",
    "rejected",
    "skipped",
    "rows",
    "classes",
    "unlabelled",
    "subjects",
    "groups",
    "statuses",
)


@dataclass(frozen=True)
class EvaluationTarget:
    """What is evaluated: a bundle, and the run that made it where there is one.

    Each of their files is read once, when it is first asked for.
    """

    bundle: Location
    run: Location | None

    @classmethod
    def at(cls, path: Location) -> EvaluationTarget:
        """Return a run's folder, or a bundle's."""
        bundle = find_bundle(path)
        return cls(bundle, path if bundle == join(path, "bundle") else None)

    @cached_property
    def manifest(self) -> BundleManifest:
        """What the bundle says of itself."""
        return read_manifest(self.bundle)

    @cached_property
    def lineage(self) -> CellLineage | None:
        """Which cells made the bundle; None where that was not recorded."""
        return CellLineage.read(self.bundle, self.manifest.lineage)

    @cached_property
    def config(self) -> dict[str, Any]:
        """The recipe of the run, as config.yaml has it; empty without a run."""
        if self.run is None:
            return {}
        place = join(self.run, "config.yaml")
        return parse_yaml(read_bytes(place), place)

    @cached_property
    def history(self) -> list[dict[str, Any]]:
        """One row an epoch; none without a run."""
        if self.run is None:
            return []
        return [
            json.loads(line) for line in read_bytes(join(self.run, "metrics.jsonl")).splitlines()
        ]


def dataset_counts(dataset: PreparedDataset) -> dict[str, Any]:
    """Say what a report says of the files and rows of a dataset."""
    counts = dataset.manifest["counts"]
    return {"skipped": 0} | {name: n for name, n in counts.items() if name in _COUNTS}


def report_context(
    target: EvaluationTarget, dataset: PreparedDataset, split: pa.Table
) -> ReportContext:
    """Say what the report says of a run, or of a bundle on a dataset, besides predictions."""
    manifest, history = target.manifest, target.history
    config = manifest.model_dump(mode="json", include={"model", "members", "rule", "storage"})
    notes = []
    if target.run is None:
        notes.append(_what_is_tested(target, dataset, split))
    else:
        config = target.config | {"model": dict(target.config["model"])}
        notes += batch_norm_notes(config["training"], history)
        notes += probe_notes(history)
        notes += interruption_notes(interruptions(target.run))
        if isinstance(manifest, ModelManifest):  # reports contain no path of this machine
            config["model"]["weights"] = manifest.model.weights
    leakage = _leakage(target, dataset, split)
    stopping = (
        {"epochs": len(history), "best_epoch": manifest.metrics.get("epoch")} if history else {}
    )
    return ReportContext(
        title=f"{manifest.recipe} on {dataset.manifest['layout']}",
        recipe=manifest.recipe,
        protocol=manifest.protocol,
        leaky=leakage.leaky,
        leakage=leakage.text,
        no_intervals=leakage.no_intervals,
        seen=leakage.seen,
        synthetic=dataset.synthetic,
        best_auc=dataset.manifest.get("best_auc"),
        dataset_fingerprint=dataset.identity.fingerprint,
        dataset_counts=dataset_counts(dataset),
        roles=describe(split, dataset.cells, dataset.classes),
        config=config,
        environment=_environment(target),
        stopping=stopping | ({"reason": manifest.metrics["stopped"]} if history else {}),
        notes=notes,
        temperature=manifest.temperature,
        test_set=_official_set(dataset, split),
        classes=dataset.classes,
        network=network_title(manifest),
        unit=_unit(target, leakage),
        pixels=f"decoded to RGB, {manifest.storage.crop} crop, {manifest.storage.size} px a side",
        external=_external(target, dataset),
    )


def _leakage(target: EvaluationTarget, dataset: PreparedDataset, split: pa.Table) -> Leakage:
    """Of a run by its split; of a bundle alone by what trained it."""
    if target.run is not None:
        return find_leakage(split, dataset.cells)
    if target.lineage is not None:
        return SeenCells(dataset.cells, target.lineage).leakage(split)
    rows = rows_with_role(dataset.cells, split, ("test",))
    origin = origin_of(dataset.cells, rows)
    if trained_on_images_of(dataset, target.manifest):
        reason = "This dataset trained the bundle, and most of these cells trained it."
        return Leakage(True, reason, origin)
    reason = (
        "These cells are not from the dataset that trained the bundle, and a bundle does not say "
        "which patients trained it. See to it that none of these did."
    )
    if not target.manifest.datasets:
        reason = f"{_OLD}, so whether these cells trained it is not known."
    return Leakage(None, reason, origin)


def _what_is_tested(target: EvaluationTarget, dataset: PreparedDataset, split: pa.Table) -> str:
    """Which cells of a dataset a bundle alone is evaluated on."""
    if target.lineage is not None and set(split["role"].to_pylist()) != {"test"}:
        counts = SeenCells(dataset.cells, target.lineage).counts
        return f"A bundle evaluated on cells that it has not seen: {counts}."
    return "A bundle evaluated on a dataset of its own: every kept, labelled cell is a test cell."


def _unit(target: EvaluationTarget, leakage: Leakage) -> str:
    """Say what no two roles share, in words; empty where there is one role or no known protocol."""
    if target.run is None:
        return _GROUP[leakage.origin] if leakage.leaky is False else ""
    if target.manifest.protocol not in PROTOCOLS:
        return ""
    unit = PROTOCOLS[target.manifest.protocol].unit
    return _GROUP[leakage.origin] if unit == "group" else _UNIT[unit]


_GROUP = {
    "subject": "groups: a subject with all that share an image with it",
    "field": "fields of view with the cells cut from them",
    "image": "images: neither subjects nor fields of view are known",
}
_UNIT = {
    "duplicate_id": "pictures, in the dataset's own folds of subjects",
    "site": "sites",
    "uid": "images",
    "copy": "augmented copies of images",
}


def _official_set(dataset: PreparedDataset, split: pa.Table) -> str:
    """`c-nmc-preliminary` where all of C-NMC's preliminary set, and nothing else, is tested."""
    if dataset.synthetic or dataset.manifest["layout"] != "c-nmc":
        return ""
    tested = dataset.cells.take(pa.array(rows_with_role(dataset.cells, split, ("test",))))
    sets = set(tested["official_split"].to_pylist())
    return "c-nmc-preliminary" if sets == {"preliminary"} else ""


def _external(target: EvaluationTarget, dataset: PreparedDataset) -> str:
    """Whether the test cells come from another dataset than the training's, where it is known."""
    if trained_on_images_of(dataset, target.manifest):
        return "none: the test cells are from the dataset that trained" if target.run else ""
    if not target.manifest.datasets:
        return f"not known. {_OLD}"
    name = dataset.identity.fingerprint[:12]
    if target.lineage is not None:
        seen = int((SeenCells(dataset.cells, target.lineage).role >= 0).sum())
        of = counted(len(dataset.cells), "image")
        return f"dataset {name}: {seen:,} of its {of} made the bundle"
    return f"dataset {name}: not the training's set of images; single ones may be in both"


def trained_on_images_of(dataset: PreparedDataset, manifest: BundleManifest) -> bool:
    """Say whether a bundle trained on the images of a dataset, whatever their labels or crop."""
    return any(one.images == dataset.identity.images for one in manifest.datasets)


def batch_norm_notes(training: dict[str, Any], history: list[dict[str, Any]]) -> list[str]:
    """Say which cells BatchNorm normalised by, where that depends on how the run was placed."""
    notes = []
    for (workers, layers), alike in itertools.groupby(
        history, lambda line: (line["workers"], line["batch_norms"])
    ):
        shares = 1 if training["sync_batchnorm"] else workers
        shares *= training["accumulate"]
        if layers == 0 or shares == 1:
            continue
        epochs = [line["epoch"] for line in alike]
        whole = " of all workers" if training["sync_batchnorm"] else " of one worker"
        notes.append(
            f"BatchNorm, epochs {min(epochs)} to {max(epochs)}: {counted(workers, 'worker')}; "
            f"{counted(layers, 'layer')} "
            f"normalised by a pass{whole}, about {training['batch_size'] / shares:g} of a batch's "
            f"{training['batch_size']} cells. Running statistics are the mean over the workers, "
            "taken once an epoch."
        )
    return notes


def probe_notes(history: list[dict[str, Any]]) -> list[str]:
    """Say how the head of a probe was fitted; none where there was no probe."""
    if not history or "penalty" not in history[-1]:
        return []
    line = history[-1]
    how = (
        f"chosen on {line['penalty_folds']} inner folds of groups of the training cells, mean "
        f"log-loss of the cells left out {line['penalty_loss']:.3f}"
        if line["penalty_folds"]
        else "not chosen on these cells, since a class of them is in one group"
    )
    return [
        "A probe: the backbone is as it was pretrained, and the head is logistic regression on its "
        f"standardized features, fitted to {line['train_images']:,} cells; L2 penalty "
        f"C = {line['penalty']:g}, {how}."
    ]


def interruption_notes(items: list[dict[str, Any]]) -> list[str]:
    """Say what stopped the run on its way, where it went on, and with how many workers."""
    return [_interruption(**item) for item in items]


def _interruption(
    time: str,
    lost_workers: list[int],
    preempted: bool,
    epochs_done: int,
    workers_before: int,
    workers_after: int,
) -> str:
    if lost_workers:
        what = f"worker {', '.join(map(str, lost_workers))} was lost"
        what += ", its node preempted" if preempted else ""
    elif workers_before == workers_after:
        what = "started anew"
    else:
        what = "another number of workers"
    size = counted(workers_after, "worker")
    if workers_before != workers_after:
        size += f" instead of {workers_before}"
    return f"Interrupted at {time}: {what}. Went on after epoch {epochs_done} with {size}."


def _environment(target: EvaluationTarget) -> dict[str, Any]:
    if target.run is None:
        return environment()
    return read_json(join(target.run, "environment.json"))
