"""The HTTP contract, on the application itself; a real Ray Serve is an integration test."""

import asyncio
import base64
import io
import json
import re
import struct
import time
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from PIL import Image

from leuk_ray.cli.main import cli
from leuk_ray.evaluation.subjects import per_subject
from leuk_ray.inference.classifier import Cell, Classifier
from leuk_ray.inference.predictions import Prediction
from leuk_ray.serving.schemas import ModelsOut, PredictionOut, PredictOut
from leuk_ray.serving.settings import Limits
from leuk_ray.workflows.predict import predict_to_table
from tests.support.serving_bundles import (
    SIZE,
    cells,
    client_of,
    encode,
    models_from,
    network_here,
    predictions,
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
            "probability": pytest.approx(theirs.probability, abs=1e-5),
            "probabilities": pytest.approx(theirs.probabilities, abs=1e-5),
        }
        alone = client.post("/v1/predict", content=files[i][1]).json()["predictions"][0]
        assert alone["probability"] == pytest.approx(theirs.probability, abs=1e-5)
        assert probabilities[i] == pytest.approx(theirs.probability, abs=1e-5)
    assert len({p.model_dump()["probability"] for p in body.predictions}) > 1


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


def test_nothing_that_is_sent_is_passed_over(client):
    """A part or parameter of another name is told with the near one; none answers for the rest."""
    image = encode(cells(1)[0])
    cell, other = ("file", ("a.png", image)), ("b.png", image)
    post = partial(client.post, "/v1/predict")
    for answer, words in (
        (
            post(files=[cell, ("file2", other)]),
            "no form part is called `file2`; did you mean `file`",
        ),
        (
            post(files=[cell, ("image", other)]),
            "no form part is called `image`; there are file, su",
        ),
        (post(files=[cell], data={"subjct": "S1"}), "`subjct`; did you mean `subject`?"),
        (post(files=[cell, ("file", (None, b"cell.bmp"))]), "curl sends one by -F file=@cell.bmp"),
        (post(files=[cell], data={"subject": ["S1", "S2"]}), "`subject` is given twice"),
        (post(content=image, params={"modle": "x"}), "`modle`; did you mean `model`?"),
        (post(content=image, params={"subject": "S1"}), "no query parameter is called `subject`"),
        (post(content=image, params={"model": ["a", "b"]}), "`model` is given twice"),
        (client.get("/v1/models?model=x"), "no query parameter is called `model`"),
    ):
        assert (answer.status_code, words in answer.json()["detail"]) == (422, True), answer.text
    assert (
        len(post(files=[cell, ("file", other)], data={"subject": "S"}).json()["predictions"]) == 2
    )


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
    names = ("subject", "cells", "answered", "called_positive")
    assert [subject[name] for name in names] == ["S1", 4, 3, 3]
    # Clopper-Pearson for 3 of 3: the lower end is 0.025 ** (1 / 3).
    assert subject["called_share_low"] == pytest.approx(0.025 ** (1 / 3))
    assert (subject["called_share"], subject["called_share_high"]) == (1.0, 1.0)
    assert too_long.status_code == 422


def test_table_service_and_report_count_a_subject_alike(tmp_path: Path):
    """Unreadable and unanswered cells among the cells, neither among the answered."""
    pixels = cells(8)
    plain = Classifier.load(write_small_bundle(tmp_path / "plain"))
    answers = plain.predict([(str(n), encode(image)) for n, image in enumerate(pixels)])
    stated = np.asarray([one.probability for one in predictions(answers)], float)
    threshold, band = float(np.median(stated)), tuple(np.quantile(stated, (0.2, 0.8)).tolist())
    bundle = write_small_bundle(tmp_path / "small", threshold=threshold, abstain_band=band)
    folder = tmp_path / "images"
    folder.mkdir()
    for number, image in enumerate(pixels):
        (folder / f"S1_{number}.png").write_bytes(encode(image))
    (folder / "S1_broken.png").write_bytes(b"no image")
    (folder / "S1_bytes.png").write_bytes(encode(pixels[0]))
    Image.fromarray(pixels[1]).save(folder / "S1_pixels.bmp")
    files = [(path.name, path.read_bytes()) for path in sorted(folder.iterdir())]
    with client_of(bundle) as client:
        answer = client.post("/v1/predict", files=upload(*files), data={"subject": "S1"}).json()
    served = {
        key: value
        for key, value in answer["subject"].items()
        if key not in ("subject", "differential")
    }
    assert sum(row["cells"] for row in answer["subject"]["differential"]) == served["answered"]
    assert (served["cells"], served["answered"], served["copies"]) == (9, 4, 2)
    out = tmp_path / "answers.parquet"
    predict_to_table(bundle, [folder], out, subject="(S[0-9]+)_")
    (row,) = pq.read_table(tmp_path / "answers-subjects.parquet").to_pylist()
    assert row.pop("subject") == "S1"
    assert served.pop("blast_percentage") is None  # the bundle is not calibrated
    assert [row.pop(f"blast_percentage{end}") for end in ("", "_low", "_high")] == [None] * 3
    assert row == pytest.approx(served)
    table = pq.read_table(out).filter(pc.field("error").is_null())
    original = [re.search("_[0-9]", name) is not None for name in table["name"].to_pylist()]
    table = table.filter(pa.array(original))  # without copies
    scored = pa.table(
        {
            "uid": table["name"],
            "probability": table["probability"],
            "logit": table["probability"],
            **{name: ["S1"] * 8 for name in ("subject", "group", "role")},
            "label": [1] * 8,
        }
    )
    (reported,) = per_subject(scored, threshold, band)
    assert reported["cells"] == 8  # a file that is no image is no cell of a dataset
    assert (reported["answered"], reported["called_all"]) == (
        row["answered"],
        row["called_positive"],
    )
    assert reported["correct"] == reported["called_all"]
    shares = (reported["blast_fraction"], reported["blast_low"], reported["blast_high"])
    assert shares == pytest.approx([row[f"called_share{end}"] for end in ("", "_low", "_high")])


def test_near_the_threshold_there_is_no_answer(tmp_path: Path):
    unsure = write_small_bundle(tmp_path / "small", abstain_band=(0.0, 1.0))
    with client_of(unsure) as client:
        item = client.post("/v1/predict", content=encode(cells(1)[0])).json()["predictions"][0]
    assert (item["label"], item["reasons"]) == ("abstain", ["near_threshold"])


def test_an_explanation_is_that_of_the_command(client, bundle: Path, tmp_path: Path):
    pixels = cells(3)
    names = [f"{number}.png" for number in range(3)]
    for name, cell in zip(names, pixels, strict=True):
        (tmp_path / name).write_bytes(encode(cell))
    files = [(name, (tmp_path / name).read_bytes()) for name in names]
    answer = client.post("/v1/predict?explain=true", files=upload(*files)).json()
    served = PredictOut(**answer).predictions
    command = ["explain", str(bundle), *(str(tmp_path / name) for name in names)]
    done = CliRunner().invoke(cli, [*command, "--out", str(tmp_path / "why"), "--json"])
    for ours, theirs in zip(served, json.loads(done.output)["explanations"], strict=True):
        assert isinstance(ours, PredictionOut)
        assert ours.explanation is not None
        explained = ours.explanation.model_dump()
        scheme, _, data = explained.pop("picture").partition(",")
        drawn = theirs["explanation"].pop("picture")
        assert explained == pytest.approx(theirs["explanation"], abs=1e-5)
        assert (explained["method"], explained["toward"]) == ("hirescam", ours.label)
        assert 0 < explained["evidence_share"] <= 1
        assert 0 < explained["cell_area"] < 1
        assert scheme == "data:image/png;base64"
        with (
            Image.open(io.BytesIO(base64.b64decode(data))) as picture,
            Image.open(tmp_path / "why" / drawn) as beside,
        ):
            assert picture.size == (SIZE, SIZE)
            assert np.array_equal(np.asarray(picture), np.asarray(beside)[:, SIZE:])


def test_explaining_beside_scoring_leaves_every_cell_its_own_probability(bundle: Path):
    files = [(f"{i}.png", encode(pixels)) for i, pixels in enumerate(cells(6))]
    expected = [p.probability for p in predictions(Classifier.load(bundle).predict(files))]
    assert len(set(expected)) == 6

    async def ask() -> tuple[list[float | None], list[dict]]:
        runner = await models_from(bundle, max_batch_size=4).get("small")
        network = network_here(runner).classifier.model
        network.get_submodule("feature_map").register_forward_pre_hook(
            lambda *_: time.sleep(0.02)
        )  # passes overlap
        read = [cell for cell in await runner.read(files, "lab") if isinstance(cell, Cell)]
        answers, explained = await asyncio.gather(runner.answer(read), runner.explain(read))
        return [answer.probability for answer in predictions(answers)], explained

    answers, explained = asyncio.run(ask())
    assert answers == pytest.approx(expected, abs=1e-5)
    assert len({item["picture"] for item in explained}) == 6, (
        "in parts of max_batch_size, and each cell its own"
    )


def test_the_openapi_document_and_the_page_are_served(client):
    document = client.get("/openapi.json").json()
    operation = document["paths"]["/v1/predict"]["post"]
    assert set(operation["requestBody"]["content"]) == {"multipart/form-data", "image/*"}
    assert "application/problem+json" in operation["responses"]["415"]["content"]
    page = client.get("/")
    for path in ("/", "/docs"):
        policy = client.get(path).headers["content-security-policy"]
        assert "script-src 'self' 'sha256-" in policy
        assert "'unsafe-inline'" not in policy
    example = document["paths"]["/v2/models/{name}/infer"]["post"]["requestBody"]["content"]
    answer = client.post("/v2/models/small/infer", json=example["application/json"]["example"])
    assert answer.status_code == 200, answer.text
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
        {"outputs": 4 * [{"name": "label"}]},
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


def test_a_length_that_is_no_length_is_refused(client):
    for length in ("1" * 5000, "-1", "\u00b2".encode()):
        answer = client.post(
            "/v2/models/small/infer", content=b"{}",
            headers={"Inference-Header-Content-Length": length},
        )  # fmt: skip
        assert answer.status_code == 400, answer.text
