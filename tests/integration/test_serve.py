"""The service on a real Ray Serve: parity, keys, bad input, overload, a client not ours."""

from __future__ import annotations

import hashlib
import json
import re
import socket
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import ray
import requests
import tritonclient.http as triton
from ray import serve

from leuk_ray.bundles.registry import Registry
from leuk_ray.inference.check import check_answers
from leuk_ray.inference.classifier import Classifier
from leuk_ray.inference.onnx_export import export_bundle
from leuk_ray.inference.predictions import Prediction
from leuk_ray.serving.app import build
from leuk_ray.utils.errors import UserError
from tests.support.serving_bundles import cells, encode, write_small_bundle

# The client of the protocol writes into the headers it is given: it gets copies.
KEY = {"X-API-Key": "secret"}
FORMATS = ("BMP", "PNG", "JPEG", "TIFF")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("serve")
    export_bundle(write_small_bundle(folder / "plain"), folder / "small", onnx=True)
    return folder / "small"


@pytest.fixture(scope="module")
def keys(bundle: Path) -> Path:
    path = bundle.parent / "keys"
    path.write_text(f"lab {hashlib.sha256(b'secret').hexdigest()}\n")
    return path


@pytest.fixture(scope="module")
def url(bundle: Path, keys: Path):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    serve.start(http_options={"host": "127.0.0.1", "port": port})
    limits = {"in_flight": 8, "body_bytes": 2**22, "receive_seconds": 3}
    args = {"bundle": str(bundle), "api_keys": str(keys), "num_cpus": 1, "limits": limits}
    serve.run(build(args), name="test", route_prefix="/")
    yield f"http://127.0.0.1:{port}"
    serve.shutdown()


def predict(url: str, data: bytes, **query: str) -> requests.Response:
    return requests.post(f"{url}/v1/predict", data=data, headers=KEY, params=query, timeout=30)


def test_the_same_bytes_give_the_same_probability_over_http_and_v2(url: str, bundle: Path):
    pixels = cells(3)
    files = [(f"{i}.{kind}", encode(p, kind)) for i, p in enumerate(pixels) for kind in FORMATS]
    eager = Classifier.load(bundle, engine="pytorch").predict(files)
    exported = Classifier.load(bundle).predict(files)
    upload = [("file", file) for file in files]
    answer = requests.post(f"{url}/v1/predict", files=upload, headers=KEY, timeout=30).json()
    client = triton.InferenceServerClient(url.removeprefix("http://"))
    tensor = triton.InferInput("image", [len(files)], "BYTES")
    tensor.set_data_from_numpy(np.asarray([data for _, data in files], np.object_))
    inferred = client.infer("small", [tensor], headers=dict(KEY))
    probabilities, labels = inferred.as_numpy("probability"), inferred.as_numpy("label")
    assert probabilities is not None
    assert labels is not None
    assert answer["model"]["engine"] == "onnx"
    for i, (reference, engine) in enumerate(zip(eager, exported, strict=True)):
        assert isinstance(reference, Prediction)
        assert isinstance(engine, Prediction)
        item = answer["predictions"][i]
        assert item["probability"] == pytest.approx(engine.probability, abs=1e-5)
        assert item["probability"] == pytest.approx(reference.probability, abs=1e-4)
        assert item["sha256"] == hashlib.sha256(files[i][1]).hexdigest()
        assert probabilities[i] == pytest.approx(engine.probability, abs=1e-5)
        assert labels[i].decode() == item["label"] == engine.label


def test_a_client_of_the_protocol_sees_the_model_and_its_own_mistakes(url: str):
    client = triton.InferenceServerClient(url.removeprefix("http://"))
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("small", headers=dict(KEY))
    assert (
        client.get_model_metadata("small", headers=dict(KEY))["outputs"][0]["name"] == "probability"
    )
    tensor = triton.InferInput("image", [1], "BYTES")
    tensor.set_data_from_numpy(np.asarray([b"no image"], np.object_))
    with pytest.raises(triton.InferenceServerException, match="not_an_image"):
        client.infer("small", [tensor], headers=dict(KEY))
    with pytest.raises(triton.InferenceServerException, match="X-API-Key"):
        client.infer("small", [tensor])


def test_images_of_many_requests_share_forward_passes_and_keep_their_answers(url: str):
    files = [encode(pixels) for pixels in cells(6)]
    one_by_one = [predict(url, data).json()["predictions"][0] for data in files]
    assert len({item["probability"] for item in one_by_one}) == 6
    with ThreadPoolExecutor(6) as pool:
        together = list(pool.map(lambda i: predict(url, files[i % 6]).json(), range(60)))
    for i, answer in enumerate(together):
        item = answer["predictions"][0]
        assert item["sha256"] == one_by_one[i % 6]["sha256"]
        assert item["probability"] == pytest.approx(one_by_one[i % 6]["probability"], abs=1e-5)


def test_keys_are_required_and_can_be_changed_while_it_runs(url: str, keys: Path):
    data = encode(cells(1)[0])
    refused = requests.post(f"{url}/v1/predict", data=data, timeout=30)
    assert refused.status_code == 401
    assert refused.headers["content-type"] == "application/problem+json"
    assert requests.get(f"{url}/readyz", timeout=30).status_code == 200
    before = keys.read_text()
    keys.write_text(before + f"clinic {hashlib.sha256(b'second').hexdigest()}\n")
    time.sleep(1.1)
    second = {"X-API-Key": "second"}
    answer = requests.post(f"{url}/v1/predict", data=data, headers=second, timeout=30)
    assert answer.status_code == 200
    keys.write_text(before)
    time.sleep(1.1)
    answer = requests.post(f"{url}/v1/predict", data=data, headers=second, timeout=30)
    assert answer.status_code == 401


def test_explanations_load_pytorch_beside_onnx(url: str):
    answer = predict(url, encode(cells(1)[0]), explain="true").json()
    explanation = answer["predictions"][0]["explanation"]
    assert explanation["picture"].startswith("data:image/png;base64,")


def broken_bodies(count: int) -> list[bytes]:
    """Mutated, cut and joined image files, and noise."""
    generator = np.random.default_rng(0)
    whole = [encode(pixels[100:200, 100:200], kind) for pixels in cells(2) for kind in FORMATS]
    bodies = []
    for i in range(count):
        data = bytearray(whole[i % len(whole)])
        for place in generator.integers(0, len(data), int(generator.integers(1, 30))):
            data[place] = int(generator.integers(256))
        bodies += [bytes(data[: generator.integers(1, len(data))] if i % 2 else data)]
    return [*bodies, b"", b"<svg/>", b"%PDF-1.4", bytes(100_000), whole[0] + b"<html>"]


@pytest.mark.timeout(120)
def test_no_body_makes_it_fail_and_the_next_good_one_is_answered(url: str):
    bodies = broken_bodies(300)
    with ThreadPoolExecutor(4) as pool:
        statuses = Counter(pool.map(lambda body: predict(url, body).status_code, bodies))
    assert set(statuses) <= {200, 413, 415, 422}, statuses
    assert statuses[415] + statuses[422] > 100
    too_large = predict(url, bytes(2**22 + 1))
    assert too_large.status_code == 413
    host, port = url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=20) as slow:
        slow.sendall(
            b"POST /v1/predict HTTP/1.1\r\nHost: x\r\nX-API-Key: secret\r\n"
            b"Content-Length: 1000\r\n\r\nab"
        )
        assert b"408" in slow.recv(4096).split(b"\r\n")[0]
    assert predict(url, encode(cells(1)[0])).status_code == 200


@pytest.mark.timeout(120)
def test_overload_is_told_with_the_time_to_come_back(url: str):
    data = encode(cells(1)[0])
    with ThreadPoolExecutor(48) as pool:
        answers = list(pool.map(lambda _: predict(url, data), range(240)))
    statuses = Counter(answer.status_code for answer in answers)
    assert set(statuses) == {200, 503}, statuses
    refused = [answer for answer in answers if answer.status_code == 503]
    assert refused
    for answer in refused:
        assert answer.headers["retry-after"] == "1"
        assert answer.headers["content-type"] == "application/problem+json"
    assert predict(url, data).status_code == 200


@pytest.mark.timeout(180)
def test_in_two_deployments_it_answers_the_same(url: str, bundle: Path, tmp_path: Path):
    """Parsing and decoding apart from the networks, with a canary and a shadow."""
    registry = Registry(tmp_path / "registry", check_answers)
    registry.add(bundle, "small")
    registry.add(write_small_bundle(tmp_path / "second", seed=2), "small")
    registry.promote("small", 1)
    args = {
        "bundle": str(registry.path), "anonymous": True, "split": True,
        "canaries": {"small@2": 0.5}, "shadows": ("small@2",), "limits": {"in_flight": 8},
    }  # fmt: skip
    serve.run(build(args), name="split", route_prefix="/split")
    deployments = serve.status().applications["split"].deployments
    assert set(deployments) == {"Classify", "Predict"}
    place = f"{url}/split"
    files = [(f"{i}.{kind}", encode(p, kind)) for i, p in enumerate(cells(2)) for kind in FORMATS]
    answers: dict[str, dict] = {}
    for number in range(12):
        answer = requests.post(
            f"{place}/v1/predict", files=[("file", file) for file in files],
            headers={"X-Request-ID": f"r{number}"}, timeout=30,
        )  # fmt: skip
        assert answer.status_code == 200, answer.text
        answers[answer.json()["model"]["version"]] = answer.json()
    assert set(answers) == {"1", "2"}
    for version, answer in answers.items():
        expected = Classifier.load(registry.resolve(f"small@{version}")).predict(files)
        for item, reference in zip(answer["predictions"], expected, strict=True):
            assert isinstance(reference, Prediction)
            assert item["label"] == reference.label
            assert item["probability"] == pytest.approx(reference.probability, abs=1e-5)
    client = triton.InferenceServerClient(f"{place.removeprefix('http://')}")
    tensor = triton.InferInput("image", [len(files)], "BYTES")
    tensor.set_data_from_numpy(np.asarray([data for _, data in files], np.object_))
    inferred = client.infer("small", [tensor], model_version="1").as_numpy("probability")
    assert inferred is not None
    assert inferred.tolist() == pytest.approx(
        [item["probability"] for item in answers["1"]["predictions"]], abs=1e-5
    )
    explained = requests.post(
        f"{place}/v1/predict?explain=true", data=files[0][1], timeout=60
    ).json()
    explanation = explained["predictions"][0]["explanation"]
    assert explanation["picture"].startswith("data:image/png;base64,")
    assert requests.get(f"{place}/readyz", timeout=30).ok
    assert requests.get(f"{place}/healthz", timeout=30).ok
    with ThreadPoolExecutor(32) as pool:
        pressed = list(pool.map(
            lambda _: requests.post(f"{place}/v1/predict", data=files[0][1], timeout=30), range(96)
        ))  # fmt: skip
    assert {answer.status_code for answer in pressed} <= {200, 503}
    for answer in pressed:
        if answer.status_code == 503:
            assert answer.headers["content-type"] == "application/problem+json"
            assert answer.headers["retry-after"] == "1"
    serve.delete("split")


def test_settings_and_bundles_that_cannot_work_are_refused_by_the_driver(bundle: Path, tmp_path):
    for args, message in (
        ({"bundle": str(bundle)}, "name a file of keys"),
        ({"bundle": str(tmp_path), "anonymous": True}, "nor a registry"),
        ({"bundle": str(bundle), "api_keys": str(tmp_path / "none")}, "cannot be read"),
        ({"bundle": str(bundle), "anonymous": True, "max_batchsize": 3}, "max_batchsize"),
    ):
        with pytest.raises(UserError, match=message):
            build(args)


@pytest.mark.timeout(150)
def test_what_it_counts_is_exported(url: str):
    """All but what takes a calibrated bundle, which tests/newcomer has, a shadow, or a failure."""
    listed = json.loads(
        Path(__file__).parents[1].joinpath("support", "metrics_of_service.json").read_text()
    )
    wanted = {
        name for name in listed if not re.search("drift|abstained|shadow|broken|guarantee", name)
    }
    assert predict(url, encode(cells(1)[0])).status_code == 200
    assert predict(url, b"no image").status_code == 415
    seen: set[str] = set()
    deadline = time.monotonic() + 40
    while not wanted <= seen and time.monotonic() < deadline:
        time.sleep(1)
        for node in ray.nodes():
            address = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
            text = requests.get(address, timeout=10).text
            seen |= set(re.findall(r"^(ray_leuk_ray_\w+)\{", text, re.MULTILINE))
    assert wanted - seen == set()
