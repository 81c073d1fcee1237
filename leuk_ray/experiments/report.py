"""The report of an experiment: report.json, report.html that stands alone, figures as PNG."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
from pydantic import Field

from leuk_ray.augment.gallery import draw_gallery
from leuk_ray.datasets.leakage import crossings, find_leakage
from leuk_ray.datasets.prepared import PreparedDataset
from leuk_ray.datasets.protocols import PROTOCOLS
from leuk_ray.datasets.split_summary import describe
from leuk_ray.evaluation.figures import Stamp
from leuk_ray.evaluation.formats import count, json_ready, readable
from leuk_ray.evaluation.report_model import FILE, StoredReport
from leuk_ray.experiments import figures
from leuk_ray.experiments.plan import Plan, RunKey
from leuk_ray.experiments.results import Outcome, Outcomes
from leuk_ray.experiments.settings import ExperimentSettings, ScaleName
from leuk_ray.experiments.table_cells import WORDS
from leuk_ray.experiments.tables import fill_table, leaks
from leuk_ray.io.storage import directory_by_rename, write_json
from leuk_ray.models.scaling import CompoundScaling
from leuk_ray.models.summary import summarise
from leuk_ray.recipes.recipe import Recipe, value_at
from leuk_ray.runs.spec import split_key
from leuk_ray.runs.table import RunRecord
from leuk_ray.utils.html import embedded, page_templates, save_figures
from leuk_ray.utils.wording import counted, overlap_label

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CURVES = ("training", "confusion", "roc")  # of a run's own report


@dataclass(frozen=True)
class ExperimentContext:
    """What an experiment's report is made of.

    root: the experiment's folder. splits: by `split_key`. show_images: whether pictures of cells
    may be in the report.
    """

    root: Path
    experiment: ExperimentSettings
    scale: ScaleName
    dataset: PreparedDataset
    plan: Plan
    splits: Mapping[str, pa.Table]
    records: Mapping[str, RunRecord]
    outcomes: Outcomes
    show_images: bool


class ExperimentReport(StoredReport):
    """The report of an experiment.

    scale: name and note. dataset: fingerprint, storage, counts, subject_share.
    protocols: each on each part of the data, as its first split parts it.
    tables: see `tables.fill_table`. leaks: see `tables.leaks`; honest_leaky: overlap of the honest
    side. rows: what the paper says in words, and with which settings it is met.
    layers: networks as tables. runs: see `RunRecord`.
    stand_ins, left_out: models by name, and why another network trains, or none.
    figures: paths by name. curves: those of the first repeats' own reports.
    """

    made_by = "experiment --resume"
    schema_version: int = 1
    experiment: str
    paper: str
    scale: dict[str, str]
    synthetic: bool
    best_auc: float | None
    show_images: bool
    dataset: dict[str, Any]
    protocols: list[dict[str, Any]]
    tables: list[dict[str, Any]]
    leaks: list[dict[str, Any]]
    rows: list[dict[str, Any]]
    layers: list[dict[str, Any]]
    runs: list[dict[str, Any]]
    stand_ins: dict[str, str]
    left_out: dict[str, str]
    sentence: str = ""
    figures: dict[str, str] = Field(default_factory=dict)
    curves: list[dict[str, Any]] = Field(default_factory=list)


def write_experiment_report(context: ExperimentContext) -> ExperimentReport:
    """Write ROOT/report, replacing an earlier one."""
    report = _report(context)
    bars = _bars_table(context, report.tables)
    report = report.model_copy(update={"sentence": _sentence(report, bars)})
    with directory_by_rename(context.root / "report") as partial:
        saved = save_figures(_plot(context, bars), partial)
        if context.show_images:
            saved["augmentation"] = _gallery(context, partial)
        curves = _copy_curves(context, partial)
        report = report.model_copy(update={"figures": saved, "curves": curves})
        content = report.model_dump(mode="json")
        write_json(partial / FILE, content)
        (partial / "report.html").write_text(_page(content, partial), encoding="utf-8")
    return report


def _report(context: ExperimentContext) -> ExperimentReport:
    """Everything the report says but its sentence, figures and curves."""
    experiment, dataset = context.experiment, context.dataset
    recipe = _main_recipe(context)
    tables = [
        fill_table(table, experiment, context.plan, context.outcomes) for table in experiment.tables
    ]
    protocols = _protocols(context)
    overlap = {(item["protocol"], item["data"]): item["leaky"] for item in protocols}
    content: dict[str, Any] = {
        "experiment": experiment.name,
        "paper": experiment.paper,
        "scale": {"name": context.scale, "note": experiment.scales[context.scale].note},
        "synthetic": dataset.synthetic,
        "best_auc": dataset.manifest.get("best_auc"),
        "show_images": context.show_images,
        "dataset": {
            "fingerprint": dataset.identity.fingerprint,
            "storage": dataset.manifest["storage"],
            "counts": dataset.manifest["counts"],
            "subject_share": dataset.manifest.get("subject_share"),
        },
        "protocols": protocols,
        "tables": tables,
        "leaks": [
            item | {"honest_leaky": overlap.get((item["honest"], item["data"]), False)}
            for item in leaks(experiment, context.outcomes)
        ],
        "rows": [
            {
                "id": key,
                "what": row.what,
                "settings": {path: value_at(recipe, path) for path in row.settings},
                "where": row.where,
            }
            for key, row in experiment.rows.items()
        ],
        "layers": _layers(context),
        "runs": [asdict(record) for record in _own_records(context)],
        "stand_ins": context.plan.stand_ins,
        "left_out": context.plan.left_out,
    }
    return ExperimentReport(**json_ready(content))


def _main_recipe(context: ExperimentContext) -> Recipe:
    """Of the network that stands for the paper; of the first that trains where it does not."""
    main = context.experiment.figures.main
    own = [spec for place, spec in context.plan.specs.items() if place.of == main]
    return (own or list(context.plan.specs.values()))[0].resolved


def _own_records(context: ExperimentContext) -> list[RunRecord]:
    names = {spec.name for spec in context.plan.specs.values()}
    return [record for name, record in sorted(context.records.items()) if name in names]


def _bars_table(context: ExperimentContext, tables: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the table that stands for the paper: plotted as bars, summarised in one sentence."""
    return next(table for table in tables if table["id"] == context.experiment.figures.bars)


def _protocols(context: ExperimentContext) -> list[dict[str, Any]]:
    """Each protocol on each part of the data, as its first split parts it."""
    seen: dict[tuple[str, str], dict[str, Any]] = {}
    for place, spec in context.plan.specs.items():
        if (place.protocol, place.data) in seen:
            continue
        split = context.splits[split_key(spec.resolved)]
        leakage = find_leakage(split, context.dataset.cells)
        seen[place.protocol, place.data] = {
            "protocol": place.protocol,
            "data": place.data,
            "leaky": leakage.leaky,
            "leakage": leakage.text,
            "unit": PROTOCOLS[place.protocol].unit,
            "roles": describe(split, context.dataset.cells, context.dataset.classes),
            "crossings": crossings(split, context.dataset.cells),
        }
    return list(seen.values())


def _layers(context: ExperimentContext) -> list[dict[str, Any]]:
    """Return the networks as tables of layers."""
    found = []
    for name in context.experiment.figures.layers:
        own = [spec for place, spec in context.plan.specs.items() if place.of == name]
        if own:
            title = context.experiment.models[name].title
            stand_in = context.plan.stand_ins.get(name, "")
            phi = context.experiment.figures.scaling.get(name)
            scaling = None if phi is None else CompoundScaling(phi).text
            found.append({"of": name, "title": title, "stand_in": stand_in, "scaling": scaling})
            found[-1] |= summarise(own[0].resolved.model)
    return found


def _sentence(report: ExperimentReport, table: Mapping[str, Any]) -> str:
    """How many runs there are, and the accuracy of the first row with one, by protocol."""
    done = sum(run["status"] == "finished" for run in report.runs)
    text = f"{done} of {counted(len(report.runs), 'run')} finished."
    for row in table["rows"]:
        ours = [
            f"{overlap_label(line['leaky'])} {line['protocol']} ".lstrip()
            + f"{line['cells']['accuracy']['text']} ({line['cells']['accuracy']['detail']})"
            for line in row["ours"]
            if "cells" in line
        ]
        if ours:
            paper = (row["reported"] or {}).get("accuracy", "not reported")
            return f"{text} {row['name']}, accuracy: reported {paper}; ours: {', '.join(ours)}."
    return f"{text} No row of {table['title']} has a figure of ours."


def _plot(context: ExperimentContext, table: Mapping[str, Any]) -> dict[str, Figure]:
    wanted, synthetic = context.experiment.figures, context.dataset.synthetic
    plots: dict[str, Figure] = {"activations": figures.activations_figure(wanted.activations)}
    bars = figures.bars_figure(table, Stamp(synthetic))
    if bars is not None:
        plots["bars"] = bars
    if context.show_images:
        plots["samples"] = figures.samples_figure(context.dataset, Stamp(synthetic))
        plots |= _gradcam(context)
    return plots


def _gradcam(context: ExperimentContext) -> dict[str, Figure]:
    """On the honest split of the first repeat, where both networks of a pair have a bundle."""
    honest = context.experiment.leaks[0][1]
    pairs, split = [], None
    for pair in context.experiment.figures.gradcam:
        data = context.experiment.models[pair.full].data[-1]
        places = [RunKey(name, data, honest, 1) for name in (pair.baseline, pair.full)]
        if all(isinstance(context.outcomes.get(place), Outcome) for place in places):
            bundles = [context.root / "runs" / place.name / "bundle" for place in places]
            pairs.append((pair, *bundles))
            split = context.splits[split_key(context.plan.specs[places[0]].resolved)]
    if split is None:
        return {}
    leakage = find_leakage(split, context.dataset.cells)
    stamp = Stamp(context.dataset.synthetic, leakage.label)
    return {"gradcam": figures.gradcam_figure(pairs, context.dataset, split, stamp)}


def _gallery(context: ExperimentContext, directory: Path) -> str:
    """Plot augmented copies, and return the picture's place in the report."""
    recipe, place = _main_recipe(context), "figures/augmentation.png"
    draw_gallery(directory / place, context.dataset, recipe.augment, recipe.seed)
    return place


def _copy_curves(context: ExperimentContext, directory: Path) -> list[dict[str, Any]]:
    """Copy the curves and confusion matrices of the first repeat's own reports."""
    found = []
    for place, spec in context.plan.specs.items():
        if place.repeat > 1 or place.data not in context.experiment.figures.curves.get(
            place.of, ()
        ):
            continue
        item: dict[str, Any] = {
            "title": context.experiment.models[place.of].title,
            "data": place.data,
            "protocol": place.protocol,
            "leaky": False,
            "figures": {},
            "reason": "",
        }
        outcome = context.outcomes[place]
        if isinstance(outcome, Outcome):
            item["leaky"] = outcome.leaky
        else:
            item["reason"] = outcome
        for name in CURVES:
            file = context.root / "runs" / spec.name / "report" / "figures" / f"{name}.png"
            if not item["reason"] and file.exists():
                target = f"figures/{place.name}.{name}.png"
                shutil.copyfile(file, directory / target)
                item["figures"][name] = target
        found.append(item)
    return found


def _page(content: Mapping[str, Any], directory: Path) -> str:
    environment = page_templates(Path(__file__).parent)
    environment.filters |= {"count": count, "readable": readable}
    pictures = dict(content["figures"])
    for item in content["curves"]:
        pictures |= {path: path for path in item["figures"].values()}
    return environment.get_template("report.html.j2").render(
        **content, embedded=embedded(pictures, directory), words=WORDS, overlap_label=overlap_label
    )
