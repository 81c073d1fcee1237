"""HTTP API version 1: requests to answers, and errors as problem documents."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Annotated, Any

from fastapi import FastAPI, Query, Request, Security
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, Response
from fastapi.security import APIKeyHeader
from starlette.exceptions import HTTPException

from leuk_ray import __version__
from leuk_ray.datasets.images import BadImageError
from leuk_ray.inference.classifier import Cell
from leuk_ray.inference.predictions import Failure, Prediction
from leuk_ray.serving import fields, openinference
from leuk_ray.serving.decoding import Named
from leuk_ray.serving.docs import DESCRIPTION, PREDICT_BODY, add_docs, page_headers, read_page
from leuk_ray.serving.errors import Problem
from leuk_ray.serving.forms import check_query, no_image, read_body
from leuk_ray.serving.keys import ApiKeys
from leuk_ray.serving.listing import describe_all
from leuk_ray.serving.middleware import RequestLimits
from leuk_ray.serving.models import Models
from leuk_ray.serving.monitoring import Metrics
from leuk_ray.serving.schemas import (
    PROBLEMS,
    ModelsOut,
    PredictOut,
)
from leuk_ray.serving.served_model import ServedModel
from leuk_ray.serving.settings import Limits
from leuk_ray.serving.summary import subject_summary
from leuk_ray.serving.trace import Trace
from leuk_ray.utils.errors import UserError


def create_api(
    models: Models,
    limits: Limits,
    keys: ApiKeys | None,
    metrics: Metrics,
    trace: Trace | None = None,
) -> FastAPI:
    """Make the application, behind the request limits.

    Args:
        models: that answer.
        limits: of a request.
        keys: None answers everybody on this machine.
        metrics: where to count.
        trace: records the answers; none by default.
    """
    trace = trace or Trace(None)
    key = APIKeyHeader(name="X-API-Key", auto_error=False)  # for /docs; the middleware checks it
    api = FastAPI(
        title="leuk_ray",
        version=__version__,
        description=DESCRIPTION,
        docs_url=None,
        redoc_url=None,
        responses=PROBLEMS,
        dependencies=[Security(key)] if keys else [],
    )
    page = read_page("index.html")

    @api.get("/", include_in_schema=False)
    async def show_page() -> HTMLResponse:
        return HTMLResponse(page, headers=page_headers(page))

    @api.get("/healthz", tags=["health"])
    async def healthz() -> dict[str, str]:
        """The process answers."""
        return {"status": "ok"}

    @api.get("/readyz", tags=["health"])
    async def readyz() -> dict[str, str]:
        """The models are loaded and run."""
        await models.check_ready()
        await trace.check()
        return {"status": "ready"}

    @api.get("/v1/models", tags=["models"], response_model=ModelsOut)
    async def list_models(request: Request) -> ModelsOut:
        """Models that can be asked for, and what each expects."""
        check_query(request, ())
        return await asyncio.to_thread(describe_all, models)

    @api.post(
        "/v1/predict",
        tags=["answers"],
        response_model=PredictOut,
        response_model_exclude_none=True,
        openapi_extra=PREDICT_BODY,
    )
    async def predict(
        request: Request,
        model: Annotated[
            str | None, Query(description="NAME, NAME@VERSION or NAME@ALIAS", max_length=200)
        ] = None,
        explain: Annotated[bool, Query(description="add where the network looks")] = False,
    ) -> Response:
        """Answer for images of single cells; a bad image among good ones is an item."""
        check_query(request, ("model", "explain"))
        served = await models.get(model, request.state.request_id)
        files, subject = await read_body(request, limits)
        read = await served.read(files, request.state.holder)
        cells = [item for item in read if isinstance(item, Cell)]
        if not cells:
            raise no_image(files, read)
        answers = await served.answer(cells)
        given = [answer for answer in answers if isinstance(answer, Prediction)]
        if not given:
            raise Problem(500, "no_number", f"internal error: {answers[0].as_dict()['error']}")
        explained = await _explain(served, cells) if explain else [None] * len(cells)
        items, classified = _items(files, read, answers, explained)
        await trace.answered(request, served, files, items, subject=subject)
        models.answered(model, served, classified, given)
        body: dict[str, Any] = {"model": served.info.model_dump(), "predictions": items}
        if (guarantee := served.guarantee) is not None:
            body["guarantee"] = guarantee.model_dump()
        if subject is not None:
            body["subject"] = subject_summary(subject, items, served.processor.manifest)
        return JSONResponse(body)

    @api.exception_handler(Problem)
    async def on_problem(_request: Request, problem: Problem) -> Response:
        metrics.rejected(problem.reason)
        return problem.response()

    @api.exception_handler(HTTPException)
    async def on_http_error(_request: Request, error: HTTPException) -> Response:
        reason = {404: "no_such_path", 405: "method"}.get(error.status_code, "request")
        metrics.rejected(reason)
        return Problem(
            error.status_code, reason, str(error.detail), headers=error.headers
        ).response()

    @api.exception_handler(RequestValidationError)
    async def on_invalid_request(_request: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        metrics.rejected("request")
        return Problem(422, "request", f"{where}: {first['msg']}").response()

    api.state.models = models
    add_docs(api)
    api.include_router(fields.router(models, limits, trace))
    api.include_router(openinference.router(models, limits, trace))
    api.add_middleware(
        RequestLimits,  # pyright: ignore[reportArgumentType]
        limits=limits,
        keys=keys,
        rejected=metrics.rejected,
        finished=metrics.request,
        traffic=models.traffic,
    )
    return api


def _items(
    files: list[Named],
    read: Sequence[Cell | BadImageError],
    answers: Sequence[Prediction | Failure],
    explained: Sequence[dict[str, Any] | None],
) -> tuple[list[dict[str, Any]], list[Named]]:
    """Return an item of the answer for each file, and the files that have a label."""
    done = iter(zip(answers, explained, strict=True))
    items: list[dict[str, Any]] = []
    classified: list[Named] = []
    for file, found in zip(files, read, strict=True):
        if isinstance(found, BadImageError):
            items.append({"name": file[0], "error": str(found)})
            continue
        answer, explanation = next(done)
        shown = explanation is not None and isinstance(answer, Prediction)
        items.append(answer.as_dict() | ({"explanation": explanation} if shown else {}))
        if isinstance(answer, Prediction):
            classified.append(file)
    return items, classified


async def _explain(served: ServedModel, cells: list[Cell]) -> list[dict[str, Any]]:
    try:
        return await served.explain(cells)
    except UserError as error:
        raise Problem(422, "no_explanation", str(error)) from error
