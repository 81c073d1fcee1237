"""The HTTP contract, on the application itself; a real Ray Serve is an integration test."""

import asyncio
import base64
import io
import json
import struct
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from starlette.testclient import TestClient

from leuk_ray.errors import UserError
from leuk_ray.inference.classifier import Cell, Classifier, Prediction
from leuk_ray.registry import Registry
from leuk_ray.serving import models as models_module
from leuk_ray.serving.models import Models
from leuk_ray.serving.runner import LocalNetwork
from leuk_ray.serving.schemas import ModelsOut, PredictOut
from leuk_ray.serving.settings import Limits
from tests.serving_bundles import (
    SIZE,
    cells,
    client_of,
    encode,
    models_from,
    write_small_bundle,
)

FORMATS = ("BMP", "PNG", "JPEG", "TIFF")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory) -> Path:
    return write_small_bundle(tmp_path_factory.mktemp("served") / "small")


@pytest.fixture(scope="module")
def client(bundle: Path):
    with client_of(bundle) as client:
        yield client


def upload(*files: tuple[str, bytes]):
    return [("file", (name, data, "application/octet-stream")) for name, data in files]


def test_the_same_bytes_give_the_same_probability_by_every_way(client, bundle: Path):
    pixels = cells(2)
    files = [(f"{i}.{kind}", encode(p, kind)) for i, p in enumerate(pixels) for kind in FORMATS]
    expected = Classifier.load(bundle).predict(files)
    answer = client.post("/v1/predict", files=upload(*files))
    assert answer.status_code == 200, answer.text
    body = PredictOut(**answer.json())
    v2 = client.post("/v2/models/small/infer", json=v2_request([data for _, data in files]))
    probabilities = v2.json()["outputs"][0]["data"]
    for i, (ours, theirs) in enumerate(zip(body.predictions, expected, strict=True)):
        assert isinstance(theirs, Prediction)
        assert ours.model_dump(exclude={"explanation"}) == theirs.as_dict() | {
            "probability": pytest.approx(theirs.probability, abs=1e-5)
        }
        alone = client.post("/v1/predict", content=files[i][1]).json()["predictions"][0]
        assert alone["probability"] == pytest.approx(theirs.probability, abs=1e-5)
        assert probabilities[i] == pytest.approx(theirs.probability, abs=1e-5)
    assert len({p.probability for p in body.predictions}) > 1


def test_the_answer_names_the_model_that_gave_it(client, bundle: Path):
    answer = client.post("/v1/predict", content=encode(cells(1)[0])).json()
    info = answer["model"]
    assert (info["name"], info["engine"]) == ("small", "pytorch")
    assert info["fingerprint"].startswith(info["version"])
    listed = ModelsOut(**client.get("/v1/models").json())
    assert listed.default == "small"
    assert (listed.models[0].size, listed.models[0].crop) == (SIZE, "center")
    assert client.get("/healthz").json() == {"status": "ok"}
    assert client.get("/readyz").json() == {"status": "ready"}


def test_a_bad_image_among_good_ones_is_an_item(client):
    good = encode(cells(1)[0])
    answer = client.post(
        "/v1/predict", files=upload(("a.png", good), ("b.png", b"text"), ("c.png", good[:500]))
    )
    assert answer.status_code == 200
    first, second, third = answer.json()["predictions"]
    assert first["label"] in ("ALL", "healthy")
    assert second == {"name": "b.png", "error": second["error"]}
    assert "not_an_image" in second["error"]
    assert "truncated" in third["error"]


def svg() -> bytes:
    return b'<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>'


def bomb() -> bytes:
    return encode(np.zeros((8000, 8000), np.uint8))


def two_frames() -> bytes:
    out = io.BytesIO()
    frames = [Image.fromarray(np.full((20, 20), v, np.uint8)) for v in (0, 255)]
    frames[0].save(out, "TIFF", save_all=True, append_images=frames[1:])
    return out.getvalue()


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 422),
        (b"text", 415),
        (b"<html><body>hello</body></html>", 415),
        (svg(), 415),
        (b"PK\x03\x04" + bytes(100), 415),
        (b"GIF89a" + bytes(100), 415),
        (b"\x89PNG\r\n\x1a\n" + bytes(100), 415),
        (two_frames(), 422),
        (bomb(), 422),
    ],
    ids=["empty", "text", "html", "svg", "zip", "gif", "png-head", "frames", "bomb"],
)
def test_what_is_no_image_of_ours_is_refused_whatever_it_calls_itself(client, body, status: int):
    for answer in (
        client.post("/v1/predict", content=body, headers={"Content-Type": "image/png"}),
        client.post("/v1/predict", files=upload(("cell.png", body))),
    ):
        assert answer.status_code == status, answer.text
        assert answer.headers["content-type"] == "application/problem+json"
        problem = answer.json()
        assert problem["status"] == status
        assert problem["errors"][0]["error"]


def test_requests_that_make_no_sense_are_problems(client):
    form = {"Content-Type": "multipart/form-data; boundary=x"}
    for answer, status in (
        (client.post("/v1/predict", files={"other": b"x"}), 422),
        (client.post("/v1/predict", content=b"nonsense", headers=form), 400),
        (client.post("/v1/predict?model=none", content=b"x"), 404),
        (client.post("/v1/predict?model=../../etc", content=b"x"), 404),
        (client.post("/v1/predict?explain=perhaps", content=b"x"), 422),
        (client.get("/v1/predict"), 405),
        (client.get("/nowhere"), 404),
    ):
        assert answer.status_code == status, answer.text
        assert answer.headers["content-type"] == "application/problem+json"


def test_more_files_than_allowed_are_refused(bundle: Path):
    files = upload(*[(f"{i}.png", b"x") for i in range(4)])
    with client_of(bundle, Limits(files=3)) as client:
        assert client.post("/v1/predict", files=files).status_code == 400
        assert client.post("/v1/predict", files=files[:3]).status_code == 415


def test_a_subject_is_counted_over_its_answered_cells(tmp_path: Path):
    scope_free = write_small_bundle(tmp_path / "small", threshold=0.0)
    with client_of(scope_free) as client:
        black = encode(np.zeros((300, 300, 3), np.uint8))
        files = upload(*[(f"{i}.png", encode(p)) for i, p in enumerate(cells(3))], ("b", black))
        answer = client.post("/v1/predict", files=files, data={"subject": "S1"}).json()
        too_long = client.post("/v1/predict", files=files, data={"subject": "x" * 201})
    assert [item["label"] for item in answer["predictions"]] == ["ALL"] * 3 + ["abstain"]
    assert answer["predictions"][3]["reasons"] == ["blank"]
    subject = answer["subject"]
    assert (subject["subject"], subject["cells"], subject["answered"], subject["called_all"]) == (
        "S1", 4, 3, 3,
    )  # fmt: skip
    # Clopper-Pearson for 3 of 3: the lower end is 0.025 ** (1 / 3).
    assert subject["low"] == pytest.approx(0.025 ** (1 / 3))
    assert (subject["share"], subject["high"]) == (1.0, 1.0)
    assert too_long.status_code == 422


def test_near_the_threshold_there_is_no_answer(tmp_path: Path):
    unsure = write_small_bundle(tmp_path / "small", abstain_band=(0.0, 1.0))
    with client_of(unsure) as client:
        item = client.post("/v1/predict", content=encode(cells(1)[0])).json()["predictions"][0]
    assert (item["label"], item["reasons"]) == ("abstain", ["near_threshold"])


def test_an_explanation_is_a_picture_of_the_cell(client):
    answer = client.post("/v1/predict?explain=true", content=encode(cells(1)[0])).json()
    scheme, _, data = answer["predictions"][0]["explanation"].partition(",")
    assert scheme == "data:image/png;base64"
    with Image.open(io.BytesIO(base64.b64decode(data))) as picture:
        assert picture.size == (SIZE, SIZE)


def test_explaining_beside_scoring_leaves_every_cell_its_own_probability(bundle: Path):
    files = [(f"{i}.png", encode(pixels)) for i, pixels in enumerate(cells(6))]
    expected = [p.probability for p in Classifier.load(bundle).predict(files)]
    assert len(set(expected)) == 6

    async def ask() -> tuple[list[float], list[str]]:
        runner = await models_from(bundle, max_batch_size=4).get("small")
        network = runner.network.classifier.model
        network.feature_map.register_forward_pre_hook(lambda *_: time.sleep(0.02))  # passes overlap
        read = [cell for cell in await runner.read(files) if isinstance(cell, Cell)]
        answers, pictures = await asyncio.gather(runner.answer(read), runner.explain(read))
        return [answer.probability for answer in answers], pictures

    answers, pictures = asyncio.run(ask())
    assert answers == pytest.approx(expected, abs=1e-5)
    assert len(set(pictures)) == 6, "in parts of max_batch_size, and each cell its own"


def test_callers_of_a_check_share_one_run(bundle: Path, monkeypatch):
    runs: list[bool] = []
    works = True

    async def check(self: LocalNetwork) -> None:
        runs.append(works)
        await asyncio.sleep(0.05)
        if not works:
            raise RuntimeError("the network gives no number")

    monkeypatch.setattr(LocalNetwork, "check", check)

    async def ask() -> None:
        nonlocal works
        models = models_from(bundle)
        await models.start()
        await asyncio.gather(*(models.check() for _ in range(10)))
        await models.check()
        assert runs == [True], "one run, and its success holds for a while"
        monkeypatch.setattr(models_module, "_CHECK_SECONDS", 0)
        works = False
        failed = await asyncio.gather(*(models.check() for _ in range(3)), return_exceptions=True)
        assert runs == [True, False]
        assert [str(error) for error in failed] == ["the network gives no number"] * 3
        works = True
        await models.check()
        assert runs == [True, False, True], "a failure is not kept"

    asyncio.run(ask())


def test_a_network_without_a_number_answers_nobody(tmp_path: Path):
    path = write_small_bundle(tmp_path / "small")
    with client_of(path) as client:
        runner = client.portal.call(models_of(client).get, "small")
        for parameter in runner.network.classifier.model.parameters():
            parameter.data.fill_(float("nan"))
        answer = client.post("/v1/predict", content=encode(cells(1)[0]))
        assert (answer.status_code, answer.json()["reason"]) == (500, "no_number")
        (item,) = runner.network.classifier.predict([("cell.png", encode(cells(1)[0]))])
    assert item.as_dict() == {"name": "cell.png", "error": "the network gives no number"}


def test_the_openapi_document_and_the_page_are_served(client):
    document = client.get("/openapi.json").json()
    operation = document["paths"]["/v1/predict"]["post"]
    assert set(operation["requestBody"]["content"]) == {"multipart/form-data", "image/*"}
    assert "application/problem+json" in operation["responses"]["415"]["content"]
    page = client.get("/")
    assert "script-src 'unsafe-inline'" in page.headers["content-security-policy"]
    assert "http://" not in page.text.replace("http://www.w3.org", "")
    assert "https://" not in page.text


def v2_request(files: list[bytes]) -> dict:
    data = [base64.b64encode(file).decode() for file in files]
    tensor = {"name": "image", "shape": [len(files)], "datatype": "BYTES", "data": data}
    return {"id": "7", "inputs": [tensor]}


def test_v2_speaks_binary_tensors(client):
    file = encode(cells(1)[0])
    tensor = struct.pack("<I", len(file)) + file
    head = json.dumps({
        "inputs": [{"name": "image", "shape": [1], "datatype": "BYTES",
                    "parameters": {"binary_data_size": len(tensor)}}],
        "outputs": [{"name": "label", "parameters": {"binary_data": True}},
                    {"name": "probability", "parameters": {"binary_data": True}}],
    }).encode()  # fmt: skip
    length = {"Inference-Header-Content-Length": str(len(head))}
    answer = client.post("/v2/models/small/infer", content=head + tensor, headers=length)
    size = int(answer.headers["inference-header-content-length"])
    document, tail = json.loads(answer.content[:size]), answer.content[size:]
    label, probability = document["outputs"]
    assert tail[4 : label["parameters"]["binary_data_size"]].decode() in ("ALL", "healthy")
    assert len(tail) == label["parameters"]["binary_data_size"] + 4
    (value,) = struct.unpack("<f", tail[-4:])
    plain = client.post("/v2/models/small/infer", json=v2_request([file])).json()
    assert plain["outputs"][0]["data"] == [pytest.approx(value, abs=1e-6)]
    assert (plain["id"], plain["model_name"]) == ("7", "small")
    assert probability["shape"] == [1]


@pytest.mark.parametrize(
    "change",
    [
        {"inputs": []},
        {"inputs": [{"name": "pixels", "shape": [1], "datatype": "BYTES", "data": ["eA=="]}]},
        {"inputs": [{"name": "image", "shape": [1], "datatype": "FP32", "data": [1.0]}]},
        {"inputs": [{"name": "image", "shape": [2], "datatype": "BYTES", "data": ["eA=="]}]},
        {"inputs": [{"name": "image", "shape": [1], "datatype": "BYTES", "data": ["%"]}]},
        {"inputs": [{"name": "image", "shape": [1], "datatype": "BYTES", "data": ["eA=="]}]},
        {"inputs": [{"name": "image", "shape": [0], "datatype": "BYTES", "data": []}]},
        {"inputs": [{"name": "image", "shape": [1], "datatype": "BYTES",
                     "parameters": {"binary_data_size": 9}}]},
        {"outputs": [{"name": "nothing"}]},
        {"outputs": ["probability"]},
        {"outputs": 3 * [{"name": "label"}]},
    ],
)  # fmt: skip
def test_v2_refuses_what_it_cannot_read(client, change: dict):
    request = v2_request([encode(cells(1)[0])]) | change
    answer = client.post("/v2/models/small/infer", json=request)
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]


@pytest.mark.parametrize("tail", [b"\x01", b"\xff\xff\xff\xff", b"\x05\x00\x00\x00abc"])
def test_v2_refuses_broken_binary_tensors(client, tail: bytes):
    tensor = {"name": "image", "shape": [1], "datatype": "BYTES"}
    head = json.dumps(
        {"inputs": [tensor | {"parameters": {"binary_data_size": len(tail)}}]}
    ).encode()
    length = {"Inference-Header-Content-Length": str(len(head))}
    answer = client.post("/v2/models/small/infer", content=head + tail, headers=length)
    assert answer.status_code == 400


def test_v2_tells_what_there_is(client):
    assert client.get("/v2/health/ready").json() == {"ready": True}
    assert client.get("/v2").json()["name"] == "leuk_ray"
    model = client.get("/v2/models/small").json()
    assert model["inputs"] == [{"name": "image", "datatype": "BYTES", "shape": [-1]}]
    version = model["versions"][0]
    assert client.get(f"/v2/models/small/versions/{version}/ready").json()["ready"]
    assert client.get("/v2/models/small/versions/none/ready").status_code == 404


def test_a_registry_answers_by_name_version_and_alias_and_follows_its_champion(tmp_path: Path):
    registry = Registry(tmp_path / "registry")
    for seed in (1, 2):
        registry.add(write_small_bundle(tmp_path / f"b{seed}", seed=seed), "one")
    registry.add(write_small_bundle(tmp_path / "b3", seed=3), "two")
    registry.promote("one", 1)
    cell = encode(cells(1)[0])
    with client_of(registry.path, max_models=2) as client:

        def version(query: str = "") -> str:
            answer = client.post(f"/v1/predict{query}", content=cell)
            assert answer.status_code == 200, answer.text
            return answer.json()["model"]["version"]

        assert version() == "1"
        assert version("?model=one@2") == "2"
        assert client.post("/v1/predict?model=two", content=cell).status_code == 404
        assert version("?model=two@1") == "1"
        registry.promote("one", 2)
        seen = set()
        for _ in range(200):
            seen.add(version())
            if "2" in seen:
                break
        assert "2" in seen, "a promotion is followed without a restart"
        registry.promote("two", 1)
        client.portal.call(models_of(client)._resolved.clear)
        refused = client.post("/v1/predict", content=cell)
        assert refused.status_code == 422
        assert "one, two" in refused.json()["detail"]


def registry_of(folder: Path, *names: str) -> Registry:
    registry = Registry(folder / "registry")
    for seed, name in enumerate(names):
        registry.add(write_small_bundle(folder / name, seed=seed), name)
        registry.promote(name, 1)
    return registry


def test_listing_loads_nothing_and_leaves_a_broken_model_out(tmp_path: Path):
    registry = registry_of(tmp_path, "a", "b", "c")
    with client_of(registry.path, max_models=1) as client:
        client.portal.call(models_of(client).start)
        (registry.path / "b" / "versions" / "1" / "bundle.json").write_text("{}")
        answer = client.get("/v1/models")
        assert answer.status_code == 200, answer.text
        listed = ModelsOut(**answer.json()).models
        assert [(model.name, model.info.engine) for model in listed] == [
            ("a", "pytorch"), ("c", None),
        ]  # fmt: skip
        assert len(models_of(client)._loaded) == 1
        client.post("/v1/predict?model=c", content=encode(cells(1)[0]))
        again = ModelsOut(**client.get("/v1/models").json()).models
    assert [model.info.engine for model in again] == [None, "pytorch"]
    assert [model.info.fingerprint for model in again] == [m.info.fingerprint for m in listed]


def test_models_load_one_at_a_time(tmp_path: Path, monkeypatch):
    registry = registry_of(tmp_path, "a", "b", "c")
    busy = threading.Lock()
    load = LocalNetwork.__init__

    def alone_or_fail(self: LocalNetwork, *args) -> None:
        assert busy.acquire(blocking=False), "two loads at once"
        time.sleep(0.05)  # time for the others to begin
        load(self, *args)
        busy.release()

    monkeypatch.setattr(LocalNetwork, "__init__", alone_or_fail)

    async def ask() -> None:
        models = models_from(registry.path, max_models=2)
        found = await asyncio.gather(*(models.get(name) for name in ("a", "b", "c", "a")))
        assert [runner.info.name for runner in found] == ["a", "b", "c", "a"]
        assert len(models._loaded) == 2

    asyncio.run(ask())


def test_no_path_of_the_server_is_told(tmp_path: Path, caplog):
    registry = registry_of(tmp_path, "a", "b")
    with client_of(registry.path) as client:
        weights = registry.path / "a" / "versions" / "1" / "model.safetensors"
        weights.write_bytes(weights.read_bytes()[:-1])
        broken = client.post("/v1/predict?model=a", content=b"x")
        absent = [client.post(f"/v1/predict?model={name}", content=b"x") for name in (
            "none", "b@none", "b@01", "b@" + "1" * 150, "b@%C2%B2",
        )]  # fmt: skip
    assert (broken.status_code, broken.json()["detail"]) == (503, "a@1 cannot be loaded")
    for answer in absent:
        assert answer.status_code == 404, answer.text
        assert answer.json()["detail"] == "no such model here; see /v1/models"
    assert str(tmp_path) in caplog.text, "the log knows why"


def test_a_length_that_is_no_length_is_refused(client):
    for length in ("1" * 5000, "-1", "\u00b2".encode()):
        answer = client.post(
            "/v2/models/small/infer", content=b"{}",
            headers={"Inference-Header-Content-Length": length},
        )  # fmt: skip
        assert answer.status_code == 400, answer.text


def models_of(client: TestClient) -> Models:
    return client.app.state.models


def test_what_is_no_model_is_refused_before_anything_starts(tmp_path: Path):
    with pytest.raises(UserError, match="nor a registry"):
        client_of(tmp_path)
    Registry(tmp_path / "registry").add(write_small_bundle(tmp_path / "b"), "one")
    with pytest.raises(UserError, match="no model has a champion"):
        client_of(tmp_path / "registry")
