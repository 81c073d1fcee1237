"""Cross-validation: every cell is scored once by a network that did not train on it.

crossval.yaml  environment.json  runs.jsonl  runs/seed0.fold0/ ...  baselines/  report/
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from leuk_ray.bundles.bundle import write_ensemble
from leuk_ray.bundles.manifest import MAX_MEMBERS
from leuk_ray.datasets.classes import ClassSet
from leuk_ray.datasets.leakage import Leakage, find_leakage
from leuk_ray.datasets.prepared import PreparedDataset
from leuk_ray.datasets.split_summary import describe
from leuk_ray.evaluation.calibration import class_logits_of
from leuk_ray.evaluation.class_report import ClassCells
from leuk_ray.evaluation.conformal import require_patients
from leuk_ray.evaluation.decided import FOLD
from leuk_ray.evaluation.metrics import evaluate
from leuk_ray.evaluation.report import write_report
from leuk_ray.evaluation.report_model import Report, ReportContext
from leuk_ray.evaluation.rules import DecisionRules
from leuk_ray.io.locations import Location
from leuk_ray.io.storage import read_json, read_table, refuse_existing, remove
from leuk_ray.recipes.recipe import Recipe
from leuk_ray.runs.executor import Executor
from leuk_ray.runs.placement import Resources
from leuk_ray.runs.report import audit_summary, score_columns
from leuk_ray.runs.root import RunsRoot
from leuk_ray.runs.spec import RunSpec, make_splits, split_key
from leuk_ray.runs.target import EvaluationTarget, dataset_counts
from leuk_ray.training.cells import check_run
from leuk_ray.utils.errors import ConfigError, UserError
from leuk_ray.utils.progress import note
from leuk_ray.utils.scratch import temporary
from leuk_ray.utils.settings import Settings
from leuk_ray.utils.wording import counted
from leuk_ray.workflows.baselines import beside_baselines
from leuk_ray.workflows.calibrate import calibrate
from leuk_ray.workflows.out_of_fold import out_of_fold

THRESHOLD = 0.5
_ORDER = ("role", FOLD, "uid")


class Started(Settings):
    """What a cross-validation's folder belongs to: crossval.yaml."""

    recipe: Recipe
    folds: int
    seeds: int


def crossval(
    recipe: Recipe,
    dataset: PreparedDataset,
    out: Path,
    *,
    folds: int,
    seeds: int = 1,
    connect: Callable[[], None],
    resources: Resources | None = None,
    resume: bool = False,
    show_images: bool = True,
    bundle: Location | None = None,
    coverage: float | None = None,
) -> Report:
    """Train a run for each fold and seed, and report on the pooled out-of-fold scores.

    The folds are the same for every seed. With several seeds a cell's log-odds are averaged over
    them, so that the report is of their ensemble; a note gives the spread between single seeds.
    Where some class is positive, the classical baselines are fitted and compared over the same
    folds. Runs that have ended are never repeated.

    Args:
        recipe: its protocol parts the cells; its `seed` is the first.
        dataset: what is cross-validated on.
        out: folder of the cross-validation; on a cluster, on storage that all nodes see.
        folds: 2 or more.
        seeds: trainings of each fold.
        connect: joins or starts Ray; called when everything has been checked.
        resources: what one run takes.
        resume: go on with the cross-validation that lies there.
        show_images: False keeps every picture of a cell out of the report.
        bundle: where to write an ensemble of all runs' networks, calibrated on the out-of-fold
            scores.
        coverage: of its prediction sets; see `workflows.calibrate.calibrate`.

    Raises:
        UserError: what cannot work, before any run starts; or a run failed.
    """
    out, resources = out.absolute(), resources or Resources()
    specs = _specs(recipe, folds, seeds)
    splits = make_splits(dataset, [spec.resolved for spec in specs])
    _check_tested_once(splits, recipe)
    for spec in specs[:folds]:
        split = splits[split_key(spec.resolved)]
        check_run(spec.resolved, dataset, split, resources.workers, resources.gpus > 0)
    if bundle is None and coverage is not None:
        raise ConfigError("--coverage: calibrates an ensemble; add --bundle DIR")
    if bundle is not None:
        _check_ensemble(bundle, dataset, splits, len(specs), coverage)
    root = RunsRoot(out, "crossval", Started(recipe=recipe, folds=folds, seeds=seeds), dataset)
    resuming = root.check(resume=resume)
    connect()
    executor = Executor(out, dataset, resources, splits, evaluated=True)
    if not resuming:
        root.start()
    executor.run_all(specs, f"crossval {recipe.name}")
    records = executor.table.records()
    if failed := [spec.name for spec in specs if not records[spec.name].done]:
        raise UserError(
            f"{out}: {counted(len(failed), 'run')} failed ({failed[0]}: "
            f"{records[failed[0]].reason}); fix the cause, then rerun with --resume"
        )
    tables = [_scores(out, spec) for spec in specs]
    by_seed = [
        pa.concat_tables(tables[n * folds : (n + 1) * folds], promote_options="default")
        for n in range(seeds)
    ]
    by_seed = [table.sort_by([(name, "ascending") for name in _ORDER]) for table in by_seed]
    leakages = [find_leakage(split, dataset.cells) for split in splits.values()]
    pooled = pool_seeds(by_seed, dataset.classes)
    context = _context(recipe, dataset, folds, by_seed, leakages, out)
    if dataset.classes.positive:
        beside, missing = beside_baselines(
            out / "baselines",
            dataset,
            [splits[split_key(spec.resolved)] for spec in specs[:folds]],
            range(recipe.seed, recipe.seed + seeds),
            pooled.filter(pc.field("role") == "test"),
            context.no_intervals,
        )
        context = replace(context, baselines=beside, notes=[*context.notes, *missing])
    note("crossval: writing the report")
    remove(out / "report")  # a resumed cross-validation is reported again
    report = write_report(
        out / "report",
        run=context,
        predictions=pooled,
        history=[],
        rules=DecisionRules(THRESHOLD),
        images=_pictures(dataset) if show_images else None,
        audit=audit_summary(dataset),
    )
    if bundle is not None:
        note("crossval: calibrating the ensemble")
        with temporary("ensemble") as scratch:
            members = [out / "runs" / spec.name / "bundle" for spec in specs]
            write_ensemble(scratch / "bundle", members, "soft")
            calibrate(
                EvaluationTarget.at(scratch / "bundle"),
                dataset,
                bundle,
                coverage=coverage,
                out_of_fold=out_of_fold(out, dataset),
            )
    return report


def _check_ensemble(
    bundle: Location,
    dataset: PreparedDataset,
    splits: Mapping[str, pa.Table],
    members: int,
    coverage: float | None,
) -> None:
    """Refuse before any run starts what the ensemble cannot be."""
    refuse_existing(bundle, "bundle")
    if members > MAX_MEMBERS:
        raise ConfigError(
            f"--bundle: an ensemble has {MAX_MEMBERS} members at most, and {members} are asked "
            "for; give fewer --folds or --seeds"
        )
    if coverage is not None:
        split = next(iter(splits.values()))
        labels = split["label"].to_numpy()
        require_patients(labels, split["group"].to_pylist(), dataset.classes.names, coverage)


def _specs(recipe: Recipe, folds: int, seeds: int) -> list[RunSpec]:
    """Return a run for each seed and fold, seed by seed."""
    if recipe.split.protocol in ("official-folds", "paper-literal"):
        raise ConfigError(
            f"protocol {recipe.split.protocol}: does not test every cell once; give "
            "--protocol subject-disjoint, slide-group-disjoint, site-disjoint or image-random"
        )
    return [
        RunSpec(
            f"seed{recipe.seed + seed}.fold{fold}",
            recipe,
            {"seed": recipe.seed + seed, "split.folds": folds, "split.fold": fold},
        )
        for seed in range(seeds)
        for fold in range(folds)
    ]


def _check_tested_once(splits: Mapping[str, pa.Table], recipe: Recipe) -> None:
    tested = [
        uid
        for split in splits.values()
        for uid in split.filter(pc.field("role") == "test")["uid"].to_pylist()
    ]
    assert len(tested) == len(set(tested)), f"{recipe.split.protocol} tests a cell twice"
    first = next(iter(splits.values()))
    assert set(tested) == set(first["uid"].to_pylist()), "a cell is in no fold"


def _scores(out: Path, spec: RunSpec) -> pa.Table:
    """Return validation and test cells as a run scored them, with its fold."""
    table = read_table(out / "runs" / spec.name / "report" / "predictions.parquet")
    fold = spec.resolved.split.fold
    return table.append_column(FOLD, pa.array([fold] * len(table), pa.int64()))


def pool_seeds(by_seed: Sequence[pa.Table], classes: ClassSet) -> pa.Table:
    """Scores of all folds, one row a fold and cell: log-odds averaged over the seeds.

    Args:
        by_seed: predictions of one seed each, in the same order.
        classes: of the labels.
    """
    first = by_seed[0]
    if len(by_seed) == 1:
        return first
    for name in _ORDER:
        assert all(table[name].equals(first[name]) for table in by_seed), "seeds scored other cells"
    mean = np.mean([class_logits_of(table) for table in by_seed], axis=0)
    for name, column in score_columns(mean, 1.0, classes).items():
        first = first.set_column(first.column_names.index(name), name, column)
    return first


def _context(
    recipe: Recipe,
    dataset: PreparedDataset,
    folds: int,
    by_seed: Sequence[pa.Table],
    leakages: Sequence[Leakage],
    out: Path,
) -> ReportContext:
    worst = max(leakages, key=lambda one: (one.leaky is True, one.leaky is None))
    by_seed = [table.filter(pc.field("role") == "test") for table in by_seed]
    notes = [
        f"{folds}-fold cross-validation: each cell was scored by the run that did not train on it; "
        "whether other cells of its patient trained that run is said above. Temperature, operating "
        "points, abstain bands and the call of a subject are nested: for the test cells of a fold "
        "they are fixed on the validation cells of that fold's run, which trained on neither, and "
        "what they give is counted over all folds."
    ]
    if len(by_seed) > 1:
        notes.append(_spread(by_seed, dataset.classes))
    return ReportContext(
        title=f"{recipe.name} on {dataset.manifest['layout']}, {folds}-fold cross-validation",
        recipe=recipe.name,
        protocol=recipe.split.protocol,
        leaky=worst.leaky,
        leakage=worst.text,
        no_intervals=worst.no_intervals,
        synthetic=dataset.synthetic,
        best_auc=dataset.manifest.get("best_auc"),
        dataset_fingerprint=dataset.identity.fingerprint,
        dataset_counts=dataset_counts(dataset),
        roles={"test": describe(by_seed[0], dataset.cells, dataset.classes)["test"]},
        config=recipe.model_dump(mode="json"),
        environment=read_json(out / "environment.json"),
        notes=notes,
        network=recipe.model.title,
        classes=dataset.classes,
    )


def _spread(by_seed: Sequence[pa.Table], classes: ClassSet) -> str:
    """AUC, or balanced accuracy of more than two classes, of each seed's scores alone."""
    name = "the area under ROC" if len(classes) == 2 else "the balanced accuracy"
    values = []
    for table in by_seed:
        if len(classes) == 2:
            found = evaluate(table["label"], table["probability"], THRESHOLD)["auc"]["value"]
        else:
            cells = ClassCells.of(table, classes, 1.0, THRESHOLD)
            found = cells.evaluate(classes)["balanced_accuracy"]["value"]
        values.append("n/a" if found is None else f"{found:.3f}")
    return (
        f"Log-odds are averaged over {counted(len(by_seed), 'seed')}; {name} of each "
        f"seed alone is {', '.join(values)}."
    )


def _pictures(dataset: PreparedDataset) -> Callable[[list[str]], list[np.ndarray]]:
    row_of = {uid: row for row, uid in enumerate(dataset.cells["uid"].to_pylist())}
    reader = dataset.reader()

    def pictures(uids: list[str]) -> list[np.ndarray]:
        return list(reader.read(np.asarray([row_of[uid] for uid in uids], np.int64)))

    return pictures
