"""Folders of image files to a catalogue: one row an image, before any pixel is read.

C-NMC 2019 names say everything: `UID_<subject>_<image>_<cell>_<all|hem>.bmp`, healthy
subjects start with H (once written `h`). Training cells lie in
`training_data/fold_{0,1,2}/{all,hem}/` (TCIA: `C-NMC_training_data/...`), the preliminary
test set is numbered and named by a label file, the final one is numbered and unlabelled.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa

from leuk_ray.errors import UserError

CATALOGUE_SCHEMA = pa.schema(
    [
        ("uid", pa.string()),
        ("path", pa.string()),
        ("label", pa.int8()),
        ("subject", pa.string()),
        ("source", pa.string()),
        ("source_image", pa.string()),
        ("official_split", pa.string()),
    ]
)
IMAGE_SUFFIXES = (".bmp", ".png", ".jpg", ".jpeg", ".tif", ".tiff", ".webp")
SYNTHETIC_MARKER = "SYNTHETIC.json"

_NAME = re.compile(r"UID_(H?\d+)_(\d+)_(\d+)_(all|hem)", re.IGNORECASE)
_TRAINING = re.compile(r"(?:C-NMC_)?training_data/(fold_\d)/(all|hem)/([^/]+)\.bmp", re.IGNORECASE)
_PRELIMINARY = re.compile(r"C-NMC_test_prelim_phase_data/(\d+)\.bmp", re.IGNORECASE)
_FINAL = re.compile(r"C-NMC_test_final_phase_data/(\d+)\.bmp", re.IGNORECASE)
_PRELIMINARY_LABELS = "C-NMC_test_prelim_phase_data_labels.csv"


@dataclass(frozen=True)
class Rejection:
    """A file that is not in the catalogue or not in the dataset, and why."""

    path: str
    reason: str
    detail: str


@dataclass
class Catalogue:
    """What a layout found: rows to prepare and image files it could not name."""

    rows: list[dict[str, object]] = field(default_factory=list)
    rejected: list[Rejection] = field(default_factory=list)

    def table(self) -> pa.Table:
        """The rows in CATALOGUE_SCHEMA, ordered by uid."""
        return pa.Table.from_pylist(self.rows, schema=CATALOGUE_SCHEMA).sort_by("uid")


Layout = Callable[[Path], Catalogue]


def read_layout(layout: str, root: Path) -> Catalogue:
    """List the images under `root` as `layout` names them.

    Raises:
        UserError: unknown layout, no folder there, or no image in it.
    """
    if layout not in LAYOUTS:
        raise UserError(f"layout {layout!r} is not known; choose one of {', '.join(LAYOUTS)}")
    if not root.is_dir():
        raise UserError(f"{root}: there is no such folder; give the folder with the images")
    catalogue = LAYOUTS[layout](root)
    if not catalogue.rows and not catalogue.rejected:
        raise UserError(f"{root}: holds no image file; give the folder with the images")
    if not catalogue.rows:
        first = catalogue.rejected[0]
        raise UserError(
            f"{root}: none of {len(catalogue.rejected)} images fits the layout {layout!r} "
            f"(first: {first.path}, {first.detail}); check --layout"
        )
    return catalogue


def parse_c_nmc(
    paths: Sequence[str], preliminary: Mapping[str, tuple[str, int]], source: str
) -> Catalogue:
    """Name C-NMC 2019 images from their paths alone.

    Args:
        paths: image paths with `/`, absolute or relative.
        preliminary: number of a preliminary image -> (original file name, label 1 ALL 0 healthy).
        source: what to write into the column `source`.
    """
    catalogue = Catalogue()
    seen: dict[str, str] = {}
    for path in sorted(paths):
        row = _c_nmc_row(path, preliminary, source)
        if isinstance(row, Rejection):
            catalogue.rejected.append(row)
        elif row["uid"] in seen:
            detail = f"uid {row['uid']} is taken by {seen[str(row['uid'])]}"
            catalogue.rejected.append(Rejection(path, "uid_twice", detail))
        else:
            seen[str(row["uid"])] = path
            catalogue.rows.append(row)
    return catalogue


def _c_nmc_row(
    path: str, preliminary: Mapping[str, tuple[str, int]], source: str
) -> dict[str, object] | Rejection:
    if match := _TRAINING.search(path):
        split, folder, stem = match.groups()
        return _named(path, stem, folder.lower() == "all", split.lower(), source)
    if match := _PRELIMINARY.search(path):
        number = match.group(1)
        if number in preliminary:
            name, label = preliminary[number]
            return _named(path, name.rsplit(".", 1)[0], label == 1, "preliminary", source)
        return _unlabelled(path, f"preliminary_{number}", "preliminary", source)
    if match := _FINAL.search(path):
        return _unlabelled(path, f"final_{match.group(1)}", "final", source)
    return Rejection(path, "place", "is in no folder that the C-NMC layout knows")


def _named(path: str, stem: str, positive: bool, split: str, source: str):
    match = _NAME.fullmatch(stem)
    if match is None:
        return Rejection(path, "name", f"{stem} is not UID_<subject>_<image>_<cell>_<all|hem>")
    subject, image, _, word = match.groups()
    subject = subject.upper()
    if (word.lower() == "all") != positive:
        return Rejection(path, "label_disagrees", f"{stem} is labelled otherwise by its place")
    if subject.startswith("H") == positive:
        return Rejection(path, "label_disagrees", f"subject {subject} cannot be {word.lower()}")
    return {
        "uid": stem,
        "path": path,
        "label": int(positive),
        "subject": subject,
        "source": source,
        "source_image": f"{subject}_{image}",
        "official_split": split,
    }


def _unlabelled(path: str, uid: str, split: str, source: str) -> dict[str, object]:
    return {"uid": uid, "path": path, "source": source, "official_split": split}


def _c_nmc(root: Path) -> Catalogue:
    source = "c-nmc-2019"
    if (root / SYNTHETIC_MARKER).exists():
        source = "synthetic c-nmc"
    paths = [path.as_posix() for path in sorted(root.rglob("*")) if _is_image(path)]
    return parse_c_nmc(paths, _read_preliminary_labels(root), source)


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in IMAGE_SUFFIXES and not path.is_dir()


def _read_preliminary_labels(root: Path) -> dict[str, tuple[str, int]]:
    labels: dict[str, tuple[str, int]] = {}
    for path in root.rglob(_PRELIMINARY_LABELS):
        with path.open(newline="") as stream:
            for line, row in enumerate(csv.DictReader(stream), start=2):
                try:
                    number = row["new_names"].removesuffix(".bmp")
                    labels[number] = (row["Patient_ID"], {"0": 0, "1": 1}[row["labels"]])
                except (KeyError, AttributeError) as error:
                    raise UserError(
                        f"{path}, line {line}: needs Patient_ID, new_names and labels 0 or 1; "
                        "restore the original file"
                    ) from error
    return labels


LAYOUTS: dict[str, Layout] = {"c-nmc": _c_nmc}
