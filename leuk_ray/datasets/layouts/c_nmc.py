"""C-NMC 2019, whose names say everything: `UID_<subject>_<image>_<cell>_<all|hem>.bmp`.

Healthy subjects start with H (once written `h`). Training cells lie in
`training_data/fold_{0,1,2}/{all,hem}/` (TCIA: `C-NMC_training_data/...`), the preliminary
test set is numbered and named by a label file, the final one is numbered and unlabelled.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath

from leuk_ray.datasets.layouts.catalogue import (
    SYNTHETIC_FILES,
    SYNTHETIC_MARKER,
    Catalogue,
    LayoutOptions,
    Row,
)
from leuk_ray.datasets.layouts.listing import Found, Rejection, find_files
from leuk_ray.utils.errors import DataError, unreadable

SIDE = 450
FINAL_SIDE = 600  # the cell lies in the central 450

_NAME = re.compile(r"UID_(H?\d+)_(\d+)_(\d+)_(all|hem)", re.IGNORECASE)
_TRAINING = re.compile(r"(?:C-NMC_)?training_data/(fold_\d)/(all|hem)/([^/]+)\.bmp", re.IGNORECASE)
_PRELIMINARY = re.compile(r"C-NMC_test_prelim_phase_data/(\d+)\.bmp", re.IGNORECASE)
_FINAL = re.compile(r"C-NMC_test_final_phase_data/(\d+)\.bmp", re.IGNORECASE)
_PRELIMINARY_LABELS = "C-NMC_test_prelim_phase_data_labels.csv"


def c_nmc(root: Path, _: LayoutOptions) -> Catalogue:
    """List C-NMC 2019 images.

    Raises:
        UserError: the label file of the preliminary set is missing or damaged.
    """
    synthetic = (root / SYNTHETIC_MARKER).exists()
    found = find_files(root, [*SYNTHETIC_FILES, _PRELIMINARY_LABELS])
    preliminary = _read_preliminary_labels(root)
    first = next((path for path in found.images if _PRELIMINARY.search(path)), None)
    if first and not preliminary:
        raise DataError(
            f"{first}: belongs to the preliminary set, whose label file {_PRELIMINARY_LABELS} is "
            f"not under {root}; restore it"
        )
    source = "synthetic c-nmc" if synthetic else "c-nmc-2019"
    return parse_c_nmc(found.images, preliminary, source, found)


def parse_c_nmc(
    paths: Sequence[str],
    preliminary: Mapping[str, tuple[str, int]],
    source: str,
    found: Found | None = None,
) -> Catalogue:
    """Name C-NMC 2019 images from their paths alone.

    Args:
        paths: image paths with `/`, absolute or relative.
        preliminary: number of a preliminary image -> (original file name, label 1 ALL 0 healthy).
        source: what to write into the column `source`.
        found: the files that they come from.
    """
    return Catalogue.of((_row(path, preliminary, source) for path in sorted(paths)), found)


def subject_of(path: str) -> str | None:
    """Read the subject in the name of an image, in whatever folder; None where it names none."""
    match = _NAME.fullmatch(PurePosixPath(path).stem)
    return match[1].upper() if match else None


def _row(path: str, preliminary: Mapping[str, tuple[str, int]], source: str) -> Row | Rejection:
    if match := _TRAINING.search(path):
        split, folder, stem = match.groups()
        return _named(path, stem, folder.lower() == "all", split.lower(), source)
    if match := _PRELIMINARY.search(path):
        number = match.group(1)
        if number in preliminary:
            name, label = preliminary[number]
            return _named(path, name.rsplit(".", 1)[0], label == 1, "preliminary", source)
        return _unlabelled(path, f"preliminary_{number}", "preliminary", source, SIDE)
    if match := _FINAL.search(path):
        return _unlabelled(path, f"final_{match.group(1)}", "final", source, FINAL_SIDE)
    renamed = str(PurePosixPath(path).with_suffix(".bmp"))
    if any(place.search(renamed) for place in (_TRAINING, _PRELIMINARY, _FINAL)):
        return Rejection(path, "suffix", "is no .bmp, as images of C-NMC 2019 are")
    return Rejection(path, "place", "is in no folder that the C-NMC layout knows")


def _named(path: str, stem: str, positive: bool, split: str, source: str) -> Row | Rejection:
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
        "side": SIDE,
    }


def _unlabelled(path: str, uid: str, split: str, source: str, side: int) -> Row:
    return {"uid": uid, "path": path, "source": source, "official_split": split, "side": side}


def _read_preliminary_labels(root: Path) -> dict[str, tuple[str, int]]:
    labels: dict[str, tuple[str, int]] = {}
    for path in sorted(root.rglob(_PRELIMINARY_LABELS)):
        for line, row in enumerate(_csv_rows(path), start=2):
            try:
                number = row["new_names"].removesuffix(".bmp")
                named = (row["Patient_ID"], {"0": 0, "1": 1}[row["labels"]])
            except (KeyError, AttributeError) as error:
                raise DataError(
                    f"{path}, line {line}: needs Patient_ID, new_names and labels 0 or 1; "
                    "restore the original file"
                ) from error
            if labels.setdefault(number, named) != named:
                raise DataError(
                    f"{path}, line {line}: {number}.bmp is {named[0]} here and {labels[number][0]} "
                    "before; restore the original file"
                )
    return labels


def _csv_rows(path: Path) -> list[dict[str, str]]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as stream:
            return list(csv.DictReader(stream))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise unreadable(
            error, f"{path}: cannot be read ({error}); restore the original file"
        ) from error
