"""`leuk-ray imaging-server`: a running service for napari and QuPath.

Their plugins speak the protocol of the Imaging Server Kit
(https://imaging-server-kit.github.io/imaging-server-kit), which knows no keys and sends pixels in
JSON. So this server runs beside the viewer, answers its own machine alone, and asks the service
with the key.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Sequence
from functools import wraps
from typing import Any

import imaging_server_kit as sk  # pyright: ignore[reportMissingImports]
import numpy as np
import uvicorn
from imaging_server_kit.remote.app import (  # pyright: ignore[reportMissingImports]
    AlgorithmApp,
)
from PIL import Image
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from leuk_ray.serving.client import Client
from leuk_ray.serving.errors import Problem
from leuk_ray.serving.field_schemas import FieldCellOut, FieldOut
from leuk_ray.serving.loopback import check_local, check_port
from leuk_ray.serving.schemas import FailureOut
from leuk_ray.utils.errors import DataError, UserError

_HOST = "127.0.0.1"
_NOTE = "For research, not a diagnosis."


def imaging_app(url: str, key: str | None, port: int) -> ASGIApp:
    """Return the application: algorithms `field` and `cell`, which ask the service at `url`.

    Raises:
        UserError: the service does not answer, refuses the key or has no model, or this machine
            cannot listen on `port`.
    """
    check_port(_HOST, port)
    with Client(url, key, retries=1) as client:
        listed = client.models()
        models = [model.name for model in listed.models]
    if not models:
        raise DataError(f"{url}: has no model that can be asked; add one to its registry")
    pixels = sk.Image(name="image", description="RGB, 8 bits", rgb=True, dimensionality=[3])
    model = sk.Choice(name="Model", items=models, default=listed.default or models[0])
    scale = sk.Float(
        name="Pixels per micrometre", default=0.0, min=0.0, max=1000.0, step=0.1,
        description="0: estimated from the field's red cells",
    )  # fmt: skip

    @_said
    def field(image: np.ndarray, pixels_per_um: float, model: str) -> list[Any]:
        with Client(url, key) as client:
            found = client.fields(
                _png(image), pixels_per_um=pixels_per_um or None, model=_known(model, models)
            )
        return [*_layers(found.fields[0]), sk.Notification(_field_text(found.fields[0]))]

    @_said
    def cell(image: np.ndarray, model: str) -> list[Any]:
        with Client(url, key) as client:
            (answer,) = client.predict(_png(image), model=_known(model, models)).predictions
        if isinstance(answer, FailureOut):
            return [sk.Notification(answer.error, level="warning")]
        shares = ", ".join(f"{name} {p:.3f}" for name, p in answer.probabilities.items())
        why = f" ({', '.join(answer.reasons)})" if answer.reasons else ""
        return [sk.Notification(f"{answer.label}{why}: {shares}. {_NOTE}")]

    algorithms = [
        sk.Algorithm(
            field, {"image": pixels, "pixels_per_um": scale, "model": model}, "field",
            "Find the nucleated cells of a field of view and classify each.", ["leuk_ray"],
        ),
        sk.Algorithm(
            cell, {"image": pixels, "model": model}, "cell",
            "Classify an image of a single cell.", ["leuk_ray"],
        ),
    ]  # fmt: skip
    return _ThisMachine(AlgorithmApp(algorithms, "leuk_ray").app)


def serve(app: ASGIApp, port: int) -> None:
    """Answer this machine until stopped."""
    uvicorn.run(app, host=_HOST, port=port, log_level="warning")


class _ThisMachine:
    """Refuses requests that pages of other sites have a browser on this machine send."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            try:
                check_local(Headers(scope=scope))
            except Problem as problem:
                await problem.response()(scope, receive, send)
                return
        await self._app(scope, receive, send)


def _said(algorithm: Callable[..., list[Any]]) -> Callable[..., list[Any]]:
    """Have the viewer show why there is no answer."""

    @wraps(algorithm)
    def run(*args: Any, **kwargs: Any) -> list[Any]:
        try:
            return algorithm(*args, **kwargs)
        except UserError as error:
            return [sk.Notification(str(error), level="error")]

    return run


def _known(model: str, models: Sequence[str]) -> str:
    if model not in models:
        raise DataError(f"{model[:64]}: no model of the service; it has {', '.join(models)}")
    return model


def _png(pixels: np.ndarray) -> tuple[str, bytes]:
    if pixels.dtype != np.uint8:
        raise DataError(f"an image of {pixels.dtype}: give one of 8 bits a channel")
    out = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(out, "PNG", compress_level=1)
    return "image", out.getvalue()


def _layers(field: FieldOut) -> Iterable[sk.Boxes]:
    """Boxes of the cells, a layer for each answer: QuPath takes one class for a layer."""
    groups: dict[str, list[FieldCellOut]] = {}
    for cell in field.cells:
        groups.setdefault("clump" if cell.clump else cell.label or "not answered", []).append(cell)
    for name, cells in groups.items():
        corners = [
            [(c.y0, c.x0), (c.y0, c.x1), (c.y1, c.x1), (c.y1, c.x0)] for c in cells
        ]  # as arrays are indexed
        features = {
            "class": name,
            "reasons": [", ".join(cell.reasons) for cell in cells],
            **{
                f"probability {one}": [
                    (cell.probabilities or {}).get(one, np.nan) for cell in cells
                ]
                for one in {c: None for cell in cells for c in cell.probabilities or {}}
            },
        }
        yield sk.Boxes(np.array(corners, float), name=name, features=features)


def _field_text(field: FieldOut) -> str:
    if field.status != "ok":
        return f"{field.status}: {', '.join(field.reasons)} {field.detail or ''}. {_NOTE}"
    summary = field.summary
    shares = ", ".join(f"{one.name} {one.cells}" for one in summary.differential)
    doubts = f" Doubtful: {', '.join(field.warnings)}." if field.warnings else ""
    return (
        f"{summary.cells} cells, {summary.answered} answered: {shares}; clumps: {summary.clumps}."
        f"{doubts} {_NOTE}"
    )
