"""A bundle: a trained classifier as a folder that any machine can load and nothing can run.

    model.safetensors   weights and buffers
    bundle.json         architecture by name, preprocessing, decision, origin, sha256 of files
    MODEL_CARD.md       for people
    model.onnx          the same network for ONNX Runtime, where it was exported
    bundle.json.sig     who vouches for it, where it was signed
    scope.safetensors   where the training cells' embeddings lie, where it was calibrated
    lineage.safetensors which cells made it, as hashes

An ensemble holds bundles under members/NAME/ instead of weights, and the rule of their vote.
Loading checks every hash, builds the architecture from a closed list, and needs no network.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_model, save_model
from torch import nn

from leuk_ray.bundles.hub import fetch, is_on_hub
from leuk_ray.bundles.lineage import LINEAGE_FILE, CellLineage
from leuk_ray.bundles.manifest import (
    CARD,
    MANIFEST,
    WEIGHTS,
    BundleManifest,
    EnsembleManifest,
    ModelManifest,
    file_names,
    network_title,
    read_manifest,
)
from leuk_ray.bundles.model_card import model_card
from leuk_ray.bundles.signature import SIGNATURE, sign, signer
from leuk_ray.datasets.identity import DatasetIdentity
from leuk_ray.datasets.layouts.all_idb import Shows
from leuk_ray.io.hashes import copy_verified, link_or_copy, sha256, verify_files
from leuk_ray.io.locations import Location, join, name_of, parent
from leuk_ray.io.storage import (
    directory_by_rename,
    exists,
    fetched,
    write_json,
)
from leuk_ray.models.ensemble import Ensemble, Member, Rule
from leuk_ray.models.weights import origin
from leuk_ray.models.zoo import build
from leuk_ray.utils.errors import DataError, UserError
from leuk_ray.utils.settings import first_problem


@dataclass(frozen=True)
class Bundle:
    """A verified bundle: its manifest, and its network in eval mode on the CPU, loaded when used.

    folder: its files on this machine; of an object store a copy, which goes with the bundle.
    manifest_sha256: of its bundle.json, which holds the hashes of all others.
    """

    path: Location
    manifest: BundleManifest
    folder: Path
    manifest_sha256: str
    _copy: ExitStack = field(repr=False, compare=False)

    @cached_property
    def model(self) -> nn.Module:
        """The network."""
        return _load_network(self)


def write_bundle(
    target: Location, manifest: ModelManifest, model: nn.Module, lineage: CellLineage | None = None
) -> None:
    """Write a bundle; an existing one is replaced in one step.

    Of weights that a file or bundle began with it keeps name and hash, not the path.

    Args:
        target: folder of the bundle.
        manifest: of the bundle.
        model: its network.
        lineage: which cells made it, where that is known.
    """
    began = manifest.model.model_copy(update={"weights": origin(manifest.model.weights)})
    manifest = manifest.model_copy(update={"model": began})
    with directory_by_rename(target) as partial:
        save_model(model, str(partial / WEIGHTS))
        _complete(partial, manifest, [WEIGHTS], lineage)


def write_ensemble(target: Location, paths: Sequence[Location], rule: Rule) -> EnsembleManifest:
    """Write bundles as one: copies under members/NAME/, and the rule by which they vote.

    Raises:
        UserError: fewer than two, a member that is an ensemble or broken, or members that
            want different storage pixels.
    """
    members = {member_name(path): load_bundle(path) for path in paths}
    if len(members) < 2 or len(members) < len(paths):
        raise UserError(f"{target}: an ensemble needs two bundles or more, all of different names")
    for member in members.values():
        if not isinstance(member.manifest, ModelManifest):
            raise DataError(f"{member.path}: is an ensemble itself; give its members")
    first = next(iter(members.values())).manifest
    for member in members.values():
        if member.manifest.class_set != first.class_set:
            raise DataError(
                f"{member.path}: answers with other classes than the first member; train members "
                "on datasets with the same classes"
            )
        if member.manifest.storage != first.storage:
            raise DataError(
                f"{member.path}: stores {member.manifest.storage.crop} crops at "
                f"{member.manifest.storage.size} px, the first member {first.storage.crop} at "
                f"{first.storage.size}; train members on datasets prepared alike"
            )
    manifest = EnsembleManifest(
        rule=rule,
        members=tuple(members),
        storage=first.storage,
        classes=first.classes,
        positive=first.positive,
        ordered=first.ordered,
        shows=_shows({member.manifest.shows for member in members.values()}),
        synthetic=any(member.manifest.synthetic for member in members.values()),
        protocol=_common(member.manifest.protocol for member in members.values()),
        dataset_fingerprint=_common(m.manifest.dataset_fingerprint for m in members.values()),
        datasets=_every_dataset(member.manifest for member in members.values()),
        recipe=" + ".join(member.manifest.recipe for member in members.values()),
        seed=first.seed,
    )
    with directory_by_rename(target, new="bundle") as partial:
        for name, member in members.items():
            copy_files(member, partial / "members" / name)
        names = [f"members/{name}/{MANIFEST}" for name in members]
        _complete(partial, manifest, names, _common_lineage(members.values()))
    return manifest


def derive_bundle(
    source: Bundle,
    target: Location,
    *,
    changes: Mapping[str, Any] | None = None,
    add: Mapping[str, Callable[[Path], None]] | None = None,
    lineage: CellLineage | None = None,
    key: Path | None = None,
) -> None:
    """Copy a bundle with other fields or more files, or change it in one step where it lies.

    Args:
        source: the bundle, opened.
        target: folder of the copy.
        changes: fields of the manifest to replace, by name.
        add: what writes a file, by the file's name.
        lineage: which cells made the copy; None keeps what the source records.
        key: to sign the copy with.
    """
    manifest = source.manifest.model_copy(update=dict(changes or {}))
    kept = [name for name in file_names(source.manifest) if name != CARD]
    new = None if target == source.path else "bundle"
    with directory_by_rename(target, new) as partial:
        copy_files(source, partial, in_place=new is None)
        for name, write in (add or {}).items():
            write(partial / name)
        _complete(partial, manifest, sorted({*kept, *(add or {})}), lineage)
        if key is not None:
            sign(partial, key)


def copy_files(source: Bundle, target: Path, *, in_place: bool = False) -> None:
    """Copy the files that an opened bundle names, and no other, into a folder.

    Args:
        source: the bundle.
        target: the folder.
        in_place: the folder will take the bundle's place, so that weights need no second copy.

    Raises:
        UserError: one of them is a link or no regular file, or is not what the bundle names.
    """
    manifest = source.manifest
    if isinstance(manifest, EnsembleManifest):
        for name in manifest.members:
            member = source.folder / "members" / name
            if member.is_symlink() or member.parent.is_symlink():
                raise DataError(f"{member}: is a link; a bundle holds its members themselves")
            copy_files(open_bundle(member), target / "members" / name, in_place=in_place)
    for name in file_names(manifest):
        copy = link_or_copy if in_place and name == WEIGHTS else copy_verified
        copy(source.folder / name, target / name, manifest.files[name])
    copy_verified(source.folder / MANIFEST, target / MANIFEST, source.manifest_sha256)
    signature = source.folder / SIGNATURE
    if signature.is_file():
        copy_verified(signature, target / SIGNATURE, sha256(signature))


def load_bundle(path: Location) -> Bundle:
    """Verify a bundle, of one network or an ensemble, and load its network.

    Raises:
        UserError: no bundle there, a file missing or changed, an unknown architecture, or
            weights of another one.
    """
    bundle = open_bundle(path)
    _ = bundle.model
    return bundle


def open_bundle(path: Location, trusted: Path | None = None) -> Bundle:
    """Verify a bundle without building its network; raises UserError as `load_bundle` does.

    Args:
        path: of the bundle.
        trusted: keys of which one must have signed it; see `signature.signer`.
    """
    manifest = read_manifest(path)  # before a folder that is none is fetched
    with ExitStack() as stack:
        folder = stack.enter_context(fetched(path))
        verify_files(folder, manifest.files, file_names(manifest))
        if trusted is not None:
            signer(folder, trusted)
        return Bundle(path, manifest, folder, sha256(folder / MANIFEST), stack.pop_all())


def _load_network(bundle: Bundle) -> nn.Module:
    manifest = bundle.manifest
    if isinstance(manifest, EnsembleManifest):
        loaded = [open_bundle(bundle.folder / "members" / name) for name in manifest.members]
        for member in loaded:
            if not isinstance(member.manifest, ModelManifest):
                raise DataError(f"{member.path}: is an ensemble itself; its members are networks")
        members = [Member(b.model, b.manifest.temperature, b.manifest.threshold) for b in loaded]
        return Ensemble(members, manifest.rule).eval()
    assert isinstance(manifest, ModelManifest)
    weights = bundle.folder / WEIGHTS
    try:
        _refuse_larger_than(weights.stat().st_size, manifest)
        model = build(manifest.model, load_weights=False, num_classes=len(manifest.classes))
        load_model(model, weights)
    except (RuntimeError, TypeError, SafetensorError) as error:
        raise DataError(
            f"{bundle.path}/{WEIGHTS}: holds another network than bundle.json names; "
            "get the bundle anew"
        ) from error
    return model.eval()


def _refuse_larger_than(size: int, manifest: ModelManifest) -> None:
    """Raise a RuntimeError for a network whose parameters cannot lie in `size` bytes.

    It is built without memory for that, so that a few numbers in bundle.json take none.
    """
    with torch.device("meta"):
        model = build(manifest.model, load_weights=False, num_classes=len(manifest.classes))
    needed = sum(each.numel() * each.element_size() for each in model.parameters())
    if needed > size:
        raise RuntimeError(f"{needed} bytes of parameters in a file of {size}")


def find_bundle(path: Location) -> Location:
    """Return the bundle at a path: itself, a run folder's, or one of the hub, fetched."""
    if is_on_hub(path):
        return fetch(str(path))
    for folder in (path, join(path, "bundle")):
        if exists(join(folder, MANIFEST)):
            return folder
    raise DataError(f"{path}: is neither a bundle nor a run with one; give RUN or RUN/bundle")


def lineage_of(bundle: Bundle) -> CellLineage | None:
    """Say which cells made an opened bundle; None where that was not recorded.

    Raises:
        DataError: its file is not what bundle.json records.
    """
    return CellLineage.read(bundle.folder, bundle.manifest.lineage)


def _common_lineage(members: Iterable[Bundle]) -> CellLineage | None:
    """Which cells made any of the members; None where one of them does not say."""
    known = [lineage_of(member) for member in members]
    found = [lineage for lineage in known if lineage is not None]
    return CellLineage.union(found) if len(found) == len(known) else None


def _complete(
    partial: Path, manifest: BundleManifest, names: list[str], lineage: CellLineage | None = None
) -> None:
    """Write lineage and card, and bundle.json last, with the hashes of the named files."""
    if lineage is not None:
        lineage.save(partial / LINEAGE_FILE)
        names = sorted({*names, LINEAGE_FILE})
        manifest = manifest.model_copy(update={"lineage": lineage.recorded})
    (partial / CARD).write_text(model_card(manifest, _network(manifest)))
    files = {name: sha256(partial / name) for name in [*names, CARD]}
    values = manifest.model_copy(update={"files": files}).model_dump(mode="json")
    try:
        type(manifest)(**values)  # within the bounds that a reader holds it to
    except ValidationError as error:
        raise DataError(f"{partial.name}: cannot be a bundle: {first_problem(error)}") from error
    write_json(partial / MANIFEST, values)
    (partial / SIGNATURE).unlink(missing_ok=True)  # of what was copied: this is another bundle


def member_name(path: Location) -> str:
    """`runs/lite/bundle` is called lite."""
    place = path.resolve() if isinstance(path, Path) else path
    return name_of(parent(place) if name_of(place) == "bundle" else place)


def _common(values: Iterable[str]) -> str:
    different = set(values)
    return different.pop() if len(different) == 1 else "several"


def _every_dataset(members: Iterable[BundleManifest]) -> tuple[DatasetIdentity, ...]:
    """Say what the members were trained on, each once; nothing where one of them does not know."""
    known = [manifest.datasets for manifest in members]
    return tuple(dict.fromkeys(chain.from_iterable(known))) if all(known) else ()


def _shows(members: set[Shows]) -> Shows:
    return members.pop() if len(members) == 1 else "both"


def _network(manifest: BundleManifest) -> str:
    if isinstance(manifest, ModelManifest):
        return (
            f"- Network: {manifest.model.title}\n- Input: {manifest.model.input_size} px\n"
            f"- Began with weights: {manifest.model.weights}"
        )
    return f"- Ensemble: {network_title(manifest)}"
