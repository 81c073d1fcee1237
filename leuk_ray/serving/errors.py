"""Errors as application/problem+json (RFC 9457), and as lines of a log."""

from __future__ import annotations

import traceback
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from fastapi.responses import JSONResponse

from leuk_ray.utils.errors import StorageError, UnknownModelError

MEDIA_TYPE = "application/problem+json"


class Problem(Exception):  # noqa: N818 (the RFC's word)
    """What is wrong with a request, for its sender.

    reason: a short code, also counted. detail: one sentence. headers: of the response.
    members: more members of the document, such as `errors`, one for each image.
    """

    def __init__(
        self,
        status: int,
        reason: str,
        detail: str,
        *,
        headers: Mapping[str, str] | None = None,
        **members: Any,
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.reason = reason
        self.detail = detail
        self.headers = dict(headers or {})
        self.members = members

    def response(self) -> JSONResponse:
        """Return the HTTP response.

        `error` repeats the detail, since the Open Inference Protocol reads errors there.
        """
        document = {
            "type": "about:blank",
            "title": HTTPStatus(self.status).phrase,
            "status": self.status,
            "detail": self.detail,
            "reason": self.reason,
            "error": self.detail,
            **self.members,
        }
        return JSONResponse(document, self.status, self.headers, MEDIA_TYPE)


_OF_MODELS = (
    (UnknownModelError, 404, "no_model"),
    (StorageError, 503, "storage"),
    (OSError, 503, "storage"),
)


def model_problem(kind: type[BaseException], detail: str) -> Problem:
    """Make the problem of a model that is not found or cannot be loaded, by the kind of error.

    What the service itself holds is never the sender's mistake; 404 is for names alone.
    """
    for of, status, reason in _OF_MODELS:
        if issubclass(kind, of):
            return Problem(status, reason, detail)
    return Problem(503, "broken_model", detail)


def without_texts(error: BaseException) -> str:
    """Format an exception and its causes: kinds and places, no messages, which may quote names."""
    parts = []
    cause: BaseException | None = error
    while cause is not None:
        parts.append("".join(traceback.format_tb(cause.__traceback__)) + type(cause).__name__)
        cause = cause.__cause__ or cause.__context__
    return "\n".join(parts)
