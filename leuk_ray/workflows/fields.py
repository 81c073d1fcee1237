"""Fields of view on Ray or in this process: cells found, cropped, and answered for if asked."""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pyarrow as pa

from leuk_ray.datasets.classes import ClassSet
from leuk_ray.datasets.images import BadImageError
from leuk_ray.fields.answers import CLUMP
from leuk_ray.fields.crops import crop_name, crops_of
from leuk_ray.fields.field import Field, FieldSettings, read_field
from leuk_ray.fields.overlay import draw
from leuk_ray.fields.quality import REASONS
from leuk_ray.fields.table import field_row, part_schema
from leuk_ray.fields.whole_slide import Slide, SlideExam, open_slide
from leuk_ray.inference.classifier import Classifier
from leuk_ray.inference.files import ImageFile, image_bytes
from leuk_ray.inference.predictions import answer_row, answers_schema
from leuk_ray.io.locations import Location, parse
from leuk_ray.io.storage import write_bytes
from leuk_ray.utils.errors import DataError
from leuk_ray.utils.progress import bar
from leuk_ray.utils.wording import counted, listed

HERE = 200  # fields that are done sooner than Ray starts
_FIELDS_PER_BLOCK = 8  # of a third of a second each: actors end at about the same time
CROP = pa.schema([("crop", pa.string())])


class FieldWorker:
    """Numbers and places of field files in, rows of `part_schema` out; an actor on Ray."""

    def __init__(
        self,
        settings: dict[str, Any],
        folder: Path | None = None,
        bundle: Location | None = None,
        device: str = "cpu",
        threads: int = 0,
        show: bool = False,
    ) -> None:
        """Load what is needed.

        Args:
            settings: of FieldSettings.
            folder: where to write crops and overlays, if so.
            bundle: that answers for the cells, if one does.
            device: of the bundle's network.
            threads: of the network; 0 leaves them as they are.
            show: how far a slide is, on stderr.
        """
        self.settings = FieldSettings(**settings)
        self.folder = folder
        self.show = show
        self.classifier = None
        if bundle is not None:
            if threads:
                import torch

                torch.set_num_threads(threads)
            self.classifier = Classifier.load(bundle, device)
        self.schema = part_schema(extra_columns(folder, self.classifier))

    def __call__(self, block: pa.Table) -> pa.Table:
        """Work through a block of number, path and place."""
        rows = [self._row(row["number"], row["path"], row["place"]) for row in block.to_pylist()]
        return pa.Table.from_pylist(rows, schema=self.schema)

    def _row(self, number: int, path: str, place: str) -> dict[str, Any]:
        try:
            slide = open_slide(parse(place))
            if slide is not None:
                return self._slide_row(number, path, slide)
            data = image_bytes(parse(place))
        except BadImageError as error:
            return field_row(number, Field(path, "refused", ("unreadable",), detail=str(error)))
        field, pixels = read_field(path, data, self.settings)
        if pixels is None:
            return field_row(number, field)
        crops = crops_of(field, pixels, self.settings.crop_um)
        if self.classifier is not None:
            return field_row(number, field, _answered(self.classifier, path, crops))
        if self.folder is None:
            return field_row(number, field)
        self._write(f"overlays/{path}.jpg", draw(field, pixels))
        return field_row(number, field, self._crop_rows(path, crops))

    def _slide_row(self, number: int, path: str, slide: Slide) -> dict[str, Any]:
        more: list[dict[str, Any]] = []
        try:
            exam = SlideExam(slide, self.settings)
            with bar(path, "tile") if self.show else nullcontext(_no_bar) as progress:
                for crops in exam.tiles(progress):
                    if self.classifier is not None:
                        more += _answered(self.classifier, path, crops)
                    elif self.folder is not None:
                        more += self._crop_rows(path, crops, first=len(more) + 1)
            field = exam.field(path)
        except BadImageError:
            self._remove_crops(path)
            raise
        finally:
            slide.close()
        if self.folder is not None:
            self._write(f"overlays/{path}.jpg", draw(field, exam.overview))
        if field.status == "refused":
            self._remove_crops(path)
            more = []
        return field_row(number, field, more)

    def _remove_crops(self, path: str) -> None:
        if self.folder is not None:
            shutil.rmtree(self.folder / "crops" / path, ignore_errors=True)

    def _crop_rows(
        self, path: str, crops: Sequence[bytes | None], first: int = 1
    ) -> list[dict[str, Any]]:
        """Write crops of a field, of which the first has this number; a row each."""
        more = []
        for at, crop in enumerate(crops, start=first):
            name = None if crop is None else crop_name(path, at)
            if crop is not None and name is not None:
                self._write(name, crop)
            more.append({"crop": name})
        return more

    def _write(self, name: str, data: bytes) -> None:
        assert self.folder is not None
        place = self.folder / name
        place.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(place, data)


def _no_bar(done: int, total: int) -> None:
    """In place of a bar, on Ray."""


def extra_columns(folder: Path | None, classifier: Classifier | None) -> pa.Schema | None:
    """Columns of a cell beyond what the detector says."""
    if classifier is not None:
        return answer_columns(classifier.manifest.class_set)
    return CROP if folder is not None else None


def answer_columns(classes: ClassSet) -> pa.Schema:
    """Columns of a cell that is answered for: those of a table of answers."""
    kept = [field for field in answers_schema(classes) if field.name not in ("name", "path")]
    return pa.schema(kept)


def check_any_examined(
    statuses: Sequence[str], reasons: Sequence[str], details: Mapping[str, str]
) -> None:
    """Raise a UserError where every field was refused.

    Args:
        statuses: of all fields.
        reasons: of the refused ones; a field may have several.
        details: see `details_of`.
    """
    if any(status != "refused" for status in statuses):
        return
    why = [f"{number} {name}: {REASONS[name]}" for name, number in Counter(reasons).most_common()]
    why += [listed([f"{name}: {detail}" for name, detail in details.items()])] if details else []
    raise DataError(
        f"none of {counted(len(statuses), 'field')} could be used ({'; '.join(why)}); nothing was "
        "written"
    )


def details_of(fields: pa.Table) -> dict[str, str]:
    """By name, why a file cannot be read, and how many tiles of a slide were examined."""
    pairs = zip(fields["file"].to_pylist(), fields["detail"].to_pylist(), strict=True)
    return {name: detail for name, detail in pairs if detail}


def crop_files(path: str, crops: Sequence[bytes | None]) -> list[tuple[str, bytes]]:
    """Named crops of a field, for a classifier; a clump has none."""
    return [(crop_name(path, at), crop) for at, crop in enumerate(crops, start=1) if crop]


def _answered(
    classifier: Classifier, path: str, crops: Sequence[bytes | None]
) -> list[dict[str, Any]]:
    """Answers for the crops of a field, as rows; a clump has none, and says so."""
    answers = iter(classifier.predict_field(crop_files(path, crops)))
    return [{"reasons": CLUMP} if crop is None else answer_row(next(answers)) for crop in crops]


def work(
    files: Sequence[ImageFile],
    numbers: Sequence[int],
    arguments: dict[str, Any],
    *,
    workers: int | None,
    gpus: bool = False,
    address: str | None = None,
) -> Iterator[pa.Table]:
    """Work through fields; yields parts of `part_schema` in no order.

    Args:
        files: all of a job.
        numbers: of those that are wanted.
        arguments: of FieldWorker.
        workers: actors on Ray; 0 is this process. None: 0 up to 200 fields, else one for each CPU.
        gpus: one for each worker.
        address: Ray cluster to join.
    """
    if not numbers:
        return
    wanted = pa.table(
        {
            "number": list(numbers),
            "path": [files[number].path for number in numbers],
            "place": [str(files[number].place) for number in numbers],
        }
    )
    if workers is None:
        workers = 0 if len(numbers) <= HERE and not address else (os.cpu_count() or 1)
    if not workers:
        worker = FieldWorker(**arguments, show=True)
        for start in range(len(wanted)):
            yield worker(wanted.slice(start, 1))
        return

    from leuk_ray.cluster import ray_cluster
    from leuk_ray.workflows.pool import cut, on_pool, scoring

    ray_cluster.connect(address, num_workers=workers)
    ray_cluster.require(workers, gpus)
    size = min(_FIELDS_PER_BLOCK, max(1, len(numbers) // (16 * workers)))
    blocks = cut(wanted, size)
    if (bundle := arguments.get("bundle")) is not None:
        arguments = arguments | scoring(bundle, min(workers, len(blocks)), gpus)
    yield from on_pool(FieldWorker, blocks, workers, gpus, arguments)
