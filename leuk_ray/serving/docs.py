"""The OpenAPI document's examples, and the page at /docs, whose parts come from this server."""

from __future__ import annotations

import base64
import hashlib
import re
from importlib import resources
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.responses import HTMLResponse
from fastapi.staticfiles import StaticFiles

DESCRIPTION = """Tells leukemic blasts (ALL) from healthy cells, one stained cell an image.
**For research. Not a medical device, not a diagnosis.**

    curl -F file=@cell.bmp -F file=@other.png -F subject=S1 http://SERVER/v1/predict
    curl -F file=@field.jpg 'http://SERVER/v1/fields?pixels_per_um=12.5'

Errors are `application/problem+json` (RFC 9457); `/v2` is the Open Inference Protocol."""


def _body(files: str, subject: str) -> dict[str, Any]:
    """Return a form with files and a subject, or one image alone, for the OpenAPI document."""
    properties = {
        "file": {
            "type": "array",
            "items": {"type": "string", "format": "binary"},
            "description": files,
        },
        "subject": {"type": "string", "description": subject, "example": "S1"},
    }
    form = {"type": "object", "required": ["file"], "properties": properties}
    return {
        "requestBody": {
            "required": True,
            "content": {
                "multipart/form-data": {"schema": form},
                "image/*": {"schema": {"type": "string", "format": "binary"}},
            },
        }
    }


PREDICT_BODY = _body(
    "one or many images, one cell each", "who all the cells are of; adds counts over them"
)
FIELDS_BODY = _body(
    "one or many fields of view", "who all the fields are of; adds counts over their cells"
)


def read_page(name: str) -> str:
    """Read a page of this package, with the style and script that pages share."""
    folder = resources.files("leuk_ray.serving") / "page"
    page = (folder / name).read_text()
    for place, file in (("/* common.css */", "common.css"), ("// common.js", "common.js")):
        assert place in page
        page = page.replace(place, f"\n{(folder / file).read_text()}")
    return page


def page_headers(html: str) -> dict[str, str]:
    """Return headers by which a page has its own scripts and styles, and nothing of other hosts.

    What stands in the page is allowed by its hash: what is put into it later does nothing.
    """
    return {
        "Content-Security-Policy": (
            "default-src 'self'; img-src 'self' blob: data:; "
            f"style-src 'self' {_hashes('style', html)}; "
            f"script-src 'self' {_hashes('script', html)}; "
            "frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
        ),
        "Referrer-Policy": "no-referrer",
    }


def _hashes(tag: str, html: str) -> str:
    """Hashes of a page's own elements of a kind, as a policy's sources."""
    texts = re.findall(f"<{tag}>(.*?)</{tag}>", html, re.DOTALL)
    digests = (base64.b64encode(hashlib.sha256(text.encode()).digest()) for text in texts)
    return " ".join(f"'sha256-{digest.decode()}'" for digest in digests)


def add_docs(api: FastAPI) -> None:
    """Swagger UI at /docs, with its script and style beside it."""

    @api.get("/docs", include_in_schema=False)
    async def docs() -> HTMLResponse:
        page = get_swagger_ui_html(
            openapi_url="openapi.json",  # all relative: a gateway may put a prefix before them
            title="leuk_ray",
            swagger_js_url="docs/swagger-ui-bundle.js",
            swagger_css_url="docs/swagger-ui.css",
            swagger_favicon_url="docs/favicon-32x32.png",
        )
        page.headers.update(page_headers(bytes(page.body).decode()))
        return page

    api.mount("/docs", StaticFiles(packages=[("fastapi_swagger", "resources")]))
