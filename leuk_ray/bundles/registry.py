"""The registry: bundles under a name, in versions, on disk.

    DIR/NAME/versions/N/     a bundle, copied whole or not at all
    DIR/NAME/registry.json   the versions with what they came from, and the history

Everything the registry says follows from NAME/registry.json, which is only ever added to and
replaced by rename: a reader sees the old state or the new one and needs no lock. Writers take
turns by a lock that ends with their process. A folder that no history names is no version.
"""

from __future__ import annotations

import fcntl
import re
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from pathlib import Path

from pydantic import ValidationError

from leuk_ray.bundles.bundle import Bundle, copy_files, load_bundle, open_bundle
from leuk_ray.bundles.registry_model import CHAMPION, Event, Lineage, Model, Version
from leuk_ray.bundles.signature import SIGNATURE, sign
from leuk_ray.io.hashes import sha256
from leuk_ray.io.locations import Location
from leuk_ray.io.storage import directory_by_rename, read_json, remove, write_json
from leuk_ray.utils.errors import ConfigError, DataError, StorageError, UnknownModelError, UserError
from leuk_ray.utils.provenance import now
from leuk_ray.utils.wording import overlap_label

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_NUMBER = re.compile(r"[1-9][0-9]{0,8}")
_ALIAS = re.compile(r"[a-z][a-z0-9_-]{0,31}")


class Registry:
    """A folder of named, versioned bundles.

    check: raises UserError for a bundle that gives no answers; asked before a version or an alias
        changes (`inference.check.check_answers`).
    """

    def __init__(self, path: Path, check: Callable[[Bundle], None]) -> None:
        self.path = path
        self.check = check

    def add(
        self,
        bundle: Location,
        name: str,
        *,
        lineage: Lineage | None = None,
        trusted: Path | None = None,
        key: Path | None = None,
    ) -> int:
        """Copy a bundle as the next version of a name; no alias changes.

        Only the files that it names are copied, and its signature.

        Args:
            bundle: to copy.
            name: of the model.
            lineage: where it came from.
            trusted: keys of which one must have signed it.
            key: to sign the copy with.

        Raises:
            UserError: no good name, or a bundle that fails verification or gives no answers.
        """
        _check(_NAME, name, "name")
        added = open_bundle(bundle, trusted)
        self.check(added)
        with self._writing(name):
            model = self._read(name) or Model(name=name)
            number = len(model.versions) + 1
            with directory_by_rename(self._folder(name, number)) as partial:
                copy_files(added, partial)
                if key is not None:
                    (partial / SIGNATURE).unlink(missing_ok=True)
                    sign(partial, key)
            manifest = added.manifest
            version = Version(
                number=number,
                added=now(),
                bundle_sha256=added.manifest_sha256,
                dataset_fingerprint=manifest.dataset_fingerprint,
                protocol=manifest.protocol,
                recipe=manifest.recipe,
                seed=manifest.seed,
                synthetic=manifest.synthetic,
                overlap=overlap_label(manifest.test.get("leaky", False)),
                lineage=lineage or Lineage(),
            )
            model = model.model_copy(update={"versions": (*model.versions, version)})
            self._write(model, Event(time=version.added, action="add", version=number))
        return number

    def promote(self, name: str, version: int, alias: str = CHAMPION) -> None:
        """Make an alias mean a version, in one step.

        Raises:
            UserError: no such version, or its bundle fails verification or gives no answers.
        """
        _check(_ALIAS, alias, "alias")
        self.show(name)
        with self._writing(name):
            model = self.show(name)
            self.check(open_bundle(self._verified(model, version)))
            if model.aliases.get(alias) != version:
                event = Event(time=now(), action="promote", version=version, alias=alias)
                self._write(model, event)

    def rollback(self, name: str, alias: str = CHAMPION) -> int:
        """Make an alias mean again what it meant before its last promotion; returns that version.

        Raises:
            UserError: it has meant nothing before, or that bundle fails verification.
        """
        self.show(name)
        with self._writing(name):
            model = self.show(name)
            meant = model.promoted().get(alias, [])
            if len(meant) < 2:
                raise UserError(f"{name}@{alias}: there is no earlier version to go back to")
            load_bundle(self._verified(model, meant[-2]))
            event = Event(time=now(), action="rollback", version=meant[-2], alias=alias)
            self._write(model, event)
        return meant[-2]

    def collect(self, name: str, keep: int, *, dry_run: bool = False) -> tuple[int, ...]:
        """Delete bundles of old versions; what the registry says of them stays.

        Kept are what aliases mean, what a rollback of each would make it mean, and the latest
        versions. Numbers are never given again. What an earlier call left undone is finished.

        Args:
            name: of the model.
            keep: how many of the latest versions to keep.
            dry_run: delete nothing.

        Returns:
            The versions that are deleted.

        Raises:
            UserError: no such model, or a folder that cannot be deleted.
        """
        self.show(name)
        with self._writing(name):
            model = self.show(name)
            chosen = model.collectable(keep)
            if dry_run:
                return tuple(chosen)
            if chosen:
                time = now()
                versions = tuple(
                    version.model_copy(update={"removed": time})
                    if version.number in chosen
                    else version
                    for version in model.versions
                )
                model = model.model_copy(update={"versions": versions})
                self._write(model)
            for version in model.versions:
                if version.removed is not None:
                    remove(self._folder(name, version.number))
        return tuple(chosen)

    def resolve(self, reference: str) -> Path:
        """Return the bundle of NAME (its champion), NAME@VERSION or NAME@ALIAS.

        Raises:
            UnknownModelError: no such name, version or alias.
            DataError: its registry.json is damaged, or the bundle is not the one that was added.
            StorageError: the registry cannot be read.
        """
        name, _, wanted = reference.partition("@")
        model = self.show(name)
        if _NUMBER.fullmatch(wanted):
            return self._verified(model, int(wanted))
        alias = wanted or CHAMPION
        if alias not in model.aliases:
            known = ", ".join([*model.aliases, f"1 to {len(model.versions)}"])
            raise UnknownModelError(
                f"{name}@{alias}: there is no such version or alias, only {known}"
            )
        return self._verified(model, model.aliases[alias])

    def show(self, name: str) -> Model:
        """Versions, aliases and history of a name.

        Raises:
            UnknownModelError: no such name.
            DataError: its registry.json is damaged.
            StorageError: the registry cannot be read.
        """
        model = self._read(name) if _NAME.fullmatch(name) else None
        if model is None:
            known = ", ".join(self.names()) or "nothing"
            raise UnknownModelError(f"{self.path}: has no model {name!r}; it holds {known}")
        return model

    def names(self) -> tuple[str, ...]:
        """Names of all models, broken ones too.

        Raises:
            StorageError: there is no such folder.
        """
        if not self.path.is_dir():
            raise StorageError(f"{self.path}: there is no registry; begin one with models add")
        return tuple(sorted(self._names()))

    def list(self) -> tuple[Model, ...]:
        """Return all models, by name.

        Raises:
            UserError: there is no such folder.
        """
        return tuple(self.show(name) for name in self.names())

    def _names(self) -> Iterator[str]:
        """Folders that can be a model; one that somebody copied beside them may be none."""
        names = (file.parent.name for file in self.path.glob("*/registry.json"))
        return (name for name in names if _NAME.fullmatch(name))

    def _folder(self, name: str, number: int) -> Path:
        return self.path / name / "versions" / str(number)

    def _verified(self, model: Model, number: int) -> Path:
        """Return the folder of a version, if its bundle.json is the one that was added."""
        if not 1 <= number <= len(model.versions):
            raise UnknownModelError(
                f"{model.name}@{number}: there is no such version, only 1 to {len(model.versions)}"
            )
        if model.versions[number - 1].removed is not None:
            raise UnknownModelError(
                f"{model.name}@{number}: was deleted by models gc; ask for another version"
            )
        folder = self._folder(model.name, number)
        manifest = folder / "bundle.json"
        expected = model.versions[number - 1].bundle_sha256
        if not manifest.is_file() or sha256(manifest) != expected:
            raise DataError(
                f"{manifest}: missing or changed since it was added; add the bundle anew"
            )
        return folder

    def _read(self, name: str) -> Model | None:
        file = self.path / name / "registry.json"
        try:
            return Model(**read_json(str(file)) | {"name": name})  # the folder's, whatever it says
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (ValidationError, TypeError, DataError) as error:
            first = str(error).splitlines()[0]
            raise DataError(f"{file}: not understood ({first}); restore it") from error

    def _write(self, model: Model, *events: Event) -> None:
        complete = model.model_copy(update={"history": (*model.history, *events)})
        write_json(self.path / model.name / "registry.json", complete.model_dump(mode="json"))

    @contextmanager
    def _writing(self, name: str) -> Generator[None]:
        """Wait until no other process writes to a name; the lock dies with its process."""
        folder = self.path / name
        try:
            folder.mkdir(parents=True, exist_ok=True)
            lock = (folder / ".lock").open("a")
        except OSError as error:
            raise StorageError(
                f"{folder}: cannot be written ({error.strerror}); name a folder you may write to"
            ) from error
        with lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


def _check(pattern: re.Pattern[str], text: str, what: str) -> None:
    if not pattern.fullmatch(text):
        raise ConfigError(f"{what} {text!r}: must match {pattern.pattern}")
