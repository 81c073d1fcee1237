"""Versions beside the champion: canaries answer a share of its requests, shadows are compared."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping

from leuk_ray.bundles.bundle import open_bundle
from leuk_ray.serving.sources import Source
from leuk_ray.utils.errors import ConfigError


class Canaries:
    """Which version answers a request that names a model and no version.

    The choice is a function of the request's id alone, so that a repeated request meets the
    same version, on any replica.
    """

    def __init__(self, shares: Mapping[str, float]) -> None:
        """Of NAME@VERSION or NAME@ALIAS, the share of the requests for NAME in 0..1."""
        self._shares: dict[str, list[tuple[str, float]]] = {}
        for reference, share in shares.items():
            name = reference.partition("@")[0]
            self._shares.setdefault(name, []).append((reference, share))

    def of(self, name: str) -> dict[str, float]:
        """Shares of a model's canaries, by what follows the @."""
        return {ref.partition("@")[2]: share for ref, share in self._shares.get(name, [])}

    def chosen(self, reference: str, request_id: str) -> str | None:
        """Return the canary that answers; None for what the reference itself means."""
        if reference not in self._shares:  # it names a version, or has no canary
            return None
        digest = hashlib.sha256(f"{reference}\n{request_id}".encode()).digest()
        place = int.from_bytes(digest[:8]) / 2**64
        for canary, share in self._shares[reference]:
            if place < share:
                return canary
            place -= share
        return None


def check_beside(source: Source, canaries: Mapping[str, float], shadows: Iterable[str]) -> None:
    """Verify what is to answer or be compared beside the champions.

    Raises:
        UserError: no version is named, its model has no champion, or its bundle is none.
    """
    for what, references in (("canaries", canaries), ("shadows", shadows)):
        for reference in references:
            name, _, version = reference.partition("@")
            if not version:
                raise ConfigError(f"{what} {reference}: name a version, as NAME@VERSION or @ALIAS")
            if name not in source.names():
                known = ", ".join(source.names())
                raise ConfigError(f"{what} {reference}: only what answers has one: {known}")
            open_bundle(source.resolve(reference).path)


def parse_canary(text: str) -> tuple[str, float]:
    """NAME@VERSION=SHARE of the command line.

    Raises:
        UserError: it is none.
    """
    reference, _, share = text.rpartition("=")
    try:
        return reference, float(share)
    except ValueError as error:
        raise ConfigError(f"--canary {text}: write NAME@VERSION=SHARE, as cells@2=0.1") from error
