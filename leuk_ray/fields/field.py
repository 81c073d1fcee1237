"""A field of view: its scale, its cells, and why it has no result if so."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Self

import numpy as np
from pydantic import Field as Setting
from pydantic import ValidationError

from leuk_ray.datasets import images
from leuk_ray.datasets.images import CENTER_PIXELS, BadImageError
from leuk_ray.fields.detector import Detection, Detector, Scale
from leuk_ray.fields.quality import (
    cell_reasons,
    colour_reasons,
    focus_reasons,
    scale_reasons,
    scale_warnings,
)
from leuk_ray.fields.scale import estimate_scale
from leuk_ray.fields.stain_detector import StainDetector
from leuk_ray.utils.errors import ConfigError
from leuk_ray.utils.settings import Settings, first_problem

CROP_PIXELS = CENTER_PIXELS  # so that every way to crop a file keeps all of it


class FieldSettings(Settings):
    """How fields are read."""

    pixels_per_um: float | None = Setting(default=None, gt=0, le=1000)
    """Pixels per micrometre; None estimates it from red cells, field by field."""

    crop_um: float = Setting(default=20.0, ge=5, le=100)
    """Side of the square cut out around a cell, micrometres."""

    @classmethod
    def given(cls, pixels_per_um: float | None = None, crop_um: float | None = None) -> Self:
        """Of what a user gave, the defaults where it is None.

        Raises:
            ConfigError: a value out of range, or NaN.
        """
        values = {"pixels_per_um": pixels_per_um, "crop_um": crop_um}
        try:
            return cls(**{name: value for name, value in values.items() if value is not None})
        except ValidationError as error:
            raise ConfigError(f"--{first_problem(error).replace('_', '-', 2)}") from error


@dataclass(frozen=True)
class Field:
    """What was found in a field.

    status: `ok`; `empty`, without a cell; or `refused`, and `reasons` say why (`quality.REASONS`).
    scale: None where it is not known. width, height: pixels; 0 where the file cannot be read.
    cells: from top to bottom, of a slide tile by tile; none of a refused field. detail: of a file
    that cannot be read, and of the tiles of a slide. warnings: what is doubtful in a field that is
    not refused (`quality.WARNINGS`).
    """

    name: str
    status: Literal["ok", "empty", "refused"]
    reasons: tuple[str, ...] = ()
    scale: Scale | None = None
    width: int = 0
    height: int = 0
    cells: tuple[Detection, ...] = ()
    detail: str | None = None
    warnings: tuple[str, ...] = ()


def examine(
    name: str, pixels: np.ndarray, settings: FieldSettings, detector: Detector | None = None
) -> Field:
    """Find the cells of a field, or say why it has no result.

    Args:
        name: of the field.
        pixels: (H, W, 3) uint8 sRGB.
        settings: of fields.
        detector: that finds cells; `StainDetector` by default.
    """
    height, width = pixels.shape[:2]
    reasons = colour_reasons(pixels)
    scale, warnings = None, ()
    found: Sequence[Detection] = ()
    if not reasons:
        estimated = estimate_scale(pixels)
        given = settings.pixels_per_um
        beside = estimated and estimated.pixels_per_um
        scale = estimated if given is None else Scale(given, estimated=beside)
        reasons = scale_reasons(pixels, given, estimated)
        warnings = tuple(scale_warnings(given, estimated))
    if scale is not None and not reasons:
        reasons = focus_reasons(pixels, scale)
    if scale is not None and not reasons:
        found = (detector or StainDetector()).detect(pixels, scale)
        reasons = cell_reasons(found, pixels.shape)
    if reasons:
        return Field(name, "refused", tuple(reasons), scale, width, height)
    status = "ok" if found else "empty"
    return Field(name, status, (), scale, width, height, tuple(found), warnings=warnings)


def read_field(
    name: str, data: bytes, settings: FieldSettings, detector: Detector | None = None
) -> tuple[Field, np.ndarray | None]:
    """Examine an image file.

    Returns:
        The field, and its pixels, (H, W, 3) uint8; None where the file cannot be read.
    """
    try:
        pixels = images.decode(data)
    except BadImageError as error:
        return Field(name, "refused", ("unreadable",), detail=str(error)), None
    return examine(name, pixels, settings, detector), pixels
