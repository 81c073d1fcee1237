"""The Open Inference Protocol, version 2, over HTTP, with its binary tensors.

Input `image` BYTES [N]: encoded image files (in JSON: base64). Outputs `probability` FP32 [N], of
the positive classes and NaN where there are none; `label` BYTES [N]; `probabilities` FP32 [N, K],
in the order of the model's classes, which its metadata name. Of a model with prediction sets the
response parameter `guarantee` is `stated` or `suspended`. One bad image refuses the request:
tensors have no place for errors.
"""

from __future__ import annotations

import asyncio
import binascii
import json
import re
import struct
from typing import Any

import numpy as np
from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response
from pydantic_core import from_json

from leuk_ray import __version__
from leuk_ray.datasets.images import BadImageError
from leuk_ray.inference.classifier import Cell
from leuk_ray.inference.predictions import Failure, Prediction
from leuk_ray.serving.errors import Problem
from leuk_ray.serving.models import Models
from leuk_ray.serving.served_model import ServedModel
from leuk_ray.serving.settings import Limits
from leuk_ray.serving.trace import Trace

_LENGTH_HEADER = "Inference-Header-Content-Length"
# Brackets, braces and commas beside one a file: JSON is parsed in one go that nothing else in this
# process runs beside, so what can be large in it is the text of the files alone.
_MARKS = 1000
_INPUTS = [{"name": "image", "datatype": "BYTES", "shape": [-1]}]
_OUTPUTS: list[dict[str, Any]] = [
    {"name": "probability", "datatype": "FP32", "shape": [-1]},
    {"name": "label", "datatype": "BYTES", "shape": [-1]},
    {"name": "probabilities", "datatype": "FP32", "shape": [-1, -1]},
]
# A PNG of one colour: the answer is to abstain.
_PICTURE = (
    "iVBORw0KGgoAAAANSUhEUgAAABAAAAAQCAIAAACQkWg2AAAAGklEQVR42mM8seUSAymAiYFEMKphVMPQ0QAAPrMCbmV9"
    "lcsAAAAASUVORK5CYII="
)
_EXAMPLE = {"name": "image", "shape": [1], "datatype": "BYTES", "data": [_PICTURE]}
_JSON_BODY = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": {
                    "type": "object",
                    "required": ["inputs"],
                    "properties": {
                        "id": {"type": "string"},
                        "inputs": {"type": "array", "items": {"type": "object"}},
                        "outputs": {"type": "array", "items": {"type": "object"}},
                    },
                },
                "example": {"inputs": [_EXAMPLE]},
            }
        },
    }
}


def router(models: Models, limits: Limits, trace: Trace) -> APIRouter:
    """Return the routes under /v2."""
    routes = APIRouter(prefix="/v2", tags=["open inference protocol"])

    @routes.get("")
    async def server() -> dict[str, Any]:
        return {"name": "leuk_ray", "version": __version__, "extensions": ["binary_tensor_data"]}

    @routes.get("/health/live")
    async def live() -> dict[str, bool]:
        return {"live": True}

    @routes.get("/health/ready")
    async def ready() -> dict[str, bool]:
        await models.check_ready()
        await trace.check()
        return {"ready": True}

    @routes.get("/models/{name}")
    @routes.get("/models/{name}/versions/{version}")
    async def metadata(name: str, version: str | None = None) -> dict[str, Any]:
        served = await models.get(_reference(name, version))
        versions, _ = models.source.versions(served.info.name)
        return {
            "name": served.info.name,
            "versions": versions,
            "platform": f"leuk_ray_{served.info.engine}",
            "inputs": _INPUTS,
            "outputs": _OUTPUTS,
            "parameters": {"classes": list(served.processor.manifest.classes)},
        }

    @routes.get("/models/{name}/ready")
    @routes.get("/models/{name}/versions/{version}/ready")
    async def model_ready(name: str, version: str | None = None) -> dict[str, Any]:
        served = await models.get(_reference(name, version))
        await served.network.check()
        return {"name": served.info.name, "ready": True}

    @routes.post("/models/{name}/infer", openapi_extra=_JSON_BODY)
    @routes.post("/models/{name}/versions/{version}/infer", openapi_extra=_JSON_BODY)
    async def infer(request: Request, name: str, version: str | None = None) -> Response:
        reference = _reference(name, version)
        served = await models.get(reference, request.state.request_id)
        body, header_length = await request.body(), request.headers.get(_LENGTH_HEADER)
        document, files = await asyncio.to_thread(_parse, body, header_length, limits.files)
        named = [(str(number), data) for number, data in enumerate(files)]
        read = await served.read(named, request.state.holder)
        cells = [item for item in read if isinstance(item, Cell)]
        for number, item in enumerate(read):
            if isinstance(item, BadImageError):
                raise Problem(400, "no_good_image", f"image {number}: {item}")
        answered = await served.answer(cells)
        answers = [item for item in answered if isinstance(item, Prediction)]
        for number, item in enumerate(answered):
            if isinstance(item, Failure):
                raise Problem(500, "no_number", f"image {number}: {item.error}")
        response = _respond(served, document, answers)
        await trace.answered(request, served, named, [answer.as_dict() for answer in answers])
        models.answered(reference, served, named, answers)
        return response

    return routes


def _reference(name: str, version: str | None) -> str:
    return name if version is None else f"{name}@{version}"


def _parse(body: bytes, header_length: str | None, most: int) -> tuple[dict[str, Any], list[bytes]]:
    """Parse a request into its document and 1 to `most` encoded files, its tensor `image`."""
    document, binary = _split(body, header_length, most)
    files = _images(document, binary, most)
    if not files:
        raise _not_so_many(most)
    return document, files


def _split(body: bytes, header_length: str | None, most: int) -> tuple[dict[str, Any], bytes]:
    """Parse the JSON part of a request; what follows it is the binary part."""
    length = len(body)
    if header_length is not None:
        if not re.fullmatch(r"[0-9]{1,18}", header_length):
            raise Problem(400, "inputs", f"{_LENGTH_HEADER} is no number")
        length = int(header_length)
    if length > len(body):
        raise Problem(400, "inputs", f"{_LENGTH_HEADER} is more than the body")
    if sum(body.count(mark, 0, length) for mark in b"[{,") > _MARKS + most:
        detail = f"the JSON holds too many values: at most {most} files and {_MARKS} others"
        raise Problem(400, "inputs", detail)
    try:
        document = from_json(body[:length])
    except ValueError as error:  # also beyond 200 levels, and for half of a surrogate pair
        raise Problem(400, "inputs", "the request is no JSON") from error
    if not isinstance(document, dict):
        raise Problem(400, "inputs", "the request is no JSON object")
    return document, body[length:]


def _images(document: dict[str, Any], binary: bytes, most: int) -> list[bytes]:
    """Decode the files of the tensor `image`."""
    inputs = document.get("inputs")
    tensor = inputs[0] if isinstance(inputs, list) and len(inputs) == 1 else None
    if not isinstance(tensor, dict) or (tensor.get("name"), tensor.get("datatype")) != (
        "image",
        "BYTES",
    ):
        raise Problem(400, "inputs", "give one input, `image`, of datatype BYTES")
    size = _parameters(tensor).get("binary_data_size")
    if size is None:
        files = _from_json(tensor.get("data"), most)
    elif isinstance(size, int) and size == len(binary):
        files = _from_binary(binary, most)
    else:
        raise Problem(400, "inputs", "binary_data_size is not the size of what follows the JSON")
    if tensor.get("shape") not in ([len(files)], [len(files), 1]):
        raise Problem(400, "inputs", f"`image` holds {len(files)} files, its shape says otherwise")
    return files


def _from_json(data: Any, most: int) -> list[bytes]:
    if not isinstance(data, list) or not all(isinstance(item, str) for item in data):
        raise Problem(400, "inputs", "`data` must be a list of base64 strings")
    if len(data) > most:
        raise _not_so_many(most)
    try:
        return [binascii.a2b_base64(item, strict_mode=True) for item in data]
    except ValueError as error:  # also for characters that are not ASCII
        raise Problem(400, "inputs", "`data` must be a list of base64 strings") from error


def _from_binary(binary: bytes, most: int) -> list[bytes]:
    """Split a tensor; each element is preceded by its length as a little-endian uint32."""
    files: list[bytes] = []
    start = 0
    while start < len(binary):
        if len(files) == most:
            raise _not_so_many(most)
        if start + 4 > len(binary):
            raise Problem(400, "inputs", "the binary tensor ends within a length")
        (length,) = struct.unpack_from("<I", binary, start)
        start += 4
        if start + length > len(binary):
            raise Problem(400, "inputs", "the binary tensor ends within an element")
        files.append(binary[start : start + length])
        start += length
    return files


def _not_so_many(most: int) -> Problem:
    return Problem(400, "inputs", f"`image` must hold 1 to {most} files")


def _respond(served: ServedModel, document: dict[str, Any], answers: list[Prediction]) -> Response:
    """Return the wanted outputs, as JSON or as binary tensors after it."""
    values: dict[str, Any] = {
        "probability": np.asarray([answer.probability for answer in answers], np.float32),
        "label": [answer.label for answer in answers],
        "probabilities": np.asarray(
            [list(answer.probabilities.values()) for answer in answers], np.float32
        ),
    }
    wanted = document.get("outputs") or [{"name": output["name"]} for output in _OUTPUTS]
    if not isinstance(wanted, list) or not all(isinstance(item, dict) for item in wanted):
        raise Problem(400, "outputs", "`outputs` must be a list of objects")
    if len(wanted) > len(_OUTPUTS):
        raise Problem(400, "outputs", f"there are only {len(_OUTPUTS)} outputs; name each once")
    binary_by_default = _parameters(document).get("binary_data_output", False)
    outputs: list[dict[str, Any]] = []
    tail = b""
    for item in wanted:
        known = next((o for o in _OUTPUTS if o["name"] == item.get("name")), None)
        if known is None:
            raise Problem(400, "outputs", f"there is no output {str(item.get('name'))[:100]!r}")
        value = values[known["name"]]
        shape = list(value.shape) if isinstance(value, np.ndarray) else [len(value)]
        output: dict[str, Any] = {**known, "shape": shape}
        if _parameters(item).get("binary_data", binary_by_default):
            data = _to_binary(value)
            output["parameters"] = {"binary_data_size": len(data)}
            tail += data
        else:
            output["data"] = value.ravel().tolist() if isinstance(value, np.ndarray) else value
        outputs.append(output)
    answer: dict[str, Any] = {
        "model_name": served.info.name,
        "model_version": served.info.version,
        "outputs": outputs,
        "parameters": {"fingerprint": served.info.fingerprint},
    }
    if (guarantee := served.guarantee) is not None:
        answer["parameters"]["guarantee"] = guarantee.state
    if isinstance(document.get("id"), str):
        answer["id"] = document["id"][:200]
    if not tail:
        return JSONResponse(answer)
    head = json.dumps(answer).encode()
    headers = {_LENGTH_HEADER: str(len(head))}
    return Response(head + tail, media_type="application/octet-stream", headers=headers)


def _to_binary(value: np.ndarray | list[str]) -> bytes:
    if isinstance(value, np.ndarray):
        return value.astype("<f4").tobytes()
    encoded = [text.encode() for text in value]
    return b"".join(struct.pack("<I", len(text)) + text for text in encoded)


def _parameters(of: dict[str, Any]) -> dict[str, Any]:
    found = of.get("parameters", {})
    return found if isinstance(found, dict) else {}
