"""What the HTTP interface says of fields of view, typed."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, Field

from leuk_ray.serving.schemas import ClassCountOut, GuaranteeOut, ModelInfo, SubjectOut


class FieldCellOut(BaseModel):
    """A cell of a field.

    x0, y0, x1, y1: its box, pixels of the field. score: 0 to 1, how much more the nucleus is
    stained than what surrounds it. area: of the nucleus, square micrometres. touches_border: part
    of it lies outside the field. clump: cells that could not be separated, which get no answer.
    label: as in `PredictionOut`; null of a clump or where the network failed (`error`). crop: with
    `crops`, the image that was answered for, a PNG as a data URL.
    """

    x0: int
    y0: int
    x1: int
    y1: int
    score: float
    area: float
    touches_border: bool
    clump: bool
    label: str | None
    reasons: list[str]
    probability: Annotated[float | None, Field(ge=0, le=1)] = None
    threshold: Annotated[float | None, Field(ge=0, le=1)] = None
    probabilities: dict[str, Annotated[float, Field(ge=0, le=1)]] | None = None
    prediction_set: list[str] | None = None
    sha256: str | None = None
    pixels_sha256: str | None = None
    error: str | None = None
    crop: str | None = None


class ScaleOut(BaseModel):
    """Pixels per micrometre.

    uncertainty: relative half-width of its 95% interval, 0 where it was given. source: `given`, or
    `red_cells` where it was estimated from them. estimated: what red cells say where it was given;
    null where too few agree.
    """

    pixels_per_um: float
    uncertainty: float
    source: Literal["given", "red_cells"]
    red_cells: int
    estimated: float | None


class CellsOut(BaseModel):
    """Cells of fields counted: answered and not, why not, and the share of each class.

    The fields may be of several patients, and hold copies: intervals are those of a subject.
    clumps: beside the cells; how many cells one holds is not known.
    """

    cells: int
    clumps: int
    answered: int
    not_answered: int
    not_answered_reasons: dict[str, int]
    differential: list[ClassCountOut]


class FieldOut(BaseModel):
    """A field of view.

    status: `ok`; `empty`, without a cell; `refused`, and `reasons` say why it has no result.
    warnings: what is doubtful in a field that is not refused: `scale_doubtful`.
    """

    name: str
    status: Literal["ok", "empty", "refused"]
    reasons: list[str]
    warnings: list[str]
    detail: str | None
    width: int
    height: int
    scale: ScaleOut | None
    cells: list[FieldCellOut]
    summary: CellsOut


class FieldsOut(BaseModel):
    """The answer to a request with fields of view; `summary` counts the cells of all of them."""

    model: ModelInfo
    fields: list[FieldOut]
    summary: CellsOut
    guarantee: GuaranteeOut | None = None
    subject: SubjectOut | None = None
