"""Format the results of commands as text, from the values that --json prints."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any

from leuk_ray.cli.data_messages import audit_text, spellings_text, subjects_text
from leuk_ray.evaluation.beside_baselines import beside_sentence
from leuk_ray.io.locations import Location, join
from leuk_ray.utils.wording import counted

if TYPE_CHECKING:
    from leuk_ray.api.results import EvaluationResult, SweepResult
    from leuk_ray.experiments.report import ExperimentReport


def settings_text(settings: list[dict[str, Any]]) -> str:
    """Format the result of `recipes --settings`."""
    lines = []
    for setting in settings:
        default = setting["default"]
        default = f" (default: {default})" if default not in ("", "required") else f" {default}"
        lines.append(f"{setting['name']}: {setting['type']}{default}".rstrip())
        lines.append(
            textwrap.fill(setting["meaning"], 96, initial_indent=" " * 4, subsequent_indent=" " * 4)
        )
    return "\n".join(lines)


def summary_text(values: dict[str, Any]) -> str:
    """Format the result of `recipes NAME --summary`."""
    header = ("layer", "kind", "output", "parameters", "MFLOPs")
    rows: list[tuple[str, ...]] = [header]
    for layer in values["layers"]:
        shape = " x ".join(str(side) for side in layer["output"])
        numbers = f"{layer['parameters']:,}", f"{layer['flops'] / 1e6:,.1f}"
        rows.append((layer["name"], layer["kind"], shape, *numbers))
    widths = [max(len(row[column]) for row in rows) for column in range(len(header))]
    lines = [
        "  ".join([
            *(cell.ljust(width) for cell, width in zip(row[:3], widths[:3], strict=True)),
            *(cell.rjust(width) for cell, width in zip(row[3:], widths[3:], strict=True)),
        ]).rstrip()
        for row in rows
    ]  # fmt: skip
    side = values["input"][1]
    return "\n".join(
        [
            f"{values['network']}, one image of {side} x {side}",
            *lines,
            f"{values['parameters']:,} trainable parameters, "
            f"{values['flops'] / 1e9:.2f} GFLOPs (two per multiply-add)",
        ]
    )


def fetch_text(values: dict[str, Any]) -> str:
    """Format the result of `weights fetch`."""
    files = values["files"]
    return "\n".join([*files, f"Use one: leuk-ray train RECIPE weights={files[-1]} ..."])


def dry_run_text(values: dict[str, Any]) -> str:
    """Format the result of `train --dry-run`."""
    cells, size, seconds = values["cells"], values["bytes"], values.get("seconds")
    workers = counted(values["workers"], "worker")
    lines = [
        f"Nothing was trained. This run with {workers} would need:",
        f"  cells    {cells['train']:,} training, {cells['validation']:,} validation, "
        f"{cells['test']:,} test",
        f"  steps    {values['steps_per_epoch']:,} an epoch ({values['samples_per_epoch']:,} "
        f"samples), at most {counted(values['epochs'], 'epoch')}",
        f"  disk     {size_text(size['disk'])}, of it {size_text(size['checkpoint'])} a checkpoint",
        f"  memory   {size_text(size['pixels'])} of pixels; {values['parameters']:,} parameters",
    ]
    if seconds is None:
        return "\n".join([*lines, "Add --measure for the memory and time of a step."])
    lines[-1] += f", {size_text(size['worker'])} a worker for network and step"
    lines.append(
        f"  time     {seconds['step']:.2f} s a step, {_duration(seconds['epoch'])} an epoch, "
        f"at most {_duration(seconds['run'])} in all on {values['device']}, excluding start-up and "
        "the first read"
    )
    return "\n".join(lines)


def size_text(count: float) -> str:
    """Bytes for people."""
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def report_text(result: EvaluationResult) -> str:
    """Format the result of `train`, `evaluate` and `crossval`."""
    report = result.report
    lines = [result.sentence, *map(beside_sentence, report.run.baselines)]
    if report.audit:
        lines += [f"Audit of the dataset: {warning}" for warning in report.audit["warnings"]]
    if stopping := report.run.stopping:
        lines.append(
            f"Training ended after {counted(stopping['epochs'], 'epoch')}: {stopping['reason']}; "
            f"epoch {stopping['best_epoch']} was best on the validation cells."
        )
    return "\n".join([*lines, f"Report: {join(result.folder, 'report.html')}"])


def compare_text(values: dict[str, Any]) -> str:
    """Format the result of `compare`: first on how many cells, and why so few."""
    first, second = values["first"], values["second"]
    lines = [
        f"Compared on {counted(values['cells'], 'cell')}{' (SYNTHETIC)' * values['synthetic']} of "
        f"{values['groups']}"
        + (f", pooled over {values['folds']} folds." if values["folds"] > 1 else ".")
    ]
    if values["why_few"]:
        own, other = values["tested"]
        lines += [
            f"  No more, since the runs test different cells ({own} and {other}, {values['cells']} "
            f"in common): {values['why_few']}. To compare on more, train both with the same split; "
            "or cross-validate both over the same folds and give two folders of runs; or give "
            "--data a dataset that trained neither."
        ]
    lines += [f"warning: {warning}" for warning in values["warnings"]]
    lines.append(f"{first} (first) and {second} (second):")
    notes: dict[str, None] = {}
    lines += _paired_lines(values, notes)
    if binary := values.get("binary"):
        lines.append("Positive classes against the others:")
        lines += _paired_lines(binary, notes)
    return "\n".join([*lines, *(f"  {note}" for note in notes)])


def _paired_lines(values: dict[str, Any], notes: dict[str, None]) -> list[str]:
    """Return correct cells and a line a metric; what intervals need said goes to `notes`."""
    lines = [
        f"  correct by both: {values['both_correct']:,}; only by the first: "
        f"{values['only_first']:,}; only by the second: {values['only_second']:,}; by neither: "
        f"{values['neither']:,}"
    ]
    width = max(map(len, values["metrics"]))
    for name, found in values["metrics"].items():
        if found["difference"] is None:
            lines.append(f"  {name:{width}} not defined on these cells")
            continue
        interval = "no interval"
        if found["low"] is not None:
            interval = f"95% {found['low']:+.3f} to {found['high']:+.3f}, p {found['p']:.3f}"
        if found["note"]:
            notes[found["note"]] = None
        lines.append(
            f"  {name:{width}} {found['first']:.3f} -> {found['second']:.3f}, difference "
            f"{found['difference']:+.3f} ({interval})"
        )
    return lines


def tune_text(result: SweepResult) -> str:
    """Format the result of `tune`."""
    top, report = result.folder / "top", result.report
    bundles = min(report.sweep["top"], len(report.leaderboard))
    return "\n".join(
        [
            repr(result).partition("\n")[0],
            f"Test, once, for the winner: {report.winner['test']}",
            f"Report: {result.folder / 'report' / 'report.html'}",
            f"Best bundles: {top}/1 to {bundles}",
            f"Keep one:     leuk-ray models add {top / '1'} NAME --registry DIR",
            *([f"Combine all:  leuk-ray ensemble COMBINED {top}/*"] if bundles > 1 else []),
        ]
    )


def experiment_text(report: ExperimentReport, out: Path) -> str:
    """Format the result of `experiment`."""
    lines = [report.sentence]
    if report.scale["name"] != "paper":
        lines.append(f"Scale {report.scale['name']}: {report.scale['note']}")
    return "\n".join([*lines, f"Report: {out / 'report' / 'report.html'}"])


def predict_text(values: dict[str, Any]) -> str:
    """Format the result of `predict`."""
    lines = []
    for item in values["predictions"]:
        name = item.get("path", item["name"])
        if "error" in item:
            lines.append(f"{name}: not scored, {item['error']}")
        else:
            why = f" ({', '.join(item['reasons'])})" if item["reasons"] else ""
            if item["threshold"] is not None:
                positive = list(item["probabilities"])[1]
                stated = (
                    f"probability of {positive} {item['probability']:.3f} "
                    f"(threshold {item['threshold']:g})"
                )
            else:
                ranked = sorted(item["probabilities"].items(), key=lambda each: -each[1])[:3]
                stated = ", ".join(f"{one} {value:.3f}" for one, value in ranked)
            if item["prediction_set"] is not None:
                stated += f", may be: {', '.join(item['prediction_set']) or 'none of the classes'}"
            lines.append(f"{name}: {item['label']}{why}, {stated}")
    failed = sum("error" in item for item in values["predictions"])
    return "\n".join([*lines, *_left_out(values.get("left_out")), *_failed(failed, len(lines))])


def predict_table_text(values: dict[str, Any]) -> str:
    """Format the result of `predict --out`: how many images in, and what became of them."""
    labels = ", ".join(f"{count} {label}" for label, count in sorted(values["labels"].items()))
    lines = [f"{values['out']}: {counted(values['images'], 'image')}: {labels}"]
    lines += _left_out(values["left_out"])
    if "subjects" in values:
        without = values["without_subject"]
        lines.append(subjects_text(values))
        lines += spellings_text(values["subject_spellings"])
        if without["images"]:
            more = ", ..." if without["images"] > len(without["first"]) else ""
            lines.append(
                f"  {counted(without['images'], 'image')} without a subject, in none of its rows: "
                f"{', '.join(without['first'])}{more}"
            )
    return "\n".join([*lines, *_failed(values["labels"].get("failed", 0), values["images"])])


def _failed(failed: int, images: int) -> list[str]:
    """How many images have no answer, in one line if there are any."""
    return [f"{failed:,} of {counted(images, 'image')} could not be scored"] if failed else []


def _left_out(reasons: dict[str, int] | None) -> list[str]:
    """Files that were given and are no images, in one line if there are any."""
    if not reasons:
        return []
    why = ", ".join(f"{number} {reason}" for reason, number in reasons.items())
    return [f"{counted(sum(reasons.values()), 'other file')} left out: {why}"]


def explain_text(items: list[dict[str, Any]], out: Location) -> str:
    """Format the result of `explain`."""
    lines = predict_text({"predictions": items}).split("\n")
    for number, item in enumerate(items):
        if "error" not in item:
            found = item["explanation"]
            share = f"{found['evidence_share']:.0%} of the evidence is for {found['toward']}"
            lines[number] += f"; {join(out, found['picture'])}, {found['method']}: {share}"
            if found["heat_inside_cell"] is not None:
                lines[number] += (
                    f", {found['heat_inside_cell']:.0%} of the heat in the cell, which covers "
                    f"{found['cell_area']:.0%} of the picture"
                )
    return "\n".join(lines)


def ensemble_text(values: dict[str, Any]) -> str:
    """Format the result of `ensemble`."""
    return f"{values['bundle']}: {values['rule']} vote of {', '.join(values['members'])}"


def models_text(values: dict[str, Any]) -> str:
    """Format the result of `models list`."""
    lines = []
    for model in values["models"]:
        aliases = ", ".join(f"{alias} is {n}" for alias, n in model["aliases"].items())
        there = [str(each["number"]) for each in model["versions"] if each["removed"] is None]
        gone = len(model["versions"]) - len(there)
        versions = f"{'versions' if len(there) > 1 else 'version'} {', '.join(there)}"
        removed = f" ({gone} removed)" if gone else ""
        lines.append(f"{model['name']}: {versions}{removed}; {aliases or 'no champion yet'}")
    return "\n".join(lines) or "no model yet"


def model_text(values: dict[str, Any]) -> str:
    """Format the result of `models show`."""
    lines = [models_text({"models": [values]})]
    for version in values["versions"]:
        came = [f"{what} {place}" for what, place in version["lineage"].items() if place]
        lines.append(
            f"  {version['number']:3}  {version['added']}  {version['recipe']}, seed "
            f"{version['seed']}, {version['protocol']}"
            f"{', SYNTHETIC' if version['synthetic'] else ''}"
            f"{', ' + version['overlap'] if version['overlap'] else ''}, data "
            f"{version['dataset_fingerprint'][:12]}{''.join(', ' + part for part in came)}"
        )
    for event in values["history"]:
        alias = f" as {event['alias']}" if event["alias"] else ""
        lines.append(f"  {event['time']}  {event['action']} {event['version']}{alias}")
    return "\n".join(lines)


def calibrate_text(values: dict[str, Any]) -> str:
    """Format the result of `calibrate`."""
    band = values["abstain_band"]
    abstains = f"abstains between {band[0]:.3f} and {band[1]:.3f}" if band else "no abstain band"
    if (confidence := values["min_confidence"]) is not None:
        abstains = f"abstains below probability {confidence:.3f} of the most likely class"
    if (sets := values["prediction_sets"]) is not None:
        patients = " and ".join(str(limit["patients"]) for limit in sets["limits"])
        abstains = (
            f"prediction sets that hold the class of a new patient's cell with probability "
            f"{sets['coverage']:g} at least, fixed on {patients} patients by class "
            f"({sets['answered']['value']:.0%} of their cells get an answer)"
        )
    blasts, cautions = values["blast_percentage"], [values["caution"], sets and sets["caution"]]
    lines = [
        f"{values['bundle']}: temperature {values['temperature']:.3f} and {abstains}, from "
        f"{values['fixed_on']}; scope from {counted(values['scope_cells'], 'cell')}"
        f"{''.join(f'. {caution.rstrip(chr(46))}' for caution in cautions if caution)}.",
        *([f"blast percentage of a patient: {blasts}"] if blasts else []),
    ]
    return "\n".join(lines)


def export_text(values: dict[str, Any]) -> str:
    """Format the result of `export`."""
    if not values["onnx"]:
        return f"{values['bundle']}"
    return (
        f"{values['bundle']}: with model.onnx, whose probabilities differ from PyTorch's by "
        f"{values['max_difference']:.1e} at most"
    )


def demo_text(values: dict[str, Any]) -> str:
    """Format the result of `demo`."""
    paths, audit = values["paths"], values["audit"]
    return f"""
SYNTHETIC cells: this shows that the system works, and nothing about patients.

  audit    {audit_text(audit)}
  test     {values["report"]["sentence"]}
  ideal    the best achievable AUC is {values["best_auc"]:.2f}; a small test set scatters around it
  answer   {predict_text({"predictions": [values["answer"]]})}

  report   {paths["report"]}
  bundle   {paths["bundle"]}

Next:
  leuk-ray predict {paths["bundle"]} {paths["image"]}
  leuk-ray train lite --data {paths["dataset"]} --out runs/none attention=none
  leuk-ray prepare C-NMC_Leukemia cnmc.dataset --layout c-nmc     your own images"""
