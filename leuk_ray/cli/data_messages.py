"""Format the results of commands on images and datasets as text."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from leuk_ray.datasets.classes import BINARY, ClassSet
from leuk_ray.evaluation.intervals import MIN_GROUPS
from leuk_ray.io.locations import Location, join
from leuk_ray.utils.wording import LISTED, counted, counted_subjects, listed


def synth_text(directory: Path, values: dict[str, Any]) -> str:
    """Format the result of `synth`."""
    if "best_balanced_accuracy" in values:
        best, oracle = values["best_balanced_accuracy"], values["oracle_balanced_accuracy"]
        return (
            f"{directory}: SYNTHETIC; best achievable balanced accuracy over "
            f"{len(values['classes'])} stages {best:.3f} (an oracle that sees the latent variable "
            f"reaches {oracle:.3f} on these cells); prepare with --layout folders --ordered "
            f"--classes '{','.join(values['classes'])}'"
        )
    text = f"{directory}: SYNTHETIC; best achievable AUC {values['best_auc']:.2f}"
    if "oracle_auc" not in values:
        counts = values["counts"]
        crops = counted(counts["crops"], "cell")
        more = "; true shares of blasts in patients.csv, crops to train on in crops.csv"
        return (
            f"{text}; {counted(counts['fields'], 'field')}, {crops} cropped from them"
            f"{more if 'shares' in values else ''}"
        )
    oracle = f"{values['oracle_auc']:.3f}"
    return f"{text} (an oracle that sees the latent variable reaches {oracle} on these cells)"


def _classes(counts: dict[str, int], separator: str = ", ") -> str:
    """How many of each class, of two classes the positive one first, of many the first."""
    items = list(counts.items())
    ordered = items[::-1] if len(items) == 2 else items
    return listed([f"{count} {name}" for name, count in ordered], separator)


_SQUARED = {
    "pad": "mirrored at their borders to squares (--crop pad)",
    "full": "resized to squares (--crop full); --crop pad keeps the aspect ratio",
}


def prepare_text(dataset: Location, manifest: dict[str, Any], default_split: dict[str, Any]) -> str:
    """Format the result of `prepare`, and `split_summary.default_split` of its cells."""
    counts = manifest["counts"]
    subjects = counted_subjects(counts["subjects"], counts["rows_without_subject"])
    lines = [
        f"{dataset}: {counts['files']} files in = {counts['rows']} rows out + "
        f"{counts['rejected']} rejected + {counts['skipped']} skipped",
        f"  {_classes(counts['classes'])}, {counts['unlabelled']} unlabelled; "
        f"{subjects} in {counted(counts['groups'], 'group')}",
    ]
    if manifest["labels"]:
        # A word that is read as something else is always shown; of the others the first ones.
        read = {True: [], False: []}
        for item in manifest["labels"]:
            text = f"{item['word'] or '(empty)'} = {item['class'] or 'unlabelled'} ({item['rows']})"
            read[item["word"] == item["class"]].append(text)
        shown = [*read[False], *([listed(read[True])] if read[True] else [])]
        lines.append(f"  labels read as: {', '.join(shown)}")
    classes = ClassSet.of_manifest(manifest)
    if classes != BINARY:
        lines.append(f"  classes in this order: {classes.described}")
    if missing := [name for name, count in counts["classes"].items() if not count]:
        some = len(missing) < len(counts["classes"])
        what = listed(missing, " or ") if some else "labelled"
        lines.append(
            f"  warning: no cell is {what}: the dataset can be audited"
            f"{', and a bundle evaluated on it,' * some} but not split or trained on; to train, "
            "prepare images of all classes together"
        )
    lines += spellings_text(manifest["subject_spellings"])
    if converted := counts.get("converted_to_srgb"):
        lines.append(
            f"  {converted} images had a colour profile other than sRGB: converted to sRGB"
        )
    if (odd := counts.get("not_square")) and (done := _SQUARED.get(manifest["storage"]["crop"])):
        lines.append(f"  {odd} images are not square: {done}")
    for kind, reasons in counts["reasons"].items():
        if reasons:
            why = ", ".join(f"{number} {reason}" for reason, number in reasons.items())
            lines.append(f"  {kind}: {why}")
    if counts["rejected"] or counts["skipped"]:
        lines.append(f"  each by name, with the reason: {join(dataset, 'rejected.parquet')}")
    if unknown := default_split["unknown_patients"]:
        lines.append(f"  warning: {unknown}")
    if "error" not in default_split:
        lines += [f"  default split: {line}" for line in _split_warnings(default_split)]
    return "\n".join(lines)


def detect_text(values: dict[str, Any]) -> str:
    """Format the result of `detect`."""
    counts = values["counts"]
    lines = [
        f"{values['out']}: {counted(counts['cells'], 'cell')} and "
        f"{counted(counts['clumps'], 'clump')}; {counted(counts['fields'], 'field')} in = "
        f"{counts['ok']} with cells + {counts['empty']} without + {counts['refused']} refused"
    ]
    lines += reasons_text(values["reasons"]) + warnings_text(values["warnings"])
    lines += details_text(values["details"])
    if left_out := values["left_out"]:
        why = ", ".join(f"{number} {reason}" for reason, number in left_out.items())
        lines.append(f"  {counted(sum(left_out.values()), 'other file')} left out: {why}")
    scale = values["pixels_per_um"]
    if scale["given"] is None and scale["median"] is not None:
        lines.append(
            f"  pixels per um, estimated from red cells: median {scale['median']:.1f} "
            f"({scale['lowest']:.1f} to {scale['highest']:.1f}); each is uncertain by 25% or more, "
            "--pixels-per-um is better"
        )
    if measured := values.get("measured"):
        lines += _measured_text(measured)
    return "\n".join(lines)


def _measured_text(measured: dict[str, Any]) -> list[str]:
    lines = [
        f"  recall {measured['found']} of {measured['cells']} annotated cells, precision "
        f"{measured['found']} of {measured['detections']} detections, over "
        f"{counted(measured['fields'], 'annotated field')}"
    ]
    found, cells = Counter(), Counter()
    for group in measured["found_by_label"]:
        for label, one in group.items():
            found[label] += one["found"]
            cells[label] += one["cells"]
    if len(cells) > 1:
        by_label = [f"{found[name]} of {number} {name}" for name, number in sorted(cells.items())]
        lines.append(f"  found, in fields that are not refused: {', '.join(by_label)}")
    if without := measured["fields_without_rows"]:
        lines.append(f"  {counted(without, 'field')} without a row: not annotated, not measured")
    if outside := measured["outside"]:
        rows = counted(sum(outside.values()), "annotated cell")
        lines.append(
            f"  {rows} left out: centre outside the field, of {listed(list(outside))}; is the "
            "table in pixels of these files?"
        )
    if others := measured["other_files"]:
        rows = counted(measured["rows_of_other_files"], "annotated cell")
        lines.append(f"  {rows} left out: of files that are none of the fields: {listed(others)}")
    return lines


def fields_text(values: dict[str, Any]) -> str:
    """Format the result of `predict --fields` for a few fields."""
    lines = []
    for field in values["fields"]:
        why = f" ({field['detail'] or ', '.join(field['reasons'])})" if field["reasons"] else ""
        lines.append(f"{field['name']}: {field['status']}{why}")
        lines += warnings_text(dict.fromkeys(field["warnings"], 1))
        for cell in field["cells"]:
            box = f"  {cell['x0']},{cell['y0']} to {cell['x1']},{cell['y1']}"
            reasons = f" ({', '.join(cell['reasons'])})" if cell["reasons"] else ""
            lines.append(f"{box}: {cell['label'] or 'not answered'}{reasons}{_likeliest(cell)}")
    return "\n".join([*lines, _summary(values["summary"])])


def _likeliest(cell: dict[str, Any]) -> str:
    if not cell.get("probabilities"):
        return ""
    name, value = max(cell["probabilities"].items(), key=lambda each: each[1])
    return f", most likely {name} {value:.3f}"


def fields_table_text(values: dict[str, Any]) -> str:
    """Format the result of `predict --fields --out`."""
    counts = values["fields"]
    by_status = [f"{counts.get(status, 0)} {status}" for status in ("ok", "empty", "refused")]
    lines = [
        f"{values['out']}: {counted(counts['all'], 'field')} = {' + '.join(by_status)}",
        *reasons_text(values["reasons"]),
        *warnings_text(values["warnings"]),
        *details_text(values["details"]),
        _summary(values["summary"]),
    ]
    if "subjects" in values:
        lines.append(subjects_text(values))
        lines += spellings_text(values["subject_spellings"])
        if without := values["without_subject"]:
            lines.append(f"  {counted(without, 'field')} without a subject, in none of its rows")
    return "\n".join(lines)


def _summary(summary: dict[str, Any]) -> str:
    """Cells of fields: how many were answered for, how, and why others were not."""
    shares = [
        f"{share['cells']} {share['name']} ({share['share']:.0%})"  # of one patient or of several
        for share in summary["differential"]
        if share["cells"]
    ]
    text = f"{counted(summary['cells'], 'cell')}, {summary['answered']} answered"
    text += f": {', '.join(shares)}" if shares else ""
    if summary["not_answered"]:
        why = [f"{number} {name}" for name, number in summary["not_answered_reasons"].items()]
        text += f"; {summary['not_answered']} not answered ({', '.join(why)})"
    if summary["clumps"]:
        text += f"; {counted(summary['clumps'], 'clump')}, not answered"
    return text


def reasons_text(reasons: dict[str, int]) -> list[str]:
    """Say why fields were refused, one line a reason."""
    from leuk_ray.fields.quality import REASONS

    return [
        f"  {number} refused, {reason}: {REASONS[reason]}" for reason, number in reasons.items()
    ]


def warnings_text(warnings: dict[str, int]) -> list[str]:
    """Say what is doubtful in fields that are not refused, one line a warning."""
    from leuk_ray.fields.quality import WARNINGS

    return [
        f"  warning: {counted(number, 'field')}, {name}: {WARNINGS[name]}"
        for name, number in warnings.items()
    ]


def details_text(details: dict[str, str]) -> list[str]:
    """Say what is said of single files: why they cannot be read, and the tiles of slides."""
    lines = [f"  {name}: {detail}" for name, detail in list(details.items())[:LISTED]]
    more = len(details) - LISTED
    return lines + [f"  and of {more:,} more in the table of fields"] * (more > 0)


def audit_text(audit: dict[str, Any]) -> str:
    """Format the result of `audit`."""
    lines = [
        f"{counted(audit['cells'], 'cell')} in {counted(audit['groups'], 'group')}; "
        f"{counted(audit['identical_images'], 'image')} stored more than once, "
        f"{audit['identical_images_across_subjects']} of them under several subjects"
    ]
    for item in audit["identical"]:
        lines.append(f"  identical: {' = '.join(item['uids'])}")
    for item in audit["near_duplicates"]:
        lines.append(f"  near duplicates: {' ~ '.join(item['uids'])}")
    lines += [f"  warning: {warning}" for warning in audit["warnings"]]
    for name, found in audit.get("doubtful_labels", {}).items():
        lines.append(
            f"  labels {name}: out-of-fold scores contradict {found['contradicted']:,} of "
            f"{found['cells']:,}"
            + "".join(f", first {one['uid']}" for one in found["suspects"][:1])
        )
    return "\n".join(lines)


def _split_warnings(values: dict[str, Any]) -> list[str]:
    """How far a split is from the asked shares, and whether its test set is too small."""
    lines = []
    if gap := values["largest_gap"]:
        lines.append(
            f"furthest from the shares asked for: {gap['role']} holds {gap['share']:.1%} of the "
            f"{gap['class']} cells, asked {gap['asked']:.1%}"
        )
    groups = values["test_groups"]
    if min(groups.values()) < MIN_GROUPS:
        lines.append(
            f"warning: test holds {_classes(groups, ' + ')} groups, too few "
            f"for an interval ({MIN_GROUPS} of each class): test every subject in turn with "
            "`leuk-ray crossval`; a larger share (split.fractions) takes groups from training, and "
            "an interval is dependable from 10 of each class on"
        )
    return lines


def split_text(values: dict[str, Any]) -> str:
    """Format the result of `split`."""
    lines = [f"{values['out']}: {values['protocol']}", f"  {values['leakage']}"]
    copies = values["protocol"] == "paper-literal"
    for role, counts in values["roles"].items():
        cells = f"copies of {counted(counts['distinct_cells'], 'cell')}" if copies else "cells"
        subjects = counted_subjects(counts["subjects"], counts["without_subject"])
        lines.append(
            f"  {role:10} {counts['cells']:6} {cells} = {_classes(counts['classes'], ' + ')}; "
            f"{subjects}, {counted(counts['groups'], 'group')}"
        )
    lines.append(
        f"  left out   {values['left_out']:6} cells: duplicates, conflicts, unlabelled, those "
        "of official test sets, and near duplicates across official folds"
    )
    if values["intervals"]:
        lines += [f"  {line}" for line in _split_warnings(values)]
    nameless = not any(counts["subjects"] for counts in values["roles"].values())
    for unit, counts in values["crossings"].items():
        if unit == "subject" and nameless:
            lines.append("  subjects are unknown: none can be seen to cross")
            continue
        name = "image" if unit == "duplicate_id" else unit
        lines.append(
            f"  {counted(counts['units'], name)} in two roles or more; "
            f"{counted(counts['test_cells'], 'test cell')} whose {name} trains too"
        )
    return "\n".join(lines)


def subjects_text(values: dict[str, Any]) -> str:
    """Return `predict`'s table of subjects, and how many pictures were given more than once."""
    text = f"{values['subjects_out']}: {counted(values['subjects'], 'subject')}"
    cells, copies = (sum(one[name] for one in values["patients"]) for name in ("cells", "copies"))
    if copies:
        text += (
            f"; {counted(cells + copies, 'cell')} = {cells} counted + {copies} left out as copies "
            "of pictures that are counted"
        )
    return text


def spellings_text(subjects: dict[str, list[str]]) -> list[str]:
    """Say which names were taken as one subject, in one line if there are any."""
    ways = [" = ".join([name, *more]) for name, more in subjects.items()]
    shown = ", ".join(ways[:5]) + (f" and {len(ways) - 5} more" if len(ways) > 5 else "")
    return [f"  taken as one subject: {shown}"] if ways else []
