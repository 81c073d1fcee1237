"""Which cells made a bundle: those that trained, validated or calibrated it, and those it tests on.

lineage.safetensors holds for each role the sorted 8-byte hashes of the cells' decoded pixels, so
that cells of any dataset can be recognised and counted, whatever their names. No pixels and no
names of subjects can be read from it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import reduce
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field
from safetensors import SafetensorError
from safetensors.numpy import load, save

from leuk_ray.io.locations import Location, join
from leuk_ray.io.storage import read_bytes
from leuk_ray.utils.errors import DataError
from leuk_ray.utils.settings import Settings

LINEAGE_FILE = "lineage.safetensors"
Role = Literal["train", "validation", "calibrated", "test"]
SEEN: tuple[Role, ...] = ("train", "validation", "calibrated")  # what the bundle was made with
ROLES: tuple[Role, ...] = (*SEEN, "test")
HashArray = npt.NDArray[np.uint64]


class CellSet(Settings):
    """Cells of one role, in bundle.json: how many different images, and SHA-256 of their hashes."""

    cells: int = Field(ge=0)
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")


def cell_hashes(cells: pa.Table) -> HashArray:
    """(N,) the first 8 bytes of SHA-256 of each `pixels_sha256` of `PreparedDataset.cells`."""
    digests = [
        hashlib.sha256(pixels.encode()).digest()[:8]
        for pixels in cells["pixels_sha256"].to_pylist()
    ]
    return np.frombuffer(b"".join(digests), "<u8").astype(np.uint64)


@dataclass(frozen=True)
class CellLineage:
    """The cells that made a bundle: role -> sorted, distinct hashes; an absent role has none."""

    hashes: Mapping[Role, HashArray] = field(default_factory=dict)

    @classmethod
    def of_split(cls, split: pa.Table, cells: pa.Table) -> CellLineage:
        """Record a run's split: columns uid and role, of rows of `PreparedDataset.cells`."""
        rows = pc.index_in(split["uid"], value_set=cells["uid"].combine_chunks())  # pyright: ignore
        role, known = np.asarray(split["role"].to_pylist()), cell_hashes(cells)
        return cls({name: np.unique(known[rows.to_numpy()[role == name]]) for name in ROLES}).packed

    @classmethod
    def of(cls, role: Role, hashes: HashArray) -> CellLineage:
        """Record cells of one role."""
        return cls({role: np.unique(hashes)})

    @classmethod
    def union(cls, lineages: Iterable[CellLineage]) -> CellLineage:
        """Say what made any of several bundles."""

        def joined(one: CellLineage, other: CellLineage) -> CellLineage:
            return cls({role: np.union1d(one[role], other[role]) for role in ROLES})

        return reduce(joined, lineages, cls()).packed

    @classmethod
    def read(cls, bundle: Location, recorded: Mapping[Role, CellSet]) -> CellLineage | None:
        """Read the lineage in a bundle's folder; None where bundle.json records none.

        Raises:
            DataError: it is not what bundle.json records.
        """
        if not recorded:
            return None
        place = join(bundle, LINEAGE_FILE)
        try:
            tensors = load(read_bytes(place))
            found = cls({role: tensors[role] for role in recorded})
        except (FileNotFoundError, KeyError, ValueError, SafetensorError) as error:
            raise DataError(f"{place}: is not understood; get the bundle anew") from error
        if any(each.dtype != np.uint64 for each in found.hashes.values()) or (
            found.recorded != recorded
        ):
            raise DataError(f"{place}: is not what bundle.json names; get the bundle anew")
        return found

    def __getitem__(self, role: Role) -> HashArray:
        return self.hashes.get(role, np.zeros(0, np.uint64))

    @property
    def packed(self) -> CellLineage:
        """Without empty roles."""
        return CellLineage({role: found for role, found in self.hashes.items() if len(found)})

    @property
    def seen(self) -> HashArray:
        """The cells that the bundle was made with, whatever their role."""
        return np.unique(np.concatenate([self[role] for role in SEEN]))

    @property
    def recorded(self) -> dict[Role, CellSet]:
        """What bundle.json says of each role."""
        return {
            role: CellSet(
                cells=len(found), sha256=hashlib.sha256(found.astype("<u8").tobytes()).hexdigest()
            )
            for role, found in self.hashes.items()
        }

    def save(self, path: Path) -> None:
        """Write as safetensors."""
        path.write_bytes(save({role: np.ascontiguousarray(self[role]) for role in self.hashes}))
