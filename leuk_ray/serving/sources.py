"""Where models come from: one bundle, or a registry of them. References become folders here."""

from __future__ import annotations

import hashlib
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from leuk_ray.bundles.bundle import find_bundle, member_name, open_bundle
from leuk_ray.bundles.registry import Registry
from leuk_ray.bundles.registry_model import CHAMPION, Model
from leuk_ray.inference.check import check_answers
from leuk_ray.io.locations import Location, join
from leuk_ray.io.storage import read_bytes
from leuk_ray.utils.errors import DataError, StorageError, UnknownModelError

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Found:
    """A bundle that a reference means now."""

    name: str
    version: str
    path: Location


class Source(Protocol):
    """Names, and what they mean."""

    def names(self) -> list[str]:
        """Names that can be asked for; raises UserError where nothing can be read."""
        ...

    def broken(self) -> list[str]:
        """Names that could be asked for, if they could be read."""
        ...

    def default(self) -> str | None:
        """Say what answers where no model is named; None where one must be."""
        ...

    def versions(self, name: str) -> tuple[list[str], dict[str, str]]:
        """Versions of a name, and its aliases with the version of each."""
        ...

    def resolve(self, reference: str) -> Found:
        """Return the bundle of NAME, NAME@VERSION or NAME@ALIAS.

        Raises:
            UnknownModelError: there is none.
            UserError: it cannot be read.
        """
        ...


class _OneBundle:
    """A bundle under the name of its folder; its version begins its fingerprint."""

    def __init__(self, path: Location) -> None:
        self.path = path
        self.name = member_name(path)
        self.version = fingerprint(path)[:12]

    def names(self) -> list[str]:
        return [self.name]

    def broken(self) -> list[str]:
        return []

    def default(self) -> str:
        return self.name

    def versions(self, name: str) -> tuple[list[str], dict[str, str]]:
        return [self.resolve(name).version], {}

    def resolve(self, reference: str) -> Found:
        if reference not in (self.name, f"{self.name}@{self.version}"):
            known = f"{self.name}@{self.version}"
            raise UnknownModelError(f"{reference}: there is no such model, only {known}")
        return Found(self.name, self.version, self.path)


class _FromRegistry:
    """The models of a registry; NAME alone means its champion."""

    def __init__(self, path: Path) -> None:
        self.registry = Registry(path, check_answers)

    def names(self) -> list[str]:
        return [model.name for model in self._models()[0] if CHAMPION in model.aliases]

    def broken(self) -> list[str]:
        return self._models()[1]

    def default(self) -> str | None:
        """Return the only name; another one's breaking makes it no default."""
        models, broken = self._models()
        names = [model.name for model in models if CHAMPION in model.aliases]
        return names[0] if len(names) == 1 and not broken else None

    def versions(self, name: str) -> tuple[list[str], dict[str, str]]:
        model = self.registry.show(name)
        aliases = {alias: str(version) for alias, version in model.aliases.items()}
        there = [str(each.number) for each in model.versions if each.removed is None]
        return there, aliases

    def resolve(self, reference: str) -> Found:
        path = self.registry.resolve(reference)
        return Found(reference.partition("@")[0], path.name, path)

    def _models(self) -> tuple[list[Model], list[str]]:
        """Say what can be read, and names of what cannot."""
        models: list[Model] = []
        broken: list[str] = []
        for name in self.registry.names():
            try:
                models.append(self.registry.show(name))
            except (DataError, StorageError) as error:
                logger.error("%s", error)
                broken.append(name)
        return models, broken


def fingerprint(bundle: Location) -> str:
    """SHA-256 of a bundle's bundle.json, which holds those of its other files."""
    return hashlib.sha256(read_bytes(join(bundle, "bundle.json"))).hexdigest()


def open_source(path: Location, trusted: Path | None = None) -> Source:
    """Say what lies at a path; every bundle that answers for a bare name is verified.

    Raises:
        UserError: neither a bundle, nor a run with one, nor a registry with a champion; or a
            bundle that is not what was written, or that none of the `trusted` keys has signed.
    """
    source = _find(path)
    for name in source.names():
        open_bundle(source.resolve(name).path, trusted)
    return source


def _find(path: Location) -> Source:
    if isinstance(path, Path) and any(path.glob("*/registry.json")):
        source = _FromRegistry(path)
        if not source.names():
            raise DataError(f"{path}: no model has a champion; promote one: models promote")
        return source
    try:
        bundle = find_bundle(path)
    except DataError as error:
        raise DataError(f"{path}: is neither a bundle, a run with one, nor a registry") from error
    return _OneBundle(bundle)
