"""What `GET /v1/models` tells."""

from __future__ import annotations

import logging

from leuk_ray.bundles.manifest import read_manifest
from leuk_ray.serving.errors import Problem
from leuk_ray.serving.models import Models
from leuk_ray.serving.schemas import DriftOut, ModelInfo, ModelOut, ModelsOut
from leuk_ray.serving.served_model import guarantee_of
from leuk_ray.serving.sources import fingerprint
from leuk_ray.utils.errors import UserError

logger = logging.getLogger(__name__)


def describe_all(models: Models) -> ModelsOut:
    """Return every model that can be asked for, loaded or not.

    Raises:
        Problem: 503 where the registry cannot be read.
    """
    try:
        names, broken = models.source.names(), models.source.broken()
        default = models.source.default()
    except (UserError, OSError) as error:
        logger.error("nothing can be listed: %s", error)
        raise Problem(503, "no_registry", "the models cannot be listed; see the log") from error
    described = {name: _describe(models, name) for name in names}
    return ModelsOut(
        default=default,
        models=[model for model in described.values() if model is not None],
        broken=sorted([*broken, *(name for name, model in described.items() if model is None)]),
    )


def _describe(models: Models, name: str) -> ModelOut | None:
    """Return a model, loaded or not; None, and a line in the log, for a broken one."""
    try:
        found = models.source.resolve(name)
        manifest = read_manifest(found.path)
        versions, aliases = models.source.versions(name)
        digest = fingerprint(found.path)
    except UserError as error:
        logger.error("%s is not listed: %s", name, error)
        return None
    served = models.loaded(found)
    shift = served and served.shift
    return ModelOut(
        name=name,
        versions=versions,
        aliases=aliases,
        classes=manifest.classes,
        positive=manifest.positive,
        threshold=manifest.threshold if len(manifest.classes) == 2 else None,
        abstain_band=manifest.abstain_band,
        min_confidence=manifest.min_confidence,
        crop=manifest.storage.crop,
        size=manifest.storage.size,
        shows=manifest.shows,
        synthetic=manifest.synthetic,
        canaries=models.canaries.of(name),
        shadows=models.shadows.of(name),
        scope=manifest.scope is not None,
        drift=shift and DriftOut(name=shift.name, effect=shift.effect, alarm=shift.alarm),
        guarantee=guarantee_of(manifest, shift),
        info=ModelInfo(
            name=name,
            version=found.version,
            fingerprint=digest,
            engine=served and served.info.engine,
        ),
    )
