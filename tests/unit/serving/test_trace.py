"""The trace of a service: what is recorded of every answer, before it is sent."""

from __future__ import annotations

import hashlib
import json
import resource
import signal
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import pytest
from click.testing import CliRunner
from starlette.testclient import TestClient

from leuk_ray.cli.main import cli
from leuk_ray.serving.api import create_api
from leuk_ray.serving.keys import ApiKeys
from leuk_ray.serving.monitoring import Metrics
from leuk_ray.serving.settings import Limits
from leuk_ray.serving.trace import Trace
from leuk_ray.utils.errors import DataError, UserError
from leuk_ray.workflows.trace import TracedAnswer, read_answers, replay, verify_trace
from tests.support.serving_bundles import (
    LOOPBACK,
    cells,
    encode,
    models_from,
    write_small_bundle,
)
from tests.support.small_fields import PIXELS_PER_UM, rendered
from tests.unit.serving.test_api import v2_request

KEY = {"X-API-Key": "secret"}


@contextmanager
def tracing(bundle: Path, trace: Path, *, subjects: bool = False) -> Generator[TestClient]:
    """The application with a key and a trace."""
    keys = trace.parent / "keys"
    keys.write_text(f"lab {hashlib.sha256(b'secret').hexdigest()}\n")
    record = Trace(trace, subjects=subjects)
    api = create_api(models_from(bundle), Limits(), ApiKeys(keys), Metrics(), record)
    with TestClient(api, LOOPBACK, headers=KEY) as client:
        yield client
    record.close()


@pytest.fixture(scope="module")
def bundle(tmp_path_factory) -> Path:
    return write_small_bundle(tmp_path_factory.mktemp("traced") / "small")


def upload(*files: tuple[str, bytes]):
    return [("file", (name, data, "application/octet-stream")) for name, data in files]


def test_every_answer_has_a_line_that_a_replay_repeats(bundle: Path, tmp_path: Path):
    trace, field = tmp_path / "trace", encode(rendered(0, 3)[0])
    scale = f"pixels_per_um={PIXELS_PER_UM}"
    one, two = (encode(pixels) for pixels in cells(2))
    with tracing(bundle, trace) as client:
        sent = [
            client.post(
                "/v1/predict", data={"subject": "MEIER"},
                files=upload(("meier1.png", one), ("meier2.png", b"no image")),
            ),
            client.post("/v2/models/small/infer", json=v2_request([one, two])),
            client.post(f"/v1/fields?{scale}", files=upload(("meier3.png", field))),
        ]  # fmt: skip
        assert [answer.status_code for answer in sent] == [200] * 3, [a.text for a in sent]
        refused = client.post("/v1/predict", content=b"no image")
        assert (refused.status_code, "x-trace-line" in refused.headers) == (415, False)
    assert verify_trace(trace)["lines"] == 1 + 3 + 1, "start, answers, closed"
    chain = next(trace.glob("*.jsonl"))
    text = chain.read_text()
    assert "meier" not in text.lower()
    answers: list[TracedAnswer] = list(read_answers(trace))
    v1, v2, fields = answers
    name = chain.name.partition(".")[0]
    assert [a.headers["x-trace-line"] for a in sent] == [f"{name}:{n}" for n in (2, 3, 4)]
    assert [a.request_id for a in answers] == [a.headers["x-request-id"] for a in sent]
    assert [a.route for a in answers] == ["/v1/predict", "/v2/models/{name}/infer", "/v1/fields"]
    fingerprint = hashlib.sha256((bundle / "bundle.json").read_bytes()).hexdigest()
    for answer in answers:
        assert (answer.key, answer.model, answer.bundle_sha256) == ("lab", "small", fingerprint)
        assert (answer.rules.threshold, answer.subject) == (0.5, None)
    given = sent[0].json()["predictions"][0]
    assert v1.images[0].model_dump(include={"label", "probabilities", "sha256"}) == {
        key: given[key] for key in ("label", "probabilities", "sha256")
    }
    assert (v1.images[1].sha256, v1.images[1].label, v1.images[1].error) == (
        hashlib.sha256(b"no image").hexdigest(), None, "not_an_image",
    )  # fmt: skip
    assert v2.images[0].probabilities == pytest.approx(given["probabilities"], abs=1e-6)
    assert [cell.sha256 for cell in fields.fields[0].cells] == [
        cell.get("sha256") for cell in sent[2].json()["fields"][0]["cells"]
    ]
    assert fields.fields[0].cells
    assert fields.field_settings is not None
    assert fields.field_settings.pixels_per_um == PIXELS_PER_UM

    again = replay(trace, bundle, [("a", one), ("b", two), ("c", field), ("d", b"other")])
    assert (again["answers"], again["not_traced"]) == (4, ["d"])
    assert again["largest_difference"] < 1e-5
    other = write_small_bundle(tmp_path / "other", seed=5)
    with pytest.raises(DataError, match=r"no answer of this bundle.*3 answers .* other bundles"):
        replay(trace, other, [("a", one), ("c", field)])
    lines = text.splitlines()
    changed = json.loads(lines[1])
    changed["answer"]["images"][0]["label"] = "healthy" if given["label"] == "ALL" else "ALL"
    chain.write_text("\n".join([lines[0], json.dumps(changed), *lines[2:], ""]))
    with pytest.raises(DataError, match=r"1 of 2 traced answers differ .* a, request"):
        replay(trace, bundle, [("a", one)])
    changed = json.loads(lines[1])
    changed["answer"]["images"][0]["probabilities"]["ALL"] = float("nan")
    chain.write_text("\n".join([lines[0], json.dumps(changed), *lines[2:], ""]))
    with pytest.raises(DataError):
        replay(trace, bundle, [("a", one)])
    shown = CliRunner().invoke(cli, ["trace", "verify", str(trace)])
    assert isinstance(shown.exception, UserError)
    assert "line 2: was changed" in str(shown.exception)


def test_no_answer_leaves_untraced_and_what_was_withheld_is_counted(bundle: Path, tmp_path: Path):
    trace, cell = tmp_path / "trace", encode(cells(1)[0])
    limit, before = resource.getrlimit(resource.RLIMIT_FSIZE), signal.getsignal(signal.SIGXFSZ)
    with tracing(bundle, trace, subjects=True) as client:
        assert client.post("/v1/predict", content=cell).status_code == 200
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, limit[1]))
        try:  # as on a full disk
            for _ in range(2):
                full = client.post("/v1/predict", content=cell)
                assert (full.status_code, full.json()["reason"]) == (503, "trace")
                assert "predictions" not in full.text
            assert client.get("/readyz").status_code == 503
            assert client.get("/healthz").status_code == 200
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limit)
            signal.signal(signal.SIGXFSZ, before)
        assert client.get("/readyz").status_code == 200
        named = client.post("/v1/predict", files=upload(("a", cell)), data={"subject": "S7"})
        assert named.status_code == 200
    assert verify_trace(trace)["lines"] == 5
    lines = [json.loads(line) for line in next(trace.glob("*.jsonl")).read_text().splitlines()]
    assert [line["kind"] for line in lines] == ["start", "answer", "resumed", "answer", "closed"]
    assert lines[2]["withheld"] == 2
    assert lines[3]["answer"]["subject"] == "S7", "where it was asked for"
    with pytest.raises(UserError, match="cannot be written"):
        Trace(tmp_path / "keys")
