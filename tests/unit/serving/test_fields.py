"""POST /v1/fields: the boxes, crops and answers of `detect` and `predict --fields`."""

import base64
import io
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from leuk_ray.bundles.bundle import write_bundle
from leuk_ray.datasets.images import StorageSettings
from leuk_ray.fields.crops import crops_of
from leuk_ray.fields.field import FieldSettings, read_field
from leuk_ray.models.settings import ModelSettings
from leuk_ray.models.zoo import build
from leuk_ray.serving import decoding, fields
from leuk_ray.serving.field_schemas import FieldsOut
from leuk_ray.workflows.predict_fields import predict_fields
from tests.support.serving_bundles import client_of, encode, plain_manifest
from tests.support.small_fields import PIXELS_PER_UM, rendered

SETTINGS = FieldSettings()


@pytest.fixture(scope="module")
def bundle(tmp_path_factory) -> Path:
    """Of a network whose last digits depend on the batch; those of `write_small_bundle` do not."""
    path = tmp_path_factory.mktemp("served") / "lite"
    manifest = plain_manifest(
        model=ModelSettings(input_size=64, weights="scratch"),
        storage=StorageSettings(size=96, crop="center"),
    )
    torch.manual_seed(0)
    write_bundle(path, manifest, build(manifest.model, load_weights=True).eval())
    return path


@pytest.fixture(scope="module")
def client(bundle: Path):
    with client_of(bundle) as client:
        yield client


def jpeg(number: int, cells: int, **options) -> bytes:
    out = io.BytesIO()
    Image.fromarray(rendered(number, cells)[0]).save(out, "JPEG", quality=90, **options)
    return out.getvalue()


def upload(*files: tuple[str, bytes]):
    return [("file", (name, data, "application/octet-stream")) for name, data in files]


def without_probabilities(field: dict) -> dict:
    numbers = ("probability", "probabilities", "crop")
    cells = [{k: v for k, v in cell.items() if k not in numbers} for cell in field["cells"]]
    return field | {"cells": cells}


def test_a_field_gets_what_predict_gives_it_to_the_last_digit(client, bundle: Path, tmp_path: Path):
    files = [("a.jpg", jpeg(0, 11)), ("b.jpg", jpeg(1, 3)), ("c.png", encode(rendered(3, 0)[0]))]
    answer = client.post("/v1/fields?crops=true", files=upload(*files), data={"subject": "S1"})
    assert answer.status_code == 200, answer.text
    body = answer.json()
    FieldsOut(**body)
    for name, data in files:
        (tmp_path / name).write_bytes(data)
    with threads(2):  # and tables hold what memory does: tests/unit/workflows
        assert predict_fields(bundle, [tmp_path], SETTINGS)["fields"] == without_crops(body)
    field, pixels = read_field(*files[0], SETTINGS)
    assert pixels is not None
    sent = [base64.b64decode(cell["crop"].partition(",")[2]) for cell in body["fields"][0]["cells"]]
    assert sent == crops_of(field, pixels, SETTINGS.crop_um)
    assert [len(item["cells"]) for item in body["fields"]] == [11, 3, 0]
    assert [item["status"] for item in body["fields"]] == ["ok", "ok", "empty"]
    summary = body["summary"]
    assert summary["cells"] == summary["answered"] + summary["not_answered"] == 14
    assert sum(share["cells"] for share in summary["differential"]) == summary["answered"]
    assert (body["subject"]["subject"], body["subject"]["cells"]) == ("S1", 14)
    # What the page explains is the crop itself, by the way of cells.
    crop = base64.b64decode(body["fields"][0]["cells"][0]["crop"].partition(",")[2])
    (alone,) = client.post("/v1/predict", content=crop).json()["predictions"]
    assert alone["sha256"] == body["fields"][0]["cells"][0]["sha256"]
    # A forward pass of another batch differs in the last bits.
    assert alone["probability"] == pytest.approx(
        body["fields"][0]["cells"][0]["probability"], abs=1e-6
    )


def without_crops(body: dict) -> list[dict]:
    return [
        field | {"cells": [{k: v for k, v in cell.items() if k != "crop"} for cell in cells]}
        for field in body["fields"]
        for cells in [field["cells"]]
    ]


@contextmanager
def threads(number: int) -> Generator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    yield
    torch.set_num_threads(before)


def test_bad_fields_are_items_with_reasons(client):
    dark = encode(np.zeros((300, 400, 3), np.uint8))
    good = jpeg(0, 2)
    answer = client.post(
        "/v1/fields", files=upload(("a.jpg", good), ("dark.png", dark), ("c", b"text"))
    )
    assert answer.status_code == 200
    first, second, third = answer.json()["fields"]
    assert first["status"] == "ok"
    assert (second["status"], second["reasons"], second["cells"]) == (
        "refused",
        ["underexposed"],
        [],
    )
    assert (third["reasons"], third["detail"][:12]) == (["unreadable"], "not_an_image")
    alone = client.post("/v1/fields", content=dark).json()
    assert alone["summary"]["cells"] == 0
    assert {share["share"] for share in alone["summary"]["differential"]} == {None}
    none = client.post("/v1/fields", content=b"text")
    assert (none.status_code, none.json()["reason"]) == (415, "no_good_image")


def test_the_scale_can_be_given_and_is_checked(client):
    data = jpeg(0, 3)
    given = client.post(f"/v1/fields?pixels_per_um={PIXELS_PER_UM}", content=data).json()
    assert given["fields"][0]["scale"]["source"] == "given"
    wrong = client.post(f"/v1/fields?pixels_per_um={3 * PIXELS_PER_UM}", content=data).json()
    assert wrong["fields"][0]["reasons"] == ["scale_differs"]
    assert given["fields"][0]["warnings"] == []
    doubtful = client.post(f"/v1/fields?pixels_per_um={1.5 * PIXELS_PER_UM}", content=data).json()
    assert doubtful["fields"][0]["warnings"] == ["scale_doubtful"]
    assert doubtful["fields"][0]["scale"]["estimated"] == pytest.approx(PIXELS_PER_UM, rel=0.15)
    nan = client.post("/v1/fields?pixels_per_um=nan", content=data).json()
    assert nan["detail"] == "query.pixels_per_um: Input should be a finite number"
    for query in ("pixels_per_um=0", "pixels_per_um=nan", "crop_um=1000", "scale=3"):
        assert client.post(f"/v1/fields?{query}", content=data).status_code == 422, query


def test_limits_hold_for_fields_too(client, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(fields, "_CELLS", 2)
    answer = client.post("/v1/fields", content=jpeg(0, 3))
    assert (answer.status_code, answer.json()["reason"]) == (413, "cells")
    monkeypatch.setattr(decoding, "_REQUEST_PIXELS", 1000)
    answer = client.post("/v1/fields", content=jpeg(0, 3))
    assert (answer.status_code, answer.json()["reason"]) == (413, "pixels")


def test_files_that_may_take_long_are_decoded_in_a_process_to_the_same_cells(client):
    """A progressive JPEG of the same coefficients has the same pixels as a baseline one."""
    baseline, progressive = jpeg(0, 3), jpeg(0, 3, progressive=True)
    ours, theirs = (
        client.post("/v1/fields", content=data).json()["fields"][0]
        for data in (baseline, progressive)
    )
    assert ours["status"] == "ok"
    assert without_probabilities(ours) == without_probabilities(theirs)
