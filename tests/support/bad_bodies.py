"""Requests that no service should stumble over, for the tests of the service."""

from __future__ import annotations

import gzip
import io
import json
import struct
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field

import numpy as np
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable
from PIL import Image
from schemathesis.core.result import Ok

from tests.support.serving_bundles import cells, encode

FORMATS = ("BMP", "PNG", "JPEG", "TIFF", "WEBP")


@dataclass(frozen=True)
class Bad:
    """A request's body, and what it says of itself."""

    what: str
    body: bytes
    headers: dict[str, str] = field(default_factory=dict)
    path: str = "/v1/predict"


def mutated(count: int, seed: int = 0) -> Iterator[Bad]:
    """Images of every format with bytes changed, cut off, inserted, doubled or joined."""
    generator = np.random.default_rng(seed)
    whole = [encode(p[150:250, 150:250], kind) for p in cells(2) for kind in FORMATS]
    for number in range(count):
        data = bytearray(whole[number % len(whole)])
        places = generator.integers(0, len(data), int(generator.integers(1, 30)))
        match number // len(whole) % 5:
            case 0:
                for place in places.tolist():
                    data[place] = int(generator.integers(256))
            case 1:
                del data[int(generator.integers(1, len(data))) :]
            case 2:
                place = int(places[0])
                data[place:place] = generator.bytes(int(generator.integers(1, 200)))
            case 3:  # heads hold the sizes
                for place in generator.integers(0, 64, 4).tolist():
                    data[place] = int(generator.choice([0, 1, 127, 128, 255]))
            case _:
                other = whole[int(generator.integers(len(whole)))]
                data = data[: int(places[0])] + other[int(generator.integers(len(other))) :]
        yield Bad(f"mutated {number}", bytes(data), {"Content-Type": "image/png"})


def crafted() -> list[Bad]:
    """What somebody might send on purpose."""
    cell = cells(1)[0][150:250, 150:250]
    png, jpeg, bmp = (encode(cell, kind) for kind in ("PNG", "JPEG", "BMP"))
    comment = b"\xff\xfe\x00\x1b<script>alert(1)</script>"
    bodies = {
        "nothing": b"",
        "zeros": bytes(100_000),
        "svg": b'<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>',
        "xml bomb": b'<!DOCTYPE a [<!ENTITY b "c">]><svg>' + b"&b;" * 1000,
        "html": b"<html><body onload=alert(1)>hello</body></html>",
        "pdf": b"%PDF-1.7\n" + bytes(1000),
        "zip bomb": zip_bomb(),
        "gzip": gzip.compress(png),
        "picture bomb": one_colour(30_000, 30_000),
        "text bomb": png[:33] + chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(2**24))) + png[33:],
        "long and thin": one_colour(100_000, 320),
        "polyglot png and zip": png + zip_bomb(),
        "polyglot jpeg and html": jpeg[:2] + comment + jpeg[2:],
        "polyglot bmp and pdf": bmp + b"%PDF-1.4",
        "gif": encode(cells(1)[0][:64, :64], "GIF"),
        "two pages": pages("TIFF"),
        "moving picture": pages("WEBP"),
        "next page out of the file": encode(cells(1)[0][:64, :64], "TIFF")[:-4] + b"\xff" * 4,
        "half a header": png[:20],
        "negative size": bmp[:18] + struct.pack("<ii", -1, -(2**31)) + bmp[26:],
    }  # fmt: skip
    form = "multipart/form-data; boundary=x"
    part = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
    bad = [Bad(what, body, {"Content-Type": "image/png"}) for what, body in bodies.items()]
    bad += [
        Bad("calls itself json", png, {"Content-Type": "application/json"}),
        Bad("calls itself nothing", png, {"Content-Type": ""}),
        Bad("says it is packed", png, {"Content-Encoding": "gzip"}),
        Bad("a form without a boundary", png, {"Content-Type": "multipart/form-data"}),
        Bad("a form of nonsense", b"nonsense", {"Content-Type": form}),
        Bad("a form that ends early", part + png, {"Content-Type": form}),
        Bad("a form of many parts", part * 5000, {"Content-Type": form}),
        Bad("a part of many headers", b"--x\r\n" + b"a: b\r\n" * 20_000, {"Content-Type": form}),
        Bad("a part without a name", b"--x\r\n\r\n" + png + b"\r\n--x--", {"Content-Type": form}),
        Bad(
            "a name of any bytes",
            part.replace(b'"a"', b'"\x00\xff\r\n../../etc"') + png + b"\r\n--x--\r\n",
            {"Content-Type": form},
        ),
    ]
    infer = "/v2/models/small/infer"
    documents = {
        "no json": b"\xff\xfe",
        "deep json": b"[" * 100_000,
        "a large number": b'{"inputs": [{"name": "image", "shape": [1e999]}]}',
        "digits": b'{"id": ' + b"9" * 100_000 + b"}",
        "no tensor": b'{"inputs": [1, null, "x"]}',
        "a tensor of another kind": json.dumps(
            {"inputs": [{"name": "image", "shape": [1], "datatype": "FP32", "data": [1.0]}]}
        ).encode(),
        "no base64": b'{"inputs": [{"name":"image","shape":[1],"datatype":"BYTES","data":["%"]}]}',
    }
    bad += [Bad(what, body, path=infer) for what, body in documents.items()]
    bad += [
        Bad("a length beyond the body", b"{}", {"Inference-Header-Content-Length": "99"}, infer),
        Bad("a length that is none", b"{}", {"Inference-Header-Content-Length": "x" * 4000}, infer),
        Bad("no such path", png, path="/v1/../../etc/passwd"),
        Bad("no such model", png, path="/v1/predict?model=%00%ff../../x"),
        Bad("no such truth", png, path="/v1/predict?explain=perhaps"),
    ]
    return bad


def zip_bomb() -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("zeros", bytes(2**24))
    return out.getvalue()


def one_colour(width: int, height: int) -> bytes:
    out = io.BytesIO()
    Image.new("1", (width, height)).save(out, "PNG")
    return out.getvalue()


def pages(kind: str) -> bytes:
    out = io.BytesIO()
    frames = [Image.fromarray(np.full((20, 20, 3), v, np.uint8)) for v in (0, 255)]
    frames[0].save(out, kind, save_all=True, append_images=frames[1:])
    return out.getvalue()


def chunk(kind: bytes, data: bytes) -> bytes:
    """Of a PNG."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def send(session: requests.Session, url: str, bad: Bad, **headers: str) -> requests.Response:
    """Send one, and see that a refusal is a problem document."""
    answer = session.post(
        f"{url}{bad.path}", data=bad.body, headers=bad.headers | headers, timeout=60
    )
    check(bad.what, answer.status_code, answer.headers.get("content-type", ""), answer.text)
    return answer


def check(what: str, status: int, content_type: str, text: str) -> None:
    """No failure of ours, and a refusal that says what it is."""
    assert status < 500, f"{what}: {status} {text[:300]}"
    if status >= 400:
        assert content_type == "application/problem+json", f"{what}: {status} {content_type}"


def from_openapi(url: str, examples: int, **headers: str) -> Counter[int]:
    """Requests made from the OpenAPI document, up to `examples` an operation; their statuses.

    They are as the document says, and not: Schemathesis makes both.
    """
    document = requests.get(f"{url}/openapi.json", timeout=30).json()
    schema = schemathesis.openapi.from_dict(document)
    listed = requests.get(f"{url}/v1/models", headers=headers, timeout=30).json()
    model = listed["models"][0]["name"]
    statuses: Counter[int] = Counter()
    for found in schema.get_all_operations():
        assert isinstance(found, Ok)
        operation = found.ok()
        for mode in schemathesis.GenerationMode:

            @given(case=operation.as_strategy(generation_mode=mode))
            @settings(
                max_examples=examples // 2, database=None, derandomize=True, deadline=None,
                phases=[Phase.generate],
                suppress_health_check=list(HealthCheck.__members__.values()),
            )  # fmt: skip
            def ask(case: schemathesis.Case) -> None:
                if statuses.total() % 2:  # beyond the name of the model, which is hard to guess
                    if "name" in case.path_parameters:
                        case.path_parameters["name"] = model
                    case.query.pop("model", None)
                answer = case.call(base_url=url, headers=headers, timeout=60)
                what = f"{case.method} {case.formatted_path}"
                kind = answer.headers.get("content-type", [""])[0]
                check(what, answer.status_code, kind, answer.text)
                statuses[answer.status_code] += 1

            with suppress(Unsatisfiable):  # without parameters there is nothing to get wrong
                ask()
    return statuses
