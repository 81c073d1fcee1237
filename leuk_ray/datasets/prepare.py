"""Image files to a prepared dataset, on Ray Data.

Each task decodes one part of the catalogue, writes that part's Parquet file and returns its
metadata: pixels never pass through the object store, so memory stays bounded by the tasks
that run at once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import ray.data

from leuk_ray.datasets import images, layouts
from leuk_ray.datasets.classes import ClassSet
from leuk_ray.datasets.columns import as_bytes
from leuk_ray.datasets.decoding import RESULT_SCHEMA, THUMB, part_name, prepare_part
from leuk_ray.datasets.groups import assign_groups
from leuk_ray.datasets.identity import DatasetIdentity
from leuk_ray.datasets.images import StorageSettings
from leuk_ray.datasets.layouts import Catalogue, LayoutOptions
from leuk_ray.datasets.layouts.all_idb import FIELDS
from leuk_ray.datasets.near_duplicates import find_near_duplicates
from leuk_ray.datasets.prepared import (
    KEPT_COLUMNS,
    METADATA_SCHEMA,
    SCHEMA_VERSION,
    PreparedDataset,
    count_statuses,
)
from leuk_ray.datasets.slides import find_slides
from leuk_ray.io.locations import Location, join
from leuk_ray.io.storage import (
    directory_by_rename,
    list_files,
    read_json,
    refuse_existing,
    write_json,
)
from leuk_ray.utils.errors import ConfigError, DataError, StorageError

ROWS_PER_PART = 256
_NO_OPTIONS = LayoutOptions()
_REJECTED_SCHEMA = pa.schema(
    [
        ("path", pa.string()),
        ("kind", pa.string()),  # rejected, or skipped by rule
        ("reason", pa.string()),
        ("detail", pa.string()),
    ]
)


def prepare(
    source: Path,
    target: Location,
    layout: str,
    storage: StorageSettings,
    progress: Callable[[int, int], None] = lambda done, total: None,
    options: LayoutOptions = _NO_OPTIONS,
    comparing: Callable[[int, int], None] = lambda done, total: None,
    searching: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Any]:
    """Decode every image of `source` into the dataset `target`; Ray must be initialised.

    Args:
        source: folder of image files, or the file that lists them.
        target: dataset folder to make; it appears only when complete. In an object store the
            images are written where they stay, since tasks of other machines write them, and
            dataset.json last.
        layout: a name in `layouts.LAYOUTS`.
        storage: crop and size of the stored pixels.
        progress: called with (images done, images in all).
        options: what names alone do not say.
        comparing: called with (pairs done, pairs in all) of likely near duplicates, if any.
        searching: called with (images done, images in all) of the search for slides, if any.

    Returns:
        The content of dataset.json. counts: files = rows + rejected + skipped.

    Raises:
        UserError: nothing to read, target exists, or no image could be decoded.
    """
    refuse_existing(target, "dataset")
    catalogue = layouts.read_layout(layout, source, options)
    table, classes = catalogue.table(), catalogue.classes
    if storage.crop not in images.WHOLE and FIELDS in table["source"].unique().to_pylist():
        raise ConfigError(f"--crop {storage.crop}: {source} holds whole fields; use --crop pad")
    target = target.absolute() if isinstance(target, Path) else target
    with directory_by_rename(target, new="dataset") as partial:
        place = partial if isinstance(target, Path) else target
        (partial / "images").mkdir()
        results, thumbs = _decode_all(table, join(place, "images"), storage, progress)
        good = results.filter(pc.field("reason").is_null())
        if not len(good):
            raise DataError(f"{source}: none of {len(table)} images could be decoded")
        rows = good.select(METADATA_SCHEMA.names)
        thumbs = thumbs if len(rows) == len(thumbs) else thumbs[good["row"].to_numpy()]
        left_out = _left_out(catalogue, table, results)
        stored = PreparedDataset(place, {"storage": storage.model_dump()})
        near = find_near_duplicates(rows, thumbs, stored.reader(), comparing)
        reduced = rows.append_column("reduced", good["reduced"])
        slides = find_slides(reduced, _decoder(table), searching)
        groups = assign_groups(rows, _pairs(near), _pairs(slides))
        manifest = {
            "schema_version": SCHEMA_VERSION,
            "layout": layout,
            "classes": list(classes.names),
            "positive": list(classes.positive),
            "ordered": classes.ordered,
            "storage": storage.model_dump(),
            "counts": _counts(rows, groups, left_out, classes) | _changed(good),
            "labels": _labels(
                table["word"].filter(results["reason"].is_null()), rows["label"], classes
            ),
            "subject_spellings": catalogue.spellings,
            **({"kept_columns": list(options.keep)} if options.keep else {}),
            "fingerprint": DatasetIdentity.of(
                rows.append_column("status", groups["status"]), storage, classes
            ).fingerprint,
            **_origin(source),
        }
        pq.write_table(groups, partial / "groups.parquet")
        if options.keep:
            kept = catalogue.kept(options.keep).filter(results["reason"].is_null())
            pq.write_table(kept, partial / KEPT_COLUMNS)
        pq.write_table(near, partial / "near_duplicates.parquet")
        pq.write_table(slides, partial / "slides.parquet")
        pq.write_table(left_out, partial / "rejected.parquet")
        write_json(partial / "dataset.json", manifest)
    return manifest


def _left_out(catalogue: Catalogue, table: pa.Table, results: pa.Table) -> pa.Table:
    """Every file that is no row, in _REJECTED_SCHEMA: by the layout, then by decoding."""
    rejected = [asdict(item) | {"kind": "rejected"} for item in catalogue.rejected]
    skipped = [asdict(item) | {"kind": "skipped"} for item in catalogue.skipped]
    failed = results.append_column("path", table["path"]).filter(pc.field("reason").is_valid())
    failed = failed.append_column("kind", pa.repeat("rejected", len(failed)))
    named = pa.Table.from_pylist(rejected + skipped, schema=_REJECTED_SCHEMA)
    return pa.concat_tables([named, failed.select(_REJECTED_SCHEMA.names)])


def _decode_all(
    table: pa.Table,
    target: Location,
    storage: StorageSettings,
    progress: Callable[[int, int], None],
) -> tuple[pa.Table, np.ndarray]:
    """One block, one task and one file a part; what is known of each image as parts finish.

    Returns:
        RESULT_SCHEMA without `thumb`, in the order of `table`; and all thumbnails.
    """
    per_part = min(ROWS_PER_PART, max(32, len(table) // 16))
    table = table.append_column("row", pa.array(np.arange(len(table), dtype=np.int32)))
    parts = [table.slice(start, per_part) for start in range(0, len(table), per_part)]
    dataset = ray.data.from_arrow(parts).map_batches(
        prepare_part,  # pyright: ignore[reportArgumentType]
        batch_size=None,
        batch_format="pyarrow",
        fn_kwargs={"target": target, "rows_per_part": per_part, "settings": storage},
    )
    dataset.context.raise_original_map_exception = True  # so that a full disk is reported as one
    results: list[pa.Table] = []
    thumbs = np.zeros((len(table), THUMB**2), np.uint8)
    done = 0
    progress(0, len(table))
    for batch in dataset.iter_batches(batch_size=None, batch_format="pyarrow"):
        result = pa.table(batch).cast(RESULT_SCHEMA)
        good = result.filter(pc.field("reason").is_null())
        thumbs[good["row"].to_numpy()] = as_bytes(good["thumb"], THUMB**2)
        # A copy: what refers to the block would keep it, thumbnails and all, in Ray's store.
        results.append(result.drop_columns("thumb").sort_by("row"))
        done += len(batch)
        progress(done, len(table))
    found = pa.concat_tables(results).sort_by("row")
    assert found["row"].equals(table["row"]), "an image was lost"
    if set(list_files(target)) != {part_name(number) for number in range(len(parts))}:
        raise StorageError(
            f"{target}: holds other files than were written; does another process write there? "
            "Run the command again, or name another place"
        )
    return found, thumbs


def _decoder(table: pa.Table) -> Callable[[str], np.ndarray]:
    def decode(uid: str) -> np.ndarray:
        path = table["path"][table["uid"].index(uid).as_py()].as_py()
        return images.decode(Path(path).read_bytes())

    return decode


def _pairs(table: pa.Table) -> list[tuple[str, str]]:
    return list(zip(table["uid_a"].to_pylist(), table["uid_b"].to_pylist(), strict=True))


def _counts(
    rows: pa.Table, groups: pa.Table, left_out: pa.Table, classes: ClassSet
) -> dict[str, Any]:
    """files = rows + rejected + skipped; rows = those of all classes + unlabelled."""
    labels, subjects = rows["label"].to_pylist(), rows["subject"]
    kinds = left_out["kind"].to_pylist()
    reasons = Counter(zip(kinds, left_out["reason"].to_pylist(), strict=True))
    return {
        "files": len(rows) + len(left_out),
        "rows": len(rows),
        "rejected": kinds.count("rejected"),
        "skipped": kinds.count("skipped"),
        "reasons": {
            kind: {why: n for (of, why), n in reasons.most_common() if of == kind}
            for kind in ("rejected", "skipped")
        },
        "classes": classes.count(labels),
        "unlabelled": labels.count(None),
        "subjects": len(subjects.drop_null().unique()),
        "rows_without_subject": subjects.null_count,
        "groups": len(groups["group"].unique()),
        "statuses": count_statuses(groups),
    }


def _changed(good: pa.Table) -> dict[str, int]:
    """How many rows do not show the file's pixels as they are, beside crop and size."""
    return {
        "converted_to_srgb": len(good.filter(pc.field("converted"))),
        "not_square": len(good.filter(pc.field("width") != pc.field("height"))),
    }


def _labels(
    words: pa.ChunkedArray, labels: pa.ChunkedArray, classes: ClassSet
) -> list[dict[str, Any]]:
    """Each word that a label was read from, its class (None: unlabelled) and how many rows."""
    found = Counter(zip(words.to_pylist(), labels.to_pylist(), strict=True))
    return [
        {"word": word, "class": None if label is None else classes.names[label], "rows": count}
        for (word, label), count in found.most_common()
        if word is not None
    ]


def _origin(source: Path) -> dict[str, Any]:
    """Whether the images were rendered, and what is known of them then."""
    folder = source.parent if source.is_file() else source  # of a CSV file of images
    marker = folder / layouts.SYNTHETIC_MARKER
    if not marker.exists():
        return {"synthetic": False}
    made = read_json(marker)
    names = ("best_auc", "best_balanced_accuracy", "subject_share")
    known = {name: made.get(name) for name in names}
    return {"synthetic": True} | known
