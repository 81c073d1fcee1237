"""A client of the service, with retries and typed answers; it imports neither Ray nor PyTorch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import ClassVar, Self, TypeVar

import requests
from pydantic import BaseModel, ValidationError
from requests.adapters import HTTPAdapter
from urllib3.util import Retry

from leuk_ray.serving.field_schemas import FieldsOut
from leuk_ray.serving.schemas import ModelsOut, PredictOut, ProblemOut
from leuk_ray.utils.errors import ConfigError, DataError, UserError

Image = str | Path | tuple[str, bytes]
Out = TypeVar("Out", bound=BaseModel)

_BUSY = (429, 503)


class ServiceError(UserError):
    """The service refused a request, or did not answer it within all tries.

    status: of the last answer; None without one. reason: the service's code, such as `overload`.
    errors: name and error of each image, where they are at fault.
    """

    kind: ClassVar[str] = "service"

    def __init__(
        self,
        message: str,
        status: int | None = None,
        reason: str | None = None,
        errors: Sequence[dict[str, str]] = (),
    ) -> None:
        super().__init__(message)
        self.status, self.reason, self.errors = status, reason, list(errors)


class Client:
    """Asks a service that `leuk-ray serve` runs, from one thread.

    A request that meets a busy service (429, 503) or a lost connection is sent again, since an
    answer changes nothing: after the seconds that `Retry-After` says, else after 0.25 s, twice as
    long each time up to 10 s, and some chance.
    """

    def __init__(
        self, url: str, key: str | None = None, *, timeout: float = 60.0, retries: int = 6
    ) -> None:
        """Connect when the first request is sent.

        Args:
            url: of the service, such as https://cells.example.org.
            key: sent as X-API-Key; None for a service on this machine without keys.
            timeout: seconds without a byte until a try ends.
            retries: tries after the first.

        Raises:
            UserError: the url is none.
        """
        if not url.startswith(("http://", "https://")):
            raise ConfigError(f"{url}: give the service's address, as http://127.0.0.1:8000")
        self.url, self.timeout = url.rstrip("/"), timeout
        self._session = requests.Session()
        if key is not None:
            self._session.headers["X-API-Key"] = key
        retry = Retry(
            retries,
            allowed_methods=None,
            status_forcelist=_BUSY,
            raise_on_status=False,
            backoff_factor=0.25,  # seconds, as the two below
            backoff_max=10,
            backoff_jitter=0.25,
        )
        for scheme in ("http://", "https://"):
            self._session.mount(scheme, HTTPAdapter(max_retries=retry))

    def __enter__(self) -> Self:
        """Itself; the end of the block closes it."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the connection."""
        self.close()

    def close(self) -> None:
        """Close the connection."""
        self._session.close()

    def models(self) -> ModelsOut:
        """List the models that can be asked for; raises ServiceError."""
        return self._answer(ModelsOut, "GET", "/v1/models")

    def predict(
        self,
        images: Image | Sequence[Image],
        *,
        model: str | None = None,
        subject: str | None = None,
        explain: bool = False,
    ) -> PredictOut:
        """Classify images of single cells; a bad one among good ones is an item of the answer.

        Args:
            images: paths, or names with the bytes of files; a service takes 64 in a request.
            model: NAME, NAME@VERSION or NAME@ALIAS; None for the only one.
            subject: whose cells all of them are; adds a summary.
            explain: add where the network looks.

        Raises:
            ServiceError: refused, or not answered.
            UserError: a file that cannot be read.
        """
        query = {"model": model, "explain": "true" if explain else None}
        return self._answer(PredictOut, "POST", "/v1/predict", query, images, subject)

    def fields(
        self,
        images: Image | Sequence[Image],
        *,
        model: str | None = None,
        subject: str | None = None,
        pixels_per_um: float | None = None,
        crop_um: float | None = None,
        crops: bool = False,
    ) -> FieldsOut:
        """Find the cells of fields of view and classify each.

        Args:
            images: as for `predict`.
            model: as for `predict`.
            subject: as for `predict`.
            pixels_per_um: scale; estimated from red cells where it is None.
            crop_um: side of the square around a cell, micrometres; None for the service's 20.
            crops: add each cell's crop.

        Raises:
            ServiceError: refused, or not answered.
            UserError: a file that cannot be read.
        """
        query = {
            "model": model,
            "pixels_per_um": pixels_per_um,
            "crop_um": crop_um,
            "crops": "true" if crops else None,
        }
        return self._answer(FieldsOut, "POST", "/v1/fields", query, images, subject)

    def _answer(
        self,
        out: type[Out],
        method: str,
        path: str,
        query: Mapping[str, str | float | None] | None = None,
        images: Image | Sequence[Image] = (),
        subject: str | None = None,
    ) -> Out:
        files = [("file", (name, data)) for name, data in map(_read, _listed(images))]
        try:
            response = self._session.request(
                method, f"{self.url}{path}", params=query, timeout=self.timeout,
                files=files or None, data=None if subject is None else {"subject": subject},
            )  # fmt: skip
        except requests.RequestException as error:
            raise ServiceError(
                f"{self.url}: does not answer ({type(error).__name__}); is it running, and is the "
                "address right?"
            ) from error
        try:
            if response.ok:
                return out.model_validate_json(response.content)
            problem = ProblemOut.model_validate_json(response.content)
        except ValidationError as error:
            raise ServiceError(
                f"{self.url}{path}: answered {response.status_code} with what is none of this "
                "version's; is it a leuk_ray service?",
                response.status_code,
            ) from error
        raise ServiceError(
            f"{self.url}{path}: {response.status_code}, {problem.detail}",
            response.status_code,
            problem.reason,
            problem.errors or (),
        )


def _listed(images: Image | Sequence[Image]) -> Sequence[Image]:
    one = isinstance(images, str | Path) or (
        isinstance(images, tuple) and len(images) == 2 and isinstance(images[1], bytes)
    )
    return [images] if one else images  # pyright: ignore[reportReturnType]


def _read(image: Image) -> tuple[str, bytes]:
    if isinstance(image, tuple):
        return image
    try:
        return Path(image).name, Path(image).read_bytes()
    except OSError as error:
        raise DataError(f"{image}: cannot be read ({error.strerror})") from error
