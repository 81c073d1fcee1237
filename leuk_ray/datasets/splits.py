"""Protocols: which cells train, validate and test.

A protocol declares the unit it keeps whole and asserts it; what crosses coarser units is
counted. `subject-disjoint` keeps groups (see `groups`) whole, so neither a patient nor an image
crosses from training to test.
"""

from __future__ import annotations

import contextlib
import math

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field, field_validator

from leuk_ray.datasets.classes import BINARY, ClassSet
from leuk_ray.datasets.holdout import (
    ROLES,
    UnsuitableError,
    check_groups,
    fold_roles,
    holdout_roles,
)
from leuk_ray.datasets.official_folds import official_fold_roles
from leuk_ray.datasets.protocols import PROTOCOLS, ProtocolName
from leuk_ray.datasets.sites import site_units
from leuk_ray.io.locations import Location
from leuk_ray.io.storage import refuse_existing, write_table
from leuk_ray.utils.errors import ConfigError, DataError, UserError
from leuk_ray.utils.settings import Settings
from leuk_ray.utils.wording import counted

SPLIT_SCHEMA = pa.schema(
    [
        ("uid", pa.string()),
        ("label", pa.int8()),
        ("subject", pa.string()),
        ("group", pa.string()),
        ("role", pa.string()),
    ]
)  # paper-literal adds copy
COPY = pa.field("copy", pa.int64())

EVALUATED_ROLES = ("validation", "test")


class SplitSettings(Settings):
    """How cells are split into training, validation and test sets."""

    protocol: ProtocolName = "subject-disjoint"
    """Which unit stays in one set. `subject-disjoint`: groups of subjects and duplicates.
    `slide-group-disjoint`: the same groups where subjects are unknown and fields of view stand in
    for them (ALL-IDB). `site-disjoint`: whole sites, as hospitals. `official-folds`: the folds of
    C-NMC 2019. `image-random`: single images, which LEAKS wherever a subject has several.
    `paper-literal`: augmented copies, as in saeed2022, which always LEAKS."""

    fractions: tuple[float, float, float] = (0.8, 0.1, 0.1)
    """Shares of cells in training, validation and test, each above 0, 1 in all (saeed2022, split:
    8:1:1)."""

    folds: int = 0
    """Number of cross-validation folds, 2 or more; 0 for a single hold-out split. `official-folds`
    always has three."""

    fold: int = 0
    """Test fold, from 0. Of `official-folds`, the validation fold, with the preliminary set for
    testing; where that set is missing, the test fold, with the next one for validation."""

    copies: int = 20_000
    """Under `paper-literal`, augmented copies of each class (saeed2022, balancing: 20,000). A copy
    is the same in every epoch, in validation and in test."""

    source: str | None = None
    """Use cells of this source only, such as `all-idb1`; unset uses all."""

    seed: int = Field(default=0, ge=0)
    """Seed of the assignment to sets, independent of the seed of the training."""

    @field_validator("fractions")
    @classmethod
    def _share_all(cls, fractions: tuple[float, float, float]) -> tuple[float, float, float]:
        if min(fractions) <= 0 or not math.isclose(sum(fractions), 1, abs_tol=0.005):
            raise ValueError("give shares above 0 for train, validation and test that add up to 1")
        return fractions

    @property
    def asked(self) -> tuple[float, float, float]:
        """Shares of cells that train, validation and test should hold, with folds those of one."""
        train, validation, test = self.fractions
        if self.folds > 1:
            test = 1 / self.folds
            train, validation = (
                (1 - test) * share / (train + validation) for share in (train, validation)
            )
        return train, validation, test


def split_cells(cells: pa.Table, settings: SplitSettings, classes: ClassSet = BINARY) -> pa.Table:
    """Give every labelled cell that is kept a role.

    Args:
        cells: `PreparedDataset.cells`. Conflicts and unlabelled rows take no part, duplicates
            and C-NMC's preliminary and final sets only where `official-folds` wants them.
        settings: protocol, fractions, folds and seed.
        classes: what the labels mean.

    Returns:
        SPLIT_SCHEMA ordered by uid, under `paper-literal` with `copy`, and by it; no unit of
        the protocol in two roles.

    Raises:
        UserError: no subjects where the protocol needs them, too few units of a class to fill
            the three roles, no official folds, no cell of the source, or one fold or fewer.
    """
    _check_folds(settings)
    if settings.source is not None:
        cells = _of_source(cells, settings.source)
    try:
        chosen, roles = _ROLES_BY[settings.protocol](cells, settings, classes)
    except UnsuitableError as error:
        raise DataError(f"{error}; {_that_work(cells, settings, classes)}") from error
    split = chosen.select(SPLIT_SCHEMA.names[:-1]).append_column("role", pa.array(list(roles)))
    split = split.cast(SPLIT_SCHEMA)
    unit = PROTOCOLS[settings.protocol].unit
    if unit == "copy":
        return split.append_column(COPY, chosen["copy"])  # a copy is a row: it has one role
    assert_whole(chosen[unit], split["role"])
    if settings.protocol == "subject-disjoint":
        assert_disjoint(split)
    return split


def _check_folds(settings: SplitSettings) -> None:
    """Refuse what would be a hold-out to everybody but the one who typed it."""
    if settings.folds < 0 or settings.folds == 1:
        raise ConfigError(f"folds {settings.folds}: give 2 or more, or 0 for one hold-out")
    if settings.fold and not settings.folds and settings.protocol != "official-folds":
        raise ConfigError(
            f"fold {settings.fold}: without folds there is one hold-out; give folds as well"
        )


def _that_work(cells: pa.Table, settings: SplitSettings, classes: ClassSet) -> str:
    """Which protocols can part these cells, where the one that was asked for cannot."""
    found = []
    for name, protocol in PROTOCOLS.items():
        with contextlib.suppress(UserError):
            _ROLES_BY[name](cells, settings.model_copy(update={"protocol": name}), classes)
            found.append(f"{name}{' (ignores patients)' * (protocol.unit in ('uid', 'copy'))}")
    return f"protocols that work on these cells: {', '.join(found) or 'none'}"


def _of_source(cells: pa.Table, source: str) -> pa.Table:
    own = cells.filter(pc.field("source") == source)
    if not len(own):
        known = sorted({name or "none named" for name in cells["source"].to_pylist()})
        raise ConfigError(
            f"split.source {source}: no cell comes from it; there are: {', '.join(known)}"
        )
    return own


def eligible(cells: pa.Table) -> pa.Table:
    """Select the labelled cells with status `keep` that belong to no official outer test set."""
    official = cells["official_split"].to_pylist()
    mask = [
        status == "keep" and label is not None and split not in ("preliminary", "final")
        for status, label, split in zip(
            cells["status"].to_pylist(), cells["label"].to_pylist(), official, strict=True
        )
    ]
    return cells.filter(pa.array(mask, pa.bool_()))


def _of_all_classes(cells: pa.Table, protocol: str, classes: ClassSet) -> pa.Table:
    cells = eligible(cells)
    if not len(cells):
        raise UnsuitableError(f"protocol {protocol}: no cell is labelled, kept and free to split")
    labels = set(cells["label"].to_pylist())
    assert max(labels) < len(classes), "labels of other classes"
    for label, name in enumerate(classes.names):
        if label not in labels:
            raise UnsuitableError(
                f"protocol {protocol}: none of {counted(len(cells), 'cell')} to split is {name}; "
                "prepare images of all classes together, or with --classes that leave it out"
            )
    return cells


def assert_disjoint(split: pa.Table) -> None:
    """Assert that no group and no subject of a split has two roles."""
    for column in ("group", "subject"):
        assert_whole(split[column], split["role"])


def assert_whole(units: pa.ChunkedArray, roles: pa.ChunkedArray) -> None:
    """Assert that no unit has two roles."""
    seen: dict[str, str] = {}
    for unit, role in zip(units.to_pylist(), roles.to_pylist(), strict=True):
        assert seen.setdefault(unit, role) == role, f"{unit} is in two roles"


def _by_group(
    cells: pa.Table, settings: SplitSettings, classes: ClassSet
) -> tuple[pa.Table, np.ndarray]:
    protocol = settings.protocol
    cells = _of_all_classes(cells, protocol, classes)
    nameless = cells["subject"].null_count
    if nameless and protocol == "subject-disjoint":
        verb = "has" if nameless == 1 else "have"
        raise UnsuitableError(
            f"protocol {protocol}: {nameless} of {counted(len(cells), 'cell')} {verb} no subject; "
            "name it with a layout or a manifest"
        )
    labels = _column(cells, "label")
    groups = site_units(cells) if protocol == "site-disjoint" else _column(cells, "group")
    check_groups(labels, groups, protocol, classes.names)
    if settings.folds > 1:
        fold = _fold(settings, settings.folds)
        return cells, fold_roles(
            labels, groups, settings.fractions, settings.seed, settings.folds, fold, classes.names
        )
    return cells, holdout_roles(labels, groups, settings.fractions, settings.seed, classes.names)


def _by_image(
    cells: pa.Table, settings: SplitSettings, classes: ClassSet
) -> tuple[pa.Table, np.ndarray]:
    """Cut a random order of each class; with folds, test is one of equal parts of it."""
    cells = _of_all_classes(cells, settings.protocol, classes)
    labels = _column(cells, "label")
    check_groups(labels, np.arange(len(labels)), settings.protocol, classes.names)
    return cells, _random_roles(labels, settings, classes)


def _by_copy(
    cells: pa.Table, settings: SplitSettings, classes: ClassSet
) -> tuple[pa.Table, np.ndarray]:
    """Copy every cell until each class has `copies`, then part the copies as if images."""
    cells = _of_all_classes(cells, settings.protocol, classes)
    labels = _column(cells, "label")
    check_groups(labels, np.arange(len(labels)), settings.protocol, classes.names)
    generator = np.random.default_rng(settings.seed)
    rows, copies = [], []
    for label in range(len(classes)):
        members = np.flatnonzero(labels == label)
        whole, rest = divmod(settings.copies, len(members))
        if not whole:
            raise ConfigError(
                f"split.copies {settings.copies}: a class has {len(members)} cells already; "
                "raise split.copies"
            )
        rows += [np.tile(members, whole), generator.permutation(members)[:rest]]
        copies += [np.repeat(np.arange(whole), len(members)), np.full(rest, whole)]
    row, copy = np.concatenate(rows), np.concatenate(copies)
    order = np.lexsort((copy, row))
    chosen = cells.take(pa.array(row[order])).append_column(COPY, pa.array(copy[order]))
    return chosen, _random_roles(labels[row[order]], settings, classes)


def _random_roles(labels: np.ndarray, settings: SplitSettings, classes: ClassSet) -> np.ndarray:
    generator = np.random.default_rng(settings.seed)
    start = _fold(settings, settings.folds) / settings.folds if settings.folds > 1 else 0.0
    _, validation, test = settings.asked
    roles = np.full(len(labels), ROLES[0], object)
    for label in range(len(classes)):
        members = generator.permutation(np.flatnonzero(labels == label))
        cuts = np.rint(np.asarray([start, start + test]) * len(members)).astype(int)
        roles[members[cuts[0] : cuts[1]]] = "test"
        rest = np.concatenate([members[cuts[1] :], members[: cuts[0]]])
        roles[rest[: max(1, round(validation * len(members)))]] = "validation"
    return roles


def _by_official_fold(
    cells: pa.Table, settings: SplitSettings, _: ClassSet
) -> tuple[pa.Table, np.ndarray]:
    if settings.folds > 1:
        raise ConfigError("folds: official-folds has three of its own; choose with fold=0, 1 or 2")
    return official_fold_roles(cells, _fold(settings, 3))


def _fold(settings: SplitSettings, folds: int) -> int:
    if not 0 <= settings.fold < folds:
        raise ConfigError(f"fold {settings.fold}: give 0 to {folds - 1}")
    return settings.fold


def _column(cells: pa.Table, name: str) -> np.ndarray:
    values = cells[name].to_pylist()
    return np.asarray(values, np.int64 if name == "label" else object)


_ROLES_BY = {
    "subject-disjoint": _by_group,
    "slide-group-disjoint": _by_group,
    "site-disjoint": _by_group,
    "official-folds": _by_official_fold,
    "image-random": _by_image,
    "paper-literal": _by_copy,
}


def rows_with_role(cells: pa.Table, split: pa.Table, roles: tuple[str, ...]) -> np.ndarray:
    """Find the rows of `cells` that have some roles, (N,) int64, ascending; of copies one each."""
    wanted = split.filter(pc.field("role").isin(pa.array(roles, pa.string())))["uid"]
    row_of = {uid: row for row, uid in enumerate(cells["uid"].to_pylist())}
    return np.asarray([row_of[uid] for uid in wanted.to_pylist()], np.int64)


def copies_with_role(split: pa.Table, roles: tuple[str, ...]) -> np.ndarray | None:
    """Read the copy of each of `rows_with_role`, (N,) uint64; None where cells have no copies."""
    if "copy" not in split.column_names:
        return None
    return (
        split.filter(pc.field("role").isin(pa.array(roles, pa.string())))["copy"]
        .to_numpy()
        .astype(np.uint64)
    )


def write_split(split: pa.Table, path: Location) -> None:
    """Write a split as Parquet, whole or not at all.

    Raises:
        UserError: the file exists, cannot be written, or has another suffix.
    """
    if not str(path).endswith(".parquet"):
        raise ConfigError(f"{path}: a split is a Parquet table; name it .parquet")
    refuse_existing(path, "split")
    write_table(path, split)
