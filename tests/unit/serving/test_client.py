"""`leuk_ray.Client` against the application, and against services that fail."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

import leuk_ray as lr
from leuk_ray.inference.classifier import Classifier, Prediction
from leuk_ray.serving.client import Client, ServiceError
from leuk_ray.serving.schemas import FailureOut, PredictionOut
from leuk_ray.utils.errors import ConfigError, DataError
from tests.support.serving_bundles import cells, encode, listening, write_small_bundle
from tests.support.small_fields import PIXELS_PER_UM, rendered


def test_answers_are_typed_and_those_of_the_bundle(tmp_path: Path):
    bundle = write_small_bundle(tmp_path / "small")
    file = tmp_path / "cell.png"
    file.write_bytes(encode(cells(1)[0]))
    (expected,) = Classifier.load(bundle).predict([("cell.png", file.read_bytes())])
    assert isinstance(expected, Prediction)
    with listening(bundle) as url, Client(url) as client:
        assert [model.name for model in client.models().models] == ["small"]
        answer = client.predict([file, ("bad", b"no image")], subject="S1", model="small")
        good, bad = answer.predictions
        assert isinstance(good, PredictionOut)
        assert isinstance(bad, FailureOut)
        assert (good.name, good.label) == ("cell.png", expected.label)
        assert good.probabilities == pytest.approx(expected.probabilities, abs=1e-6)
        assert answer.subject is not None
        assert (answer.subject.subject, answer.subject.unreadable) == ("S1", 1)
        (explained,) = client.predict(file, explain=True).predictions
        assert isinstance(explained, PredictionOut)
        assert explained.explanation
        field = ("f.png", encode(rendered(0, 3)[0]))
        found = client.fields(field, pixels_per_um=PIXELS_PER_UM, crop_um=18)
        assert found.fields[0].scale is not None
        assert found.fields[0].scale.pixels_per_um == PIXELS_PER_UM
        assert found.summary.cells > 0
        with pytest.raises(ServiceError, match="415, not_an_image") as refused:
            client.predict(("bad", b"no image"))
        assert (refused.value.status, refused.value.reason) == (415, "no_good_image")
        assert refused.value.errors[0]["name"] == "bad"
        with pytest.raises(ServiceError, match="404"):
            client.predict(file, model="other")
        with pytest.raises(DataError, match=r"none\.png: cannot be read"):
            client.predict(tmp_path / "none.png")
    with pytest.raises(ServiceError, match="does not answer"):
        Client(url, retries=1).models()
    with pytest.raises(ConfigError, match="give the service's address"):
        Client("cells.example.org")


class Failing(BaseHTTPRequestHandler):
    """Answers as it is told: statuses with Retry-After, or None to hang up."""

    told: list[int | None] = []  # noqa: RUF012
    seen: list[tuple[float, str | None, bytes]] = []  # noqa: RUF012

    def log_message(self, format: str, *args: object) -> None:
        """Nothing."""

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        self.seen.append((time.monotonic(), self.headers.get("x-api-key"), body[-200:]))
        status = self.told.pop(0)
        if status is None:
            self.close_connection = True
            return
        problem = {"type": "about:blank", "title": "", "status": status, "detail": "full"}
        text = json.dumps(problem | {"reason": "overload", "error": "full"}).encode()
        self.send_response(status)
        self.send_header("Retry-After", "1" if status == 503 else "0")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)


@contextmanager
def failing(*told: int | None) -> Generator[str]:
    Failing.told, Failing.seen = list(told), []
    with ThreadingHTTPServer(("127.0.0.1", 0), Failing) as server:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_what_is_busy_or_lost_is_asked_again_whole_and_not_for_ever():
    with (
        failing(503, None, 422) as url,
        Client(url, "secret") as client,
        pytest.raises(ServiceError, match="422, full"),
    ):
        client.predict(("a", b"bytes"))
    first, second, third = Failing.seen
    assert second[0] - first[0] >= 1, "as Retry-After says"
    assert {key for _, key, _ in Failing.seen} == {"secret"}
    assert b"bytes" in third[2]
    with failing(429, 429, 429) as url, Client(url, retries=1) as client:
        with pytest.raises(ServiceError) as full:
            client.predict(("a", b"bytes"))
        assert (full.value.status, full.value.reason, len(Failing.seen)) == (429, "overload", 2)


def test_it_is_public_and_light():
    assert lr.Client is Client
    code = (
        "import sys, leuk_ray; leuk_ray.Client; "
        "print(sorted({'ray', 'torch', 'numpy', 'pyarrow', 'fastapi'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
