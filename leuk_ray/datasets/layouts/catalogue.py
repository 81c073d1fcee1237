"""What every layout makes: rows to prepare, and files that it could not name."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa

from leuk_ray.datasets.layouts.listing import Found, Rejection
from leuk_ray.datasets.words import read_labels, unify_subjects
from leuk_ray.errors import UserError

CATALOGUE_SCHEMA = pa.schema(
    [
        ("uid", pa.string()),
        ("path", pa.string()),
        ("label", pa.int8()),
        ("word", pa.string()),  # what the label was read from, where it is a word
        ("subject", pa.string()),
        ("source", pa.string()),
        ("source_image", pa.string()),
        ("official_split", pa.string()),
        ("site", pa.string()),
        ("stain", pa.string()),
        ("side", pa.int32()),  # the width and height that the layout promises
    ]
)
SYNTHETIC_MARKER = "SYNTHETIC.json"
SYNTHETIC_FILES = (SYNTHETIC_MARKER, "latents.csv")  # beside rendered images

Row = dict[str, object]


@dataclass
class Catalogue:
    """What a layout found: rows to prepare, files it could not name, and files it skipped.

    spellings: subjects that were written in several ways, with the other ones.
    """

    rows: list[Row] = field(default_factory=list)
    rejected: list[Rejection] = field(default_factory=list)
    skipped: list[Rejection] = field(default_factory=list)
    spellings: dict[str, list[str]] = field(default_factory=dict)

    @classmethod
    def of(cls, items: Iterable[Row | Rejection], found: Found | None = None) -> Catalogue:
        """Collect; of two rows with one uid the second is rejected.

        Args:
            items: what the layout says of each image.
            found: the files they come from, whose rejections and skips are taken over.
        """
        found = found or Found()
        catalogue = cls(rejected=list(found.rejected), skipped=list(found.skipped))
        seen: dict[object, object] = {}
        for row in items:
            if isinstance(row, Rejection):
                catalogue.rejected.append(row)
            elif row["uid"] in seen:
                detail = f"uid {row['uid']} is taken by {seen[row['uid']]}"
                catalogue.rejected.append(Rejection(str(row["path"]), "uid_twice", detail))
            else:
                seen[row["uid"]] = row["path"]
                catalogue.rows.append(row)
        subjects = [row.get("subject") for row in catalogue.rows]
        names, catalogue.spellings = unify_subjects(subjects)  # pyright: ignore[reportArgumentType]
        for row, name in zip(catalogue.rows, names, strict=True):
            if name is not None or "subject" in row:
                row["subject"] = name
        return catalogue

    def read_labels(self, positive: tuple[str, ...], where: object) -> None:
        """Set `label` of every row by its `word`; raises UserError as `words.read_labels` does."""
        counts = Counter(str(row["word"]) for row in self.rows)
        labels = read_labels(counts, positive, where)
        for row in self.rows:
            row["label"] = labels[str(row["word"])]

    def table(self) -> pa.Table:
        """The rows in CATALOGUE_SCHEMA, ordered by uid."""
        return pa.Table.from_pylist(self.rows, schema=CATALOGUE_SCHEMA).sort_by("uid")


@dataclass(frozen=True)
class LayoutOptions:
    """What names alone do not say.

    positive: names of the classes that are ALL; all others are healthy.
    columns: of a manifest, our name -> its column, such as label -> diagnosis.
    """

    positive: tuple[str, ...] = ()
    columns: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def parse(cls, positive: str | None, columns: str | None) -> LayoutOptions:
        """From `NAME[,NAME]` and `OURS=ITS[,OURS=ITS]`.

        Raises:
            UserError: a column without `=`.
        """
        names = tuple(name.strip() for name in (positive or "").split(",") if name.strip())
        mapping = {}
        for item in filter(None, (columns or "").split(",")):
            ours, separator, its = item.partition("=")
            if not separator:
                raise UserError(f"--columns {item}: write OURS=ITS, as label=diagnosis")
            mapping[ours.strip()] = its.strip()
        return cls(names, mapping)


Layout = Callable[[Path, LayoutOptions], Catalogue]
