"""What is broken on our side of the HTTP contract: told, and kept to where it is."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from leuk_ray.bundles.registry import Registry
from leuk_ray.inference.check import check_answers
from leuk_ray.inference.classifier import Classifier, Scores
from leuk_ray.serving.keys import ApiKeys
from tests.support.serving_bundles import cells, client_of, encode, write_small_bundle

CELLS = [encode(pixels) for pixels in cells(3)]


def test_a_cell_without_a_number_is_an_item(tmp_path: Path, monkeypatch):
    score = Classifier.score

    def broken_for_bright(self: Classifier, pixels: np.ndarray) -> Scores:
        scores = score(self, pixels)
        scores.probabilities[pixels.max(axis=(1, 2, 3)) == 255] = np.nan
        return scores

    monkeypatch.setattr(Classifier, "score", broken_for_bright)
    marked = cells(1)[0]
    marked[200:250, 200:250] = 255
    files = [("a.png", CELLS[0]), ("b.png", encode(marked)), ("c.png", CELLS[1])]
    with client_of(write_small_bundle(tmp_path / "small")) as client:
        upload = [("file", file) for file in files]
        answer = client.post("/v1/predict?explain=true", files=upload, data={"subject": "S1"})
        assert answer.status_code == 200, answer.text
        first, second, third = answer.json()["predictions"]
        assert second == {"name": "b.png", "error": "the model output is not finite"}
        assert all("explanation" in item for item in (first, third))
        assert answer.json()["subject"]["cells"] == 3
        alone_in_it = client.post("/v1/predict", content=files[1][1])
    assert alone_in_it.status_code == 500
    assert alone_in_it.json()["reason"] == "no_number"


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    registry = Registry(tmp_path / "registry", check_answers)
    for seed, name in enumerate(("one", "two")):
        registry.add(write_small_bundle(tmp_path / name, seed=seed), name)
        registry.promote(name, 1)
    return registry


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"versions": 3}', b"\xff\xfe"])
def test_a_broken_registry_file_is_told_and_leaves_the_other_names(content, registry, caplog):
    with client_of(registry.path) as client:
        (registry.path / "two" / "registry.json").write_bytes(content)
        listed = client.get("/v1/models")
        assert listed.status_code == 200, listed.text
        assert [model["name"] for model in listed.json()["models"]] == ["one"]
        assert listed.json()["broken"] == ["two"]
        assert listed.json()["default"] is None, "the one left is not asked in the other's place"
        unnamed = client.post("/v1/predict", content=CELLS[0])
        broken = client.post("/v1/predict?model=two", content=CELLS[0])
        unknown = [
            client.post(f"/v1/predict?model={name}", content=CELLS[0])
            for name in ("three", "one@7", "one@none", "no such name")
        ]
        whole = client.post("/v1/predict?model=one", content=CELLS[0])
        (registry.path / "one" / "registry.json").unlink()
        (registry.path / "two" / "registry.json").unlink()
        registry.path.rename(registry.path.with_name("gone"))
        gone = client.get("/v1/models")
        lost = client.post("/v1/predict?model=three", content=CELLS[0])
    assert (unnamed.status_code, whole.status_code) == (422, 200)
    assert {(answer.status_code, answer.json()["reason"]) for answer in unknown} == {
        (404, "no_model")
    }
    assert (broken.status_code, broken.json()["reason"]) == (503, "broken_model")
    assert broken.json()["detail"] == "two cannot be read; see the service's log"
    assert (gone.status_code, gone.json()["reason"]) == (503, "no_registry")
    assert (lost.status_code, lost.json()["reason"]) == (503, "storage"), "the name may be there"
    assert str(registry.path) in caplog.text, "the log knows where"


def test_the_docs_need_no_key_and_no_other_host(tmp_path: Path):
    path = tmp_path / "keys"
    path.write_text(f"lab {'0' * 64}\n")
    with client_of(write_small_bundle(tmp_path / "small"), keys=ApiKeys(path)) as client:
        page = client.get("/docs")
        assert page.status_code == 200
        assert "//" not in page.text.replace("<!DOCTYPE html>", "").replace("</", "")
        for part in ("docs/swagger-ui-bundle.js", "docs/swagger-ui.css"):
            assert part in page.text
            assert client.get(f"/{part}").status_code == 200
        assert client.get("/docs/../../../etc/passwd").status_code in (401, 404)
        document = client.get("/openapi.json").json()
    assert document["components"]["securitySchemes"]["APIKeyHeader"]["name"] == "X-API-Key"
    schemas = document["components"]["schemas"]
    for name in ("PredictOut", "PredictionOut"):
        assert schemas[name]["examples"]
    answers = document["paths"]["/v1/predict"]["post"]["responses"]
    assert answers["415"]["content"]["application/problem+json"]["schema"]["examples"]
    v2 = document["paths"]["/v2/models/{name}/infer"]["post"]["requestBody"]["content"]
    assert v2["application/json"]["example"]["inputs"]
