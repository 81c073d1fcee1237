"""The report of an experiment: report.json, report.html that stands alone, figures as PNG."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from leuk_ray.augment.gallery import draw_gallery
from leuk_ray.datasets.leakage import crossings, find_leakage
from leuk_ray.datasets.prepared import PreparedDataset
from leuk_ray.datasets.protocols import PROTOCOLS
from leuk_ray.datasets.split_summary import describe
from leuk_ray.evaluation.figures import Stamp
from leuk_ray.evaluation.formats import count, json_ready, readable
from leuk_ray.experiments import figures
from leuk_ray.experiments.plan import Plan, RunKey
from leuk_ray.experiments.results import Outcome, Outcomes
from leuk_ray.experiments.settings import ExperimentSettings, ScaleName
from leuk_ray.experiments.table_cells import WORDS
from leuk_ray.experiments.tables import fill_table, leaks
from leuk_ray.io.storage import directory_by_rename, write_json
from leuk_ray.models.summary import summarise
from leuk_ray.recipes.recipe import Recipe, value_at
from leuk_ray.runs.spec import split_key
from leuk_ray.runs.table import RunRecord
from leuk_ray.utils.html import embedded, page_templates, save_figures
from leuk_ray.utils.wording import counted, overlap_label

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SCHEMA_VERSION = 1
CURVES = ("training", "confusion", "roc")  # of a run's own report


@dataclass(frozen=True)
class Told:
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


def write_experiment_report(told: Told) -> dict[str, Any]:
    """Write ROOT/report, replacing an earlier one.

    Returns:
        What report.json holds.
    """
    content = _content(told)
    with directory_by_rename(told.root / "report") as partial:
        drawn = _draw(told, content)
        content["figures"] = save_figures(drawn, partial)
        if told.show_images:
            _add_gallery(told, content, partial)
        content["curves"] = _add_curves(told, partial)
        write_json(partial / "report.json", content)
        (partial / "report.html").write_text(_page(content, partial), encoding="utf-8")
    return content


def _content(told: Told) -> dict[str, Any]:
    experiment, dataset = told.experiment, told.dataset
    recipe = _main_recipe(told)
    tables = [
        fill_table(table, experiment, told.plan, told.outcomes) for table in experiment.tables
    ]
    protocols = _protocols(told)
    overlap = {(item["protocol"], item["data"]): item["leaky"] for item in protocols}
    content: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "experiment": experiment.name,
        "paper": experiment.paper,
        "scale": {"name": told.scale, "note": experiment.scales[told.scale].note},
        "synthetic": dataset.synthetic,
        "best_auc": dataset.manifest.get("best_auc"),
        "show_images": told.show_images,
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
            for item in leaks(experiment, told.outcomes)
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
        "layers": _layers(told),
        "runs": [asdict(record) for record in _own_records(told)],
        "stand_ins": told.plan.stand_ins,
        "left_out": told.plan.left_out,
    }
    content["sentence"] = _sentence(content, _bars_table(told, tables))
    return json_ready(content)


def _main_recipe(told: Told) -> Recipe:
    """Of the network that stands for the paper; of the first that trains where it does not."""
    main = told.experiment.figures.main
    own = [spec for place, spec in told.plan.specs.items() if place.of == main]
    return (own or list(told.plan.specs.values()))[0].resolved


def _own_records(told: Told) -> list[RunRecord]:
    names = {spec.name for spec in told.plan.specs.values()}
    return [record for name, record in sorted(told.records.items()) if name in names]


def _bars_table(told: Told, tables: list[dict[str, Any]]) -> dict[str, Any]:
    """The table that stands for the paper: drawn as bars, and told in one sentence."""
    return next(table for table in tables if table["id"] == told.experiment.figures.bars)


def _protocols(told: Told) -> list[dict[str, Any]]:
    """Each protocol on each part of the data, as its first split parts it."""
    seen: dict[tuple[str, str], dict[str, Any]] = {}
    for place, spec in told.plan.specs.items():
        if (place.protocol, place.data) in seen:
            continue
        split = told.splits[split_key(spec.resolved)]
        leakage = find_leakage(split, told.dataset.cells)
        seen[place.protocol, place.data] = {
            "protocol": place.protocol,
            "data": place.data,
            "leaky": leakage.leaky,
            "leakage": leakage.text,
            "unit": PROTOCOLS[place.protocol].unit,
            "roles": describe(split, told.dataset.cells),
            "crossings": crossings(split, told.dataset.cells),
        }
    return list(seen.values())


def _layers(told: Told) -> list[dict[str, Any]]:
    """The networks as tables (A09, B19)."""
    found = []
    for name in told.experiment.figures.layers:
        own = [spec for place, spec in told.plan.specs.items() if place.of == name]
        if own:
            title = told.experiment.models[name].title
            stand_in = told.plan.stand_ins.get(name, "")
            found.append({"of": name, "title": title, "stand_in": stand_in})
            found[-1] |= summarise(own[0].resolved.model)
    return found


def _sentence(content: Mapping[str, Any], table: Mapping[str, Any]) -> str:
    """How many runs there are, and the accuracy of the first row with one, by protocol."""
    done = sum(run["status"] == "finished" for run in content["runs"])
    text = f"{done} of {counted(len(content['runs']), 'run')} finished."
    for row in table["rows"]:
        told = [
            f"{overlap_label(line['leaky'])} {line['protocol']} ".lstrip()
            + f"{line['cells']['accuracy']['text']} ({line['cells']['accuracy']['detail']})"
            for line in row["ours"]
            if "cells" in line
        ]
        if told:
            paper = (row["reported"] or {}).get("accuracy", "not reported")
            return f"{text} {row['name']}, accuracy: reported {paper}; ours: {', '.join(told)}."
    return f"{text} No row of {table['title']} has a figure of ours."


def _draw(told: Told, content: Mapping[str, Any]) -> dict[str, Figure]:
    wanted, synthetic = told.experiment.figures, told.dataset.synthetic
    drawn: dict[str, Figure] = {"activations": figures.activations_figure(wanted.activations)}
    bars = figures.bars_figure(_bars_table(told, content["tables"]), Stamp(synthetic))
    if bars is not None:
        drawn["bars"] = bars
    if told.show_images:
        drawn["samples"] = figures.samples_figure(told.dataset, Stamp(synthetic))
        drawn |= _gradcam(told)
    return drawn


def _gradcam(told: Told) -> dict[str, Figure]:
    """On the honest split of the first repeat, where both networks of a pair have a bundle."""
    honest = told.experiment.leaks[0][1]
    pairs, split = [], None
    for pair in told.experiment.figures.gradcam:
        data = told.experiment.models[pair.full].data[-1]
        places = [RunKey(name, data, honest, 1) for name in (pair.baseline, pair.full)]
        if all(isinstance(told.outcomes.get(place), Outcome) for place in places):
            bundles = [told.root / "runs" / place.name / "bundle" for place in places]
            pairs.append((pair, *bundles))
            split = told.splits[split_key(told.plan.specs[places[0]].resolved)]
    if split is None:
        return {}
    leakage = find_leakage(split, told.dataset.cells)
    stamp = Stamp(told.dataset.synthetic, leakage.label)
    return {"gradcam": figures.gradcam_figure(pairs, told.dataset, split, stamp)}


def _add_gallery(told: Told, content: dict[str, Any], directory: Path) -> None:
    recipe = _main_recipe(told)
    path = directory / "figures" / "augmentation.png"
    draw_gallery(path, told.dataset, recipe.augment, recipe.seed)
    content["figures"]["augmentation"] = "figures/augmentation.png"


def _add_curves(told: Told, directory: Path) -> list[dict[str, Any]]:
    """Copy the figures of the first repeat's own reports (A32-33, B20)."""
    found = []
    for place, spec in told.plan.specs.items():
        if place.repeat > 1 or place.data not in told.experiment.figures.curves.get(place.of, ()):
            continue
        item = {
            "title": told.experiment.models[place.of].title,
            "data": place.data,
            "protocol": place.protocol,
            "leaky": False,
            "figures": {},
            "reason": "",
        }
        outcome = told.outcomes[place]
        if isinstance(outcome, Outcome):
            item["leaky"] = outcome.leaky
        else:
            item["reason"] = outcome
        for name in CURVES:
            file = told.root / "runs" / spec.name / "report" / "figures" / f"{name}.png"
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
