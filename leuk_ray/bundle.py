"""A bundle: a trained classifier as a folder that any machine can load and nothing can run.

    model.safetensors   weights and buffers
    bundle.json         architecture by name, preprocessing, decision, origin, sha256 of files
    MODEL_CARD.md       for people
    model.onnx          the same network for ONNX Runtime, where it was exported
    scope.safetensors   where the training cells' embeddings lie, where it was calibrated

An ensemble holds bundles under members/NAME/ instead of weights, and the rule of their vote.
Loading checks every hash, builds the architecture from a closed list, and needs no network.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import Field, StringConstraints, ValidationError, model_validator
from safetensors import SafetensorError
from safetensors.torch import load_model, save_model
from torch import nn

from leuk_ray.datasets.identity import DatasetIdentity
from leuk_ray.datasets.layouts.all_idb import Shows
from leuk_ray.errors import UserError
from leuk_ray.evaluation.decisions import Decisions
from leuk_ray.images import StorageSettings
from leuk_ray.inference.scope import SCOPE_FILE, ScopeSettings
from leuk_ray.locations import Location, join, name_of, parent
from leuk_ray.model_card import model_card
from leuk_ray.models.ensemble import Ensemble, Member, Rule
from leuk_ray.models.settings import ModelSettings
from leuk_ray.models.weights import origin
from leuk_ray.models.zoo import build
from leuk_ray.settings import Settings
from leuk_ray.storage import (
    directory_by_rename,
    exists,
    fetched,
    read_json,
    sha256,
    verify_files,
    write_json,
)

SCHEMA_VERSION = 1
ONNX_FILE = "model.onnx"
_CARD = "MODEL_CARD.md"
_OPTIONAL = (ONNX_FILE, SCOPE_FILE)

MemberName = Annotated[str, StringConstraints(pattern=r"^[^./\\][^/\\]*$")]


class Facts(Settings):
    """What bundle.json says of any bundle.

    temperature: divides the log-odds before the sigmoid.
    threshold: probability from which on a cell is called ALL.
    abstain_band: probabilities between its ends get no answer; it holds the threshold.
    scope: what pictures the network can judge.
    shows: what the images it was trained on show.
    decisions: operating points, blast fraction and abstain bands, where `calibrate` fixed them.
    test: what the report of its run says of the test cells; see `model_card.results_of`.
    datasets: what it was trained on, of an ensemble's members each that differs; empty in bundles
        written before it was recorded.
    """

    schema_version: int = SCHEMA_VERSION
    storage: StorageSettings
    classes: tuple[str, str] = ("healthy", "ALL")
    temperature: float = Field(default=1.0, gt=0)
    threshold: float = Field(default=0.5, ge=0, le=1)
    abstain_band: tuple[float, float] | None = None
    scope: ScopeSettings | None = None
    shows: Shows = "cells"
    synthetic: bool
    protocol: str
    dataset_fingerprint: str
    datasets: tuple[DatasetIdentity, ...] = ()
    recipe: str
    seed: int
    metrics: dict[str, Any] = Field(default_factory=dict)
    decisions: Decisions | None = None
    test: dict[str, Any] = Field(default_factory=dict)
    files: dict[str, str] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _band_holds_threshold(self) -> Self:
        band = self.abstain_band
        if band is not None and not 0 <= band[0] <= self.threshold <= band[1] <= 1:
            raise ValueError(f"abstain_band {band} must hold the threshold {self.threshold:g}")
        return self


class BundleFacts(Facts):
    """The content of bundle.json of one network."""

    model: ModelSettings


class EnsembleFacts(Facts):
    """The content of bundle.json of an ensemble: its members' names and how they vote."""

    rule: Rule
    members: tuple[MemberName, ...] = Field(min_length=2)


@dataclass(frozen=True)
class Bundle:
    """A verified bundle: its facts, and its network in eval mode on the CPU, loaded when used.

    folder: its files on this machine; of an object store a copy, which goes with the bundle.
    """

    path: Location
    facts: Facts
    folder: Path
    _copy: ExitStack = field(repr=False, compare=False)

    @cached_property
    def model(self) -> nn.Module:
        """The network."""
        return _load_network(self)


def write_bundle(target: Location, facts: BundleFacts, model: nn.Module) -> None:
    """Write a bundle; an existing one is replaced in one step.

    Of weights that a file or bundle began with it keeps name and hash, not the path.
    """
    began = facts.model.model_copy(update={"weights": origin(facts.model.weights)})
    facts = facts.model_copy(update={"model": began})
    with directory_by_rename(target) as partial:
        save_model(model, str(partial / "model.safetensors"))
        _complete(partial, facts, ["model.safetensors"])


def write_ensemble(target: Location, paths: Sequence[Location], rule: Rule) -> EnsembleFacts:
    """Write bundles as one: copies under members/NAME/, and the rule by which they vote.

    Raises:
        UserError: fewer than two, a member that is an ensemble or broken, or members that
            want different storage pixels.
    """
    members = {member_name(path): load_bundle(path) for path in paths}
    if len(members) < 2 or len(members) < len(paths):
        raise UserError(f"{target}: an ensemble needs two bundles or more, all of different names")
    for member in members.values():
        if not isinstance(member.facts, BundleFacts):
            raise UserError(f"{member.path}: is an ensemble itself; give its members")
    first = next(iter(members.values())).facts
    for member in members.values():
        if (member.facts.storage, member.facts.classes) != (first.storage, first.classes):
            raise UserError(
                f"{member.path}: stores {member.facts.storage.crop} crops at "
                f"{member.facts.storage.size} px, the first member {first.storage.crop} at "
                f"{first.storage.size}; train members on datasets prepared alike"
            )
    facts = EnsembleFacts(
        rule=rule,
        members=tuple(members),
        storage=first.storage,
        classes=first.classes,
        shows=_shows({member.facts.shows for member in members.values()}),
        synthetic=any(member.facts.synthetic for member in members.values()),
        protocol=_common(member.facts.protocol for member in members.values()),
        dataset_fingerprint=_common(m.facts.dataset_fingerprint for m in members.values()),
        datasets=_every_dataset(member.facts for member in members.values()),
        recipe=" + ".join(member.facts.recipe for member in members.values()),
        seed=first.seed,
    )
    with directory_by_rename(target, new="bundle") as partial:
        for name, member in members.items():
            with fetched(member.path) as folder:
                shutil.copytree(folder, partial / "members" / name)
        _complete(partial, facts, [f"members/{name}/bundle.json" for name in members])
    return facts


def derive_bundle(
    source: Bundle,
    target: Location,
    *,
    changes: Mapping[str, Any] | None = None,
    add: Mapping[str, Callable[[Path], None]] | None = None,
) -> None:
    """Copy a bundle with other facts or more files, or change it in one step where it lies.

    Args:
        source: the bundle, opened.
        target: folder of the copy.
        changes: facts to replace, by name.
        add: what writes a file, by the file's name.
    """
    facts = source.facts.model_copy(update=dict(changes or {}))
    kept = _file_names(source.facts)
    new = None if target == source.path else "bundle"
    with directory_by_rename(target, new) as partial:
        if isinstance(facts, EnsembleFacts):
            shutil.copytree(source.folder / "members", partial / "members")
        for name in kept:
            shutil.copyfile(source.folder / name, partial / name)
        for name, write in (add or {}).items():
            write(partial / name)
        _complete(partial, facts, sorted({*kept, *(add or {})}))


def load_bundle(path: Location) -> Bundle:
    """Verify a bundle, of one network or an ensemble, and load its network.

    Raises:
        UserError: no bundle there, a file missing or changed, an unknown architecture, or
            weights of another one.
    """
    bundle = open_bundle(path)
    _ = bundle.model
    return bundle


def open_bundle(path: Location) -> Bundle:
    """Verify a bundle without building its network; raises UserError as `load_bundle` does."""
    facts = read_facts(path)  # before a folder that is none is fetched
    with ExitStack() as stack:
        folder = stack.enter_context(fetched(path))
        verify_files(folder, facts.files, [*_file_names(facts), _CARD])
        return Bundle(path, facts, folder, stack.pop_all())


def _file_names(facts: Facts) -> list[str]:
    """The files that belong to a bundle, apart from its card; no other name is ever read."""
    names = [name for name in _OPTIONAL if name in facts.files]
    if isinstance(facts, EnsembleFacts):
        return [*names, *(f"members/{name}/bundle.json" for name in facts.members)]
    return [*names, "model.safetensors"]


def _load_network(bundle: Bundle) -> nn.Module:
    facts = bundle.facts
    if isinstance(facts, EnsembleFacts):
        loaded = [load_bundle(bundle.folder / "members" / name) for name in facts.members]
        members = [Member(b.model, b.facts.temperature, b.facts.threshold) for b in loaded]
        return Ensemble(members, facts.rule).eval()
    assert isinstance(facts, BundleFacts)
    model = build(facts.model, load_weights=False)
    try:
        load_model(model, bundle.folder / "model.safetensors")
    except (RuntimeError, SafetensorError) as error:
        raise UserError(
            f"{bundle.path}/model.safetensors: holds another network than bundle.json names; "
            "get the bundle anew"
        ) from error
    return model.eval()


def find_bundle(path: Location) -> Location:
    """The bundle at a path: itself, or the one of a run's folder."""
    for folder in (path, join(path, "bundle")):
        if exists(join(folder, "bundle.json")):
            return folder
    raise UserError(f"{path}: is neither a bundle nor a run with one; give RUN or RUN/bundle")


def read_facts(path: Location) -> BundleFacts | EnsembleFacts:
    """Read bundle.json without loading the network."""
    try:
        values = read_json(join(path, "bundle.json"))
        return EnsembleFacts(**values) if "members" in values else BundleFacts(**values)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise UserError(f"{path}: is no bundle (no bundle.json); give a run's bundle/") from error
    except (ValidationError, TypeError) as error:
        first = str(error).splitlines()[0]
        raise UserError(f"{path}/bundle.json: not understood ({first}); make it anew") from error


def _complete(partial: Path, facts: Facts, names: list[str]) -> None:
    """Write the card, and bundle.json last, with the hashes of the named files."""
    (partial / _CARD).write_text(model_card(facts, _network(facts)))
    files = {name: sha256(partial / name) for name in [*names, _CARD]}
    complete = facts.model_copy(update={"files": files})
    write_json(partial / "bundle.json", complete.model_dump(mode="json"))


def member_name(path: Location) -> str:
    """`runs/lite/bundle` is called lite."""
    place = path.resolve() if isinstance(path, Path) else path
    return name_of(parent(place) if name_of(place) == "bundle" else place)


def _common(values: Iterable[str]) -> str:
    different = set(values)
    return different.pop() if len(different) == 1 else "several"


def _every_dataset(members: Iterable[Facts]) -> tuple[DatasetIdentity, ...]:
    """What the members were trained on, each once; nothing where one of them does not know."""
    known = [facts.datasets for facts in members]
    return tuple(dict.fromkeys(chain.from_iterable(known))) if all(known) else ()


def _shows(members: set[Shows]) -> Shows:
    return members.pop() if len(members) == 1 else "both"


def network_title(facts: Facts) -> str:
    """A bundle's network or ensemble in a few words."""
    if isinstance(facts, BundleFacts):
        return facts.model.title
    assert isinstance(facts, EnsembleFacts)
    return f"{facts.rule} vote of {', '.join(facts.members)}"


def _network(facts: Facts) -> str:
    if isinstance(facts, BundleFacts):
        return (
            f"- Network: {facts.model.title}\n- Input: {facts.model.input_size} px\n"
            f"- Began with weights: {facts.model.weights}"
        )
    return f"- Ensemble: {network_title(facts)}"
