"""What registry.json says: versions with what they came from, and all that was done with them."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, Field, model_validator

from leuk_ray.evaluation.report_model import StoredReport
from leuk_ray.io.locations import Location, join, name_of, parent
from leuk_ray.io.storage import exists, read_json
from leuk_ray.utils.settings import Settings

CHAMPION = "champion"
SCHEMA_VERSION = 1


class _LeaderboardRow(BaseModel):
    run: str


class _SweepReport(StoredReport):
    """What a sweep's report says of its `top`; `tuning.report` writes it."""

    made_by = "tune --resume"
    schema_version: int = 2
    leaderboard: list[_LeaderboardRow]


class Lineage(Settings):
    """Where a bundle came from: folders or addresses, where they are known."""

    run: str | None = None
    data: str | None = None
    sweep: str | None = None

    @classmethod
    def of(cls, origin: Location) -> Lineage:
        """Say what is known of a run, a run of a sweep, one of a sweep's `top`, or a bundle there.

        Raises:
            UserError: a file of the run or the sweep that says so cannot be read.
        """
        place = origin.absolute() if isinstance(origin, Path) else origin
        if name_of(place) == "bundle":
            place = parent(place)
        run = place if exists(join(place, "config.yaml")) else None
        sweep: Location | None = parent(parent(place))
        if not exists(join(sweep, "sweep.yaml")):
            sweep = None
        elif run is None:
            ranked = _SweepReport.read(join(sweep, "report")).leaderboard
            run = join(sweep, "runs", ranked[int(name_of(place)) - 1].run)
        started = join(run, "environment.json") if run else None
        data = read_json(started).get("data") if started and exists(started) else None
        return cls(run=run and str(run), data=data, sweep=sweep and str(sweep))


class Version(Settings):
    """A bundle in the registry.

    bundle_sha256: of its bundle.json, which holds all others. overlap: what marks its test results,
    as `LEAKY`; empty where nothing does. removed: when its bundle was deleted (`Registry.collect`).
    """

    number: int = Field(ge=1)
    added: str
    bundle_sha256: str
    dataset_fingerprint: str
    protocol: str
    recipe: str
    seed: int
    synthetic: bool
    overlap: str = ""
    lineage: Lineage
    removed: str | None = None


class Event(Settings):
    """One line of the history; a promotion or rollback makes `alias` mean `version`."""

    time: str
    action: Literal["add", "promote", "rollback"]
    version: int
    alias: str | None = None


class Model(Settings):
    """The content of registry.json: versions 1, 2, ... and all that was done with them."""

    schema_version: Literal[1] = SCHEMA_VERSION
    name: str
    versions: tuple[Version, ...] = ()
    history: tuple[Event, ...] = ()

    @model_validator(mode="after")
    def _happened(self) -> Self:
        if [version.number for version in self.versions] != list(range(1, len(self.versions) + 1)):
            raise ValueError("versions are not 1, 2, ...")
        stacks: dict[str | None, int] = {}
        for event in self.history:
            if not 1 <= event.version <= len(self.versions):
                raise ValueError(f"the history names version {event.version}, which is none")
            step = {"promote": 1, "rollback": -1, "add": 0}[event.action]
            stacks[event.alias] = stacks.get(event.alias, 0) + step
            if stacks[event.alias] < 0:
                raise ValueError(f"the history takes back a promotion of {event.alias} too many")
        return self

    @property
    def aliases(self) -> dict[str, int]:
        """What each alias means now."""
        return {alias: meant[-1] for alias, meant in self.promoted().items() if meant}

    def promoted(self) -> dict[str, list[int]]:
        """Versions that each alias has meant, the present one last; a rollback takes one off."""
        stacks: dict[str, list[int]] = {}
        for event in self.history:
            if event.alias is not None:
                stack = stacks.setdefault(event.alias, [])
                stack.append(event.version) if event.action == "promote" else stack.pop()
        return stacks

    def collectable(self, keep: int) -> list[int]:
        """Versions that no alias means or would mean after a rollback, but for the latest few."""
        used = {version for meant in self.promoted().values() for version in meant[-2:]}
        old = self.versions[: max(0, len(self.versions) - keep)]
        return [v.number for v in old if v.removed is None and v.number not in used]

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return self.model_dump(mode="json") | {"aliases": self.aliases}
