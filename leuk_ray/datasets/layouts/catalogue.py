"""What every layout makes: rows to prepare, and files that it could not name."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa

from leuk_ray.datasets.classes import BINARY, ClassSet
from leuk_ray.datasets.layouts.listing import Found, Rejection
from leuk_ray.datasets.words import ClassChoice, read_labels, subject_key, unify_subjects
from leuk_ray.utils.errors import ConfigError, DataError

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

KEPT = "kept."  # before the name of a column that is kept for results by its values
MAX_VALUES = 20  # of a kept column; more are measurements, dates or names
Row = dict[str, object]


@dataclass
class Catalogue:
    """What a layout found: rows to prepare, files it could not name, and files it skipped.

    spellings: subjects that were written in several ways, with the other ones.
    classes: what the labels of the rows mean.
    """

    rows: list[Row] = field(default_factory=list)
    rejected: list[Rejection] = field(default_factory=list)
    skipped: list[Rejection] = field(default_factory=list)
    spellings: dict[str, list[str]] = field(default_factory=dict)
    classes: ClassSet = BINARY

    @classmethod
    def of(cls, items: Iterable[Row | Rejection], found: Found | None = None) -> Catalogue:
        """Collect; of two rows for one file or with one uid the second is rejected.

        Args:
            items: what the layout says of each image; `listed` names the place in a table.
            found: the files they come from, whose rejections and skips are taken over.

        Raises:
            UserError: two rows give one file two classes or two subjects.
        """
        found = found or Found()
        catalogue = cls(rejected=list(found.rejected), skipped=list(found.skipped))
        by_uid: dict[object, Row] = {}
        by_file: dict[str, Row] = {}
        for row in items:
            if isinstance(row, Rejection):
                catalogue.rejected.append(row)
                continue
            path = str(row["path"])
            file = os.path.normpath(path)
            if same := by_file.get(file):
                _refuse_contradiction(same, row)
                detail = f"is listed already ({same.get('listed', same['path'])})"
                catalogue.rejected.append(Rejection(path, "listed_twice", detail))
            elif row["uid"] in by_uid:
                detail = f"uid {row['uid']} is taken by {by_uid[row['uid']]['path']}"
                catalogue.rejected.append(Rejection(path, "uid_twice", detail))
            else:
                by_uid[row["uid"]] = by_file[file] = row
                catalogue.rows.append(row)
        subjects = [row.get("subject") for row in catalogue.rows]
        names, catalogue.spellings = unify_subjects(subjects)  # pyright: ignore[reportArgumentType]
        for row, name in zip(catalogue.rows, names, strict=True):
            if name is not None or "subject" in row:
                row["subject"] = name
        return catalogue

    @classmethod
    def labelled(
        cls,
        items: Sequence[Row | Rejection],
        choice: ClassChoice,
        where: object,
        found: Found | None = None,
    ) -> Catalogue:
        """Do as `of`, with every row's `label` set by its `word`.

        Rows of a class that `choice` leaves out are skipped.

        Raises:
            UserError: as `of` and `words.read_labels` do.
        """
        rows = [item for item in items if isinstance(item, dict)]
        classes, labels = read_labels(Counter(str(row["word"]) for row in rows), choice, where)
        for row in rows:
            row["label"] = labels.get(str(row["word"]))
        kept = [item for item in items if not isinstance(item, dict) or item["word"] in labels]
        catalogue = cls.of(kept, found)
        catalogue.classes = classes
        catalogue.skipped += [
            Rejection(str(row["path"]), "class", f"{row['word']} is not among --classes")
            for row in rows
            if row["word"] not in labels
        ]
        return catalogue

    def table(self) -> pa.Table:
        """Return the rows in CATALOGUE_SCHEMA, ordered by uid."""
        return pa.Table.from_pylist(self.rows, schema=CATALOGUE_SCHEMA).sort_by("uid")

    def kept(self, names: Sequence[str]) -> pa.Table:
        """uid and the kept columns, `KEPT` before their names, ordered by uid.

        Raises:
            UserError: a column has more than MAX_VALUES values.
        """
        keys = [KEPT + name for name in names]
        for name, key in zip(names, keys, strict=True):
            if (found := len({row[key] for row in self.rows})) > MAX_VALUES:
                raise ConfigError(
                    f"--keep-columns {name}: has {found} different values, and results are counted "
                    f"for {MAX_VALUES} at most; group them, as ages in bands"
                )
        schema = pa.schema([(key, pa.string()) for key in ("uid", *keys)])
        return pa.Table.from_pylist(self.rows, schema=schema).sort_by("uid")


def _refuse_contradiction(first: Row, second: Row) -> None:
    """Refuse two rows for one file whose class or subject differ."""
    keys = [subject_key(row.get("subject")) for row in (first, second)]  # pyright: ignore[reportArgumentType]
    if first.get("label") != second.get("label"):
        name = "word"
    elif keys[0] != keys[1]:
        name = "subject"
    else:
        return
    values = [f"{row[name]}" if row[name] else "empty" for row in (first, second)]
    raise DataError(
        f"{second['listed']}: {'label' if name == 'word' else name} of {second['path']} is "
        f"{values[1]} here and {values[0]} in {first['listed']}; correct one of the rows"
    )


@dataclass(frozen=True)
class LayoutOptions:
    """What names alone do not say.

    classes: which classes there are, and what they mean.
    columns: of a manifest, our name -> its column, such as label -> diagnosis.
    keep: columns of a manifest that the dataset keeps, so that reports count results by them.
    """

    classes: ClassChoice = field(default_factory=ClassChoice)
    columns: Mapping[str, str] = field(default_factory=dict)
    keep: tuple[str, ...] = ()

    @classmethod
    def parse(
        cls,
        classes: str | None = None,
        positive: str | None = None,
        columns: str | None = None,
        keep: str | None = None,
        *,
        ordered: bool = False,
        binary: bool = False,
    ) -> LayoutOptions:
        """From `NAME[,NAME]`, the same again, `OURS=ITS[,OURS=ITS]`, and `NAME[,NAME]`.

        Raises:
            UserError: a column without `=`, or `ordered` without `classes`.
        """
        if ordered and not classes:
            raise ConfigError("--ordered: also give the order of the stages with --classes A,B,C")
        if binary and classes:
            raise ConfigError("--binary: collapses to healthy and ALL; leave out --classes")
        mapping = {}
        for item in filter(None, (columns or "").split(",")):
            ours, separator, its = item.partition("=")
            if not separator:
                raise ConfigError(f"--columns {item}: write OURS=ITS, as label=diagnosis")
            mapping[ours.strip()] = its.strip()
        choice = ClassChoice(_names(classes), _names(positive), ordered, binary)
        return cls(choice, mapping, _names(keep))


def _names(text: str | None) -> tuple[str, ...]:
    return tuple(name.strip() for name in (text or "").split(",") if name.strip())


Layout = Callable[[Path, LayoutOptions], Catalogue]
