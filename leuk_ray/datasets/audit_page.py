"""The audit as a page that stands alone, with pictures of the cells it names, and as JSON."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from leuk_ray.datasets.datasheet import datasheet
from leuk_ray.datasets.prepared import PreparedDataset
from leuk_ray.io.locations import Location, name_of
from leuk_ray.io.storage import directory_by_rename, refuse_existing, write_json
from leuk_ray.utils.html import page_templates
from leuk_ray.utils.wording import counted, overlap_label

MAX_SHOWN = 60  # entries of a list on the page; audit.json has all
MAX_SIZES = 20
MAX_SUSPECTS = 24  # of each class, with their pictures
MAX_PICTURES = 4  # of one entry
_SIDE = 128


def write_audit(
    out: Location, dataset: PreparedDataset, audit: Mapping[str, Any], show_images: bool
) -> None:
    """Write audit.json, audit.html and DATASHEET.md into the new folder `out`.

    Args:
        out: the folder; it appears when all are there.
        dataset: what was audited.
        audit: what `audit.audit_dataset` returned.
        show_images: False keeps every picture of a cell out.

    Raises:
        UserError: `out` exists.
    """
    refuse_existing(out, "audit")
    lists = audit["identical"], audit["near_duplicates"], audit["slides"]["overlapping"]
    named = [item for items in lists for item in items[:MAX_SHOWN]]
    uids = [uid for item in named for uid in item["uids"][:MAX_PICTURES]]
    for found in audit.get("doubtful_labels", {}).values():
        uids += [one["uid"] for one in found["suspects"][:MAX_SUSPECTS]]
    uids = list(dict.fromkeys(uids))
    pictures = _pictures(dataset, uids) if show_images else {}
    environment = page_templates(Path(__file__).parent)
    page = environment.get_template("audit.html.j2").render(
        audit=audit,
        manifest=dataset.manifest,
        name=name_of(dataset.location),
        pictures=pictures,
        max_shown=MAX_SHOWN,
        max_sizes=MAX_SIZES,
        max_suspects=MAX_SUSPECTS,
        counted=counted,
        overlap_label=overlap_label,
    )
    with directory_by_rename(out, new="audit") as partial:
        write_json(partial / "audit.json", audit)
        (partial / "audit.html").write_text(page, encoding="utf-8")
        (partial / "DATASHEET.md").write_text(datasheet(dataset.manifest, audit), encoding="utf-8")


def _pictures(dataset: PreparedDataset, uids: list[str]) -> dict[str, str]:
    """uid -> PNG in base64."""
    row_of = {uid: row for row, uid in enumerate(dataset.cells["uid"].to_pylist())}
    reader = dataset.reader()
    out = {}
    for uid in uids:
        (pixels,) = reader.read(np.asarray([row_of[uid]]))
        stream = io.BytesIO()
        Image.fromarray(pixels).resize((_SIDE, _SIDE), Image.Resampling.LANCZOS).save(stream, "PNG")
        out[uid] = base64.b64encode(stream.getvalue()).decode()
    return out
