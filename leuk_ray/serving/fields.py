"""HTTP API version 1: fields of view to boxed cells with their answers."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Sequence
from itertools import chain
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from fastapi.responses import HTMLResponse, JSONResponse, Response

from leuk_ray.datasets.images import BadImageError
from leuk_ray.fields.answers import field_answer, summarise_cells
from leuk_ray.fields.field import Field, FieldSettings
from leuk_ray.fields.quality import REASONS, WARNINGS
from leuk_ray.inference.predictions import Failure, Prediction
from leuk_ray.serving.decoding import CroppedField, Named
from leuk_ray.serving.docs import FIELDS_BODY, page_headers, read_page
from leuk_ray.serving.errors import Problem
from leuk_ray.serving.field_schemas import FieldsOut
from leuk_ray.serving.forms import check_query, no_image, read_body
from leuk_ray.serving.models import Models
from leuk_ray.serving.settings import Limits
from leuk_ray.serving.summary import subject_summary
from leuk_ray.serving.trace import Trace

_CELLS = 1000  # of all fields of a request, each of which is a forward pass


def router(models: Models, limits: Limits, trace: Trace) -> APIRouter:
    """Return the route /v1/fields, and the page that uses it."""
    routes = APIRouter(tags=["answers"])
    page = _page()

    @routes.get("/fields", include_in_schema=False)
    async def show_page() -> HTMLResponse:
        return HTMLResponse(page, headers=page_headers(page))

    @routes.post("/v1/fields", response_model=FieldsOut, openapi_extra=FIELDS_BODY)
    async def fields(
        request: Request,
        model: Annotated[
            str | None, Query(description="NAME, NAME@VERSION or NAME@ALIAS", max_length=200)
        ] = None,
        pixels_per_um: Annotated[
            float | None,
            Query(
                description="scale of the fields; estimated from red cells where it is left out",
                gt=0,
                le=1000,
                allow_inf_nan=False,
            ),
        ] = None,
        crop_um: Annotated[
            float,
            Query(
                description="side of the square around a cell", ge=5, le=100, allow_inf_nan=False
            ),
        ] = 20.0,
        crops: Annotated[bool, Query(description="add each cell's crop")] = False,
    ) -> Response:
        """Find the cells of fields of view and answer for each; a bad field is an item."""
        check_query(request, ("model", "pixels_per_um", "crop_um", "crops"))
        settings = FieldSettings(pixels_per_um=pixels_per_um, crop_um=crop_um)
        served = await models.get(model, request.state.request_id)
        files, subject = await read_body(request, limits)
        read = await served.read_fields(settings, files, request.state.holder)
        if all(isinstance(item, BadImageError) for item in read):
            raise no_image(files, read)
        found = [item for item in read if isinstance(item, CroppedField)]
        cells = [[cell for cell in item.cells if cell is not None] for item in found]
        if sum(map(len, cells)) > _CELLS:
            raise Problem(413, "cells", f"a request may have {_CELLS} cells; send fewer fields")
        answered = await asyncio.gather(*map(served.answer_field, cells))
        answers = list(chain.from_iterable(answered))
        given = [answer for answer in answers if isinstance(answer, Prediction)]
        if answers and not given:
            raise Problem(500, "no_number", f"internal error: {answers[0].as_dict()['error']}")
        manifest = served.processor.manifest
        items = _items(files, read, answers, manifest.classes, crops)
        await trace.answered(request, served, files, items, subject=subject, fields=settings)
        models.answered(model, served, _classified(found, answers), given)
        every = [cell for item in items for cell in item["cells"]]
        body: dict[str, Any] = {
            "model": served.info.model_dump(),
            "fields": items,
            "summary": summarise_cells(every, manifest.classes),
        }
        if (guarantee := served.guarantee) is not None:
            body["guarantee"] = guarantee.model_dump()
        if subject is not None:
            single = [
                (str(at), c) for at, f in enumerate(items) for c in f["cells"] if not c["clump"]
            ]
            body["subject"] = subject_summary(
                subject, [cell for _, cell in single], manifest, [at for at, _ in single]
            )
        return JSONResponse(body)

    return routes


def _page() -> str:
    """Return the page, with the sentences for why a field is refused."""
    page = read_page("fields.html")
    line = "const FIELD_REASONS = {};"
    assert line in page
    return page.replace(line, f"const FIELD_REASONS = {json.dumps(REASONS | WARNINGS)};")


def _items(
    files: Sequence[Named],
    read: Sequence[CroppedField | BadImageError],
    answers: Sequence[Prediction | Failure],
    classes: Sequence[str],
    crops: bool,
) -> list[dict[str, Any]]:
    done = iter(answers)
    items = []
    for (name, _), item in zip(files, read, strict=True):
        if isinstance(item, BadImageError):
            lost = Field(name, "refused", ("unreadable",), detail=str(item))
            items.append(field_answer(lost, (), classes))
            continue
        given = [None if cell is None else next(done).as_dict() for cell in item.cells]
        answer = field_answer(item.field, given, classes)
        if crops:
            for cell, crop in zip(answer["cells"], item.crops, strict=True):
                cell["crop"] = crop and _data_url(crop)
        items.append(answer)
    return items


def _classified(
    found: Sequence[CroppedField], answers: Sequence[Prediction | Failure]
) -> list[Named]:
    """Return the crops that have an answer, as files that a shadow can answer for too."""
    files = [
        (cell.name, crop)
        for item in found
        for cell, crop in zip(item.cells, item.crops, strict=True)
        if cell is not None and crop is not None
    ]
    return [
        file for file, answer in zip(files, answers, strict=True) if isinstance(answer, Prediction)
    ]


def _data_url(png: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(png).decode()
