"""DATASHEET.md: what a dataset holds, where it came from, and what is not known of it.

The questions follow Gebru et al. 2021, Datasheets for Datasets (Communications of the ACM 64:86).
What the files do not say is not available, and must be said by whoever passes the data on.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from leuk_ray.utils.wording import counted, without_html

NOT_AVAILABLE = "not available"

_KNOWN = {
    "c-nmc": {
        "purpose": "Telling leukemic blasts from healthy cells (ISBI 2019 challenge).",
        "collected": "Cells segmented onto black out of microscope images. A subject with ALL "
        "gave blasts, a healthy subject normal cells.",
        "licence": "CC BY 3.0; Gupta, A., Gupta, R. (2019), The Cancer Imaging Archive, "
        "https://doi.org/10.7937/tcia.2019.dc64i46r",
    },
    "all-idb": {
        "purpose": "Telling leukemic blasts from healthy cells.",
        "collected": "Fields of stained smears (ALL-IDB1), and cells cut from them (ALL-IDB2).",
        "licence": "By application to the University of Milan; images may not be passed on.",
    },
}


def datasheet(manifest: Mapping[str, Any], audit: Mapping[str, Any]) -> str:
    """Write the datasheet as Markdown.

    Args:
        manifest: the content of dataset.json.
        audit: what `audit.audit_dataset` returned.
    """
    layout = manifest["layout"]
    known = _KNOWN.get("all-idb" if layout.startswith("all-idb") else layout, {})
    if manifest["synthetic"]:
        known = {
            "purpose": "Testing software: SYNTHETIC cells with a known best area under ROC or "
            "balanced accuracy.",
            "collected": "Rendered; nobody's cells.",
            "licence": "none is needed",
        }
    counts, storage, classes = manifest["counts"], manifest["storage"], audit["classes"]
    class_rows = [
        f"| {name} | {own['cells']:,} | {own['subjects']:,} | {own['groups']:,} |"
        for name, own in classes.items()
    ]
    warnings = [f"- {warning}" for warning in audit["warnings"]]
    if not audit["shortcuts"]:
        warnings.append(
            "- cell area, mean colour and properties of the files: not measured, since no class is "
            "positive (`prepare --positive`)"
        )
    warnings = warnings or ["- none"]
    lines = [
        "# Datasheet",
        "",
        f"Layout {layout}, fingerprint `{manifest['fingerprint']}`.",
        "",
        "## Motivation",
        "",
        f"- Made for: {known.get('purpose', NOT_AVAILABLE)}",
        f"- Made and paid by: {NOT_AVAILABLE}",
        "",
        "## Composition",
        "",
        "| class | cells | subjects | groups |",
        "|---|---|---|---|",
        *class_rows,
        "",
        f"- Files: {counts['files']:,} = {counts['rows']:,} rows + {counts['rejected']:,} rejected "
        f"+ {counts.get('skipped', 0):,} skipped",
        f"- Images that occur more than once: {audit['identical_images']:,}, of these under "
        f"several subjects: {audit['identical_images_across_subjects']:,}",
        f"- Near duplicates: {counted(len(audit['near_duplicates']), 'set')} of images",
        f"- Sites: {_values(audit, 'site')}; stains: {_values(audit, 'stain')}",
        f"- Age, sex, origin, severity of disease: {NOT_AVAILABLE}",
        "",
        "## Collection",
        "",
        f"- How: {known.get('collected', NOT_AVAILABLE)}",
        f"- When and where, consent, ethics approval: {NOT_AVAILABLE}",
        f"- Who labelled, and how well labellers agree: {NOT_AVAILABLE}",
        "",
        "## Preprocessing",
        "",
        f"- Decoded to RGB, {storage['crop']} crop, stored at {storage['size']} px a side",
        "- Rows that share an image train and score once; those whose labels disagree not at all",
        "",
        "## Uses",
        "",
        "- For research on classifiers of single cells. Not for deciding about a patient.",
        "- What a classifier could learn by accident:",
        *warnings,
        "",
        "## Distribution and maintenance",
        "",
        f"- Licence: {known.get('licence', NOT_AVAILABLE)}",
        f"- Who maintains it, and until when: {NOT_AVAILABLE}",
        "",
    ]
    return without_html("\n".join(lines))


def _values(audit: Mapping[str, Any], column: str) -> str:
    found = [name for name in audit["balance"][column] if name != "unknown"]
    return ", ".join(sorted(found)) if found else NOT_AVAILABLE
