"""Images to datasets, fields of view to cells."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from leuk_ray.api.places import place, places
from leuk_ray.api.results import Detections
from leuk_ray.datasets.images import Crop, StorageSettings
from leuk_ray.datasets.layouts import LayoutOptions, read_layout
from leuk_ray.datasets.prepared import PreparedDataset
from leuk_ray.fields.field import FieldSettings
from leuk_ray.io.locations import Location
from leuk_ray.io.storage import refuse_existing

Listed = str | Sequence[str] | None  # `A,B`, or ["A", "B"]


def prepare(
    source: str | Path,
    dataset: Location,
    layout: str,
    *,
    size: int = 300,
    crop: Crop | None = None,
    classes: Listed = None,
    positive: Listed = None,
    ordered: bool = False,
    binary: bool = False,
    columns: Mapping[str, str] | str | None = None,
    keep_columns: Listed = None,
    address: str | None = None,
) -> PreparedDataset:
    """Decode image files into a prepared dataset: files = rows + rejected + skipped.

    Args:
        source: folder of images, or the CSV file that lists them.
        dataset: folder to make.
        layout: c-nmc, all-idb, all-idb1, all-idb2, folders or csv.
        size: side of the stored images, pixels.
        crop: center, tight, pad or full; by default center for c-nmc, else pad.
        classes: to keep, in this order; by default all folders or labels. Others are skipped.
        positive: positive classes (blasts) of the binary view.
        ordered: `classes` are stages in this order.
        binary: collapse: `positive` become ALL, others healthy.
        columns: of a CSV, ours -> its, as {"label": "diagnosis"}.
        keep_columns: of a CSV, such as sex or age_band: reports count results by their values.
        address: Ray cluster to join; by default Ray starts here.

    Raises:
        UserError: nothing to read, `dataset` exists, or no image could be decoded.
    """
    source, target = Path(source), place(dataset)
    if isinstance(columns, Mapping):
        columns = ",".join(f"{ours}={its}" for ours, its in columns.items())
    options = LayoutOptions.parse(
        _joined(classes),
        _joined(positive),
        columns,
        _joined(keep_columns),
        ordered=ordered,
        binary=binary,
    )
    refuse_existing(target, "dataset")
    read_layout(layout, source, options)  # refuses before Ray starts

    from leuk_ray.cluster import ray_cluster
    from leuk_ray.cluster.preflight import check_shared
    from leuk_ray.datasets.prepare import prepare as prepare_images
    from leuk_ray.utils.progress import bar

    ray_cluster.connect(address)
    check_shared(source, target)
    storage = StorageSettings(size=size, crop=crop or ("center" if layout == "c-nmc" else "pad"))
    with (
        bar("prepare: decoding", "cell") as decoding,
        bar("prepare: near duplicates", "pair") as near,
        bar("prepare: cells in their fields", "comparison") as slides,
    ):
        prepare_images(source, target, layout, storage, decoding, options, near, slides)
    return PreparedDataset.open(target)


def detect(
    fields: Location | Sequence[Location],
    out: str | Path,
    *,
    pixels_per_um: float | None = None,
    crop_um: float | None = None,
    workers: int | None = None,
    resume: bool = False,
    address: str | None = None,
) -> Detections:
    """Find nucleated cells in fields of view by their stain, and crop them.

    Args:
        fields: files, folders and patterns, of fields of view and slides.
        out: folder to make.
        pixels_per_um: scale of the fields; None estimates it from red cells, field by field.
        crop_um: side of the square cut out around a cell, micrometres; by default 20.
        workers: actors on Ray; 0 detects in this process. None: 0 up to 200 fields.
        resume: continue an interrupted job.
        address: Ray cluster to join.

    Raises:
        UserError: no image, or `out` is there.
    """
    from leuk_ray.workflows.detect import detect as detect_cells

    settings = FieldSettings.given(pixels_per_um, crop_um)
    summary = detect_cells(
        places(fields), Path(out), settings, workers=workers, resume=resume, address=address
    )
    return Detections(Path(out), summary)


def _joined(names: Listed) -> str | None:
    return names if names is None or isinstance(names, str) else ",".join(names)
