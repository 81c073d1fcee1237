"""The HTTP interface, version 1: what a request becomes, and what its sender is told."""

from __future__ import annotations

import asyncio
import logging
from importlib import resources
from typing import Annotated, Any

from fastapi import FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, Response
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException

from leuk_ray import __version__
from leuk_ray.bundle import read_facts
from leuk_ray.errors import UserError
from leuk_ray.evaluation.intervals import clopper_pearson
from leuk_ray.images import BadImageError
from leuk_ray.inference.classifier import Cell, Prediction
from leuk_ray.inference.decide import ABSTAIN
from leuk_ray.serving import openinference
from leuk_ray.serving.guard import ApiKeys, Guard
from leuk_ray.serving.models import Models, Named, Runner
from leuk_ray.serving.monitoring import Metrics
from leuk_ray.serving.problems import Problem
from leuk_ray.serving.schemas import (
    PROBLEMS,
    DriftOut,
    ModelInfo,
    ModelOut,
    ModelsOut,
    PredictOut,
    SubjectOut,
)
from leuk_ray.serving.settings import Limits
from leuk_ray.serving.sources import fingerprint

logger = logging.getLogger(__name__)

_NAME_LENGTH = 200
_DESCRIPTION = """Tells leukemic blasts (ALL) from healthy cells, one stained cell an image.
**For research. Not a medical device, not a diagnosis.**"""
_PAGE_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'self'; img-src 'self' blob: data:; style-src 'unsafe-inline'; "
        "script-src 'unsafe-inline'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
    ),
    "Referrer-Policy": "no-referrer",
}
_BODY = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["file"],
                    "properties": {
                        "file": {
                            "type": "array",
                            "items": {"type": "string", "format": "binary"},
                            "description": "one or many images, one cell each",
                        },
                        "subject": {
                            "type": "string",
                            "description": "who all the cells are of; adds counts over them",
                        },
                    },
                }
            },
            "image/*": {"schema": {"type": "string", "format": "binary"}},
        },
    }
}


def create_api(models: Models, limits: Limits, keys: ApiKeys | None, metrics: Metrics) -> FastAPI:
    """The application, behind its guard.

    Args:
        models: that answer.
        limits: of a request.
        keys: None answers everybody.
        metrics: where to count.
    """
    api = FastAPI(title="leuk_ray", version=__version__, description=_DESCRIPTION, redoc_url=None)
    page = (resources.files("leuk_ray.serving") / "page" / "index.html").read_text()

    @api.get("/", include_in_schema=False)
    async def show_page() -> HTMLResponse:
        return HTMLResponse(page, headers=_PAGE_HEADERS)

    @api.get("/healthz", tags=["health"])
    async def healthz() -> dict[str, str]:
        """The process answers."""
        return {"status": "ok"}

    @api.get("/readyz", tags=["health"])
    async def readyz() -> dict[str, str]:
        """The models are loaded and run."""
        await models.check()
        return {"status": "ready"}

    @api.get("/v1/models", tags=["models"], response_model=ModelsOut)
    async def list_models() -> ModelsOut:
        """Models that can be asked for, and what each expects."""
        names = await asyncio.to_thread(models.source.names)
        described = [await asyncio.to_thread(_describe, models, name) for name in names]
        listed = [model for model in described if model is not None]
        return ModelsOut(default=models.source.default(), models=listed)

    @api.post(
        "/v1/predict",
        tags=["answers"],
        response_model=PredictOut,
        response_model_exclude_none=True,
        responses=PROBLEMS,
        openapi_extra=_BODY,
    )
    async def predict(
        request: Request,
        model: Annotated[
            str | None, Query(description="NAME, NAME@VERSION or NAME@ALIAS", max_length=200)
        ] = None,
        explain: Annotated[bool, Query(description="add a Grad-CAM picture of each cell")] = False,
    ) -> Response:
        """Answer for images of single cells; a bad image among good ones is an item."""
        runner = await models.get(model)
        files, subject = await _read_body(request, limits)
        read = await runner.read(files)
        cells = [item for item in read if isinstance(item, Cell)]
        if not cells:
            raise _no_image(files, read)
        answers = await runner.answer(cells)
        pictures = await _explain(runner, cells) if explain else [None] * len(cells)
        done = iter(zip(answers, pictures, strict=True))
        items: list[dict[str, Any]] = []
        for (name, _), item in zip(files, read, strict=True):
            if isinstance(item, BadImageError):
                items.append({"name": name, "error": str(item)})
                continue
            answer, picture = next(done)
            items.append(answer.as_dict() | ({"explanation": picture} if picture else {}))
        body: dict[str, Any] = {"model": runner.info.model_dump(), "predictions": items}
        if subject is not None:
            body["subject"] = summarise(subject, answers).model_dump()
        return JSONResponse(body)

    @api.exception_handler(Problem)
    async def tell(_request: Request, problem: Problem) -> Response:
        metrics.rejected(problem.reason)
        return problem.response()

    @api.exception_handler(HTTPException)
    async def tell_http(_request: Request, error: HTTPException) -> Response:
        reason = {404: "no_such_path", 405: "method"}.get(error.status_code, "request")
        metrics.rejected(reason)
        return Problem(
            error.status_code, reason, str(error.detail), headers=error.headers
        ).response()

    @api.exception_handler(RequestValidationError)
    async def tell_validation(_request: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        metrics.rejected("request")
        return Problem(422, "request", f"{where}: {first['msg']}").response()

    api.state.models = models
    api.include_router(openinference.router(models, limits))
    api.add_middleware(
        Guard,  # pyright: ignore[reportArgumentType]
        limits=limits,
        keys=keys,
        rejected=metrics.rejected,
        finished=metrics.request,
    )
    return api


def summarise(subject: str, answers: list[Prediction]) -> SubjectOut:
    """Counts over the cells of one subject; nothing more follows from single cells."""
    answered = [answer for answer in answers if answer.label != ABSTAIN]
    called_all = sum(answer.label == "ALL" for answer in answered)
    interval = clopper_pearson(called_all, len(answered))
    low, high = interval or (None, None)
    return SubjectOut(
        subject=subject,
        cells=len(answers),
        answered=len(answered),
        called_all=called_all,
        share=called_all / len(answered) if answered else None,
        low=low,
        high=high,
    )


async def _read_body(
    request: Request, limits: Limits
) -> tuple[list[tuple[str, bytes]], str | None]:
    """Named files and the subject, from a form or from a body that is an image itself."""
    content_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if content_type != "multipart/form-data":
        return [("image", await request.body())], None
    async with request.form(max_files=limits.files, max_fields=8) as form:
        uploads = [item for item in form.getlist("file") if isinstance(item, UploadFile)]
        files = [((item.filename or "image")[:_NAME_LENGTH], await item.read()) for item in uploads]
        subject = form.get("subject")
    if not files:
        raise Problem(422, "no_file", "the form has no part named `file`")
    if isinstance(subject, UploadFile):
        raise Problem(422, "subject", "`subject` is text, no file")
    if subject is not None and len(subject) > limits.subject_length:
        raise Problem(422, "subject", f"`subject` may have {limits.subject_length} characters")
    return files, subject or None


def _no_image(files: list[Named], read: list[Cell | BadImageError]) -> Problem:
    bad = [item for item in read if isinstance(item, BadImageError)]
    errors = [
        {"name": name, "error": str(item)} for (name, _), item in zip(files, bad, strict=True)
    ]
    reasons = {item.reason for item in bad}
    status = 415 if reasons == {"not_an_image"} else 422
    detail = str(bad[0]) if len(bad) == 1 else f"none of {len(bad)} files is an image to judge"
    # Each image was counted by its own reason where it was read.
    return Problem(status, "no_good_image", detail, errors=errors)


async def _explain(runner: Runner, cells: list[Cell]) -> list[str]:
    try:
        return await runner.explain(cells)
    except UserError as error:
        raise Problem(422, "no_explanation", str(error)) from error


def _describe(models: Models, name: str) -> ModelOut | None:
    """A model, loaded or not; None, and a line in the log, for a broken one."""
    try:
        found = models.source.resolve(name)
        facts = read_facts(found.path)
        versions, aliases = models.source.versions(name)
        digest = fingerprint(found.path)
    except UserError as error:
        logger.error("%s is not listed: %s", name, error)
        return None
    runner = models.loaded(found)
    shift = runner and runner.shift
    return ModelOut(
        name=name,
        versions=versions,
        aliases=aliases,
        classes=facts.classes,
        threshold=facts.threshold,
        abstain_band=facts.abstain_band,
        crop=facts.storage.crop,
        size=facts.storage.size,
        synthetic=facts.synthetic,
        scope=facts.scope is not None,
        drift=shift and DriftOut(name=shift.name, effect=shift.effect, alarm=shift.alarm),
        info=ModelInfo(
            name=name,
            version=found.version,
            fingerprint=digest,
            engine=runner and runner.classifier.engine.name,
        ),
    )
