"""A bundle of eight classes over HTTP: the same probabilities by every way, and the page."""

from __future__ import annotations

import base64
from pathlib import Path

import numpy as np
import pytest

from leuk_ray.inference.classifier import Classifier
from leuk_ray.inference.predictions import Prediction
from leuk_ray.serving.schemas import ModelsOut, PredictOut
from tests.support.chromium import find_chromium, open_page
from tests.support.serving_bundles import cells, client_of, encode, listening, write_small_bundle

NAMES = ("basophil", "blast cell", "erythroblast", "granulocyte", "lymphocyte", "Größe M", "n", "p")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("classes") / "eight"
    return write_small_bundle(
        path, schema_version=2, classes=NAMES, positive=("blast cell",), min_confidence=0.12
    )


@pytest.fixture(scope="module")
def expected(bundle: Path) -> list[Prediction]:
    found = Classifier.load(bundle).predict(files())
    answers = [answer for answer in found if isinstance(answer, Prediction)]
    assert len(answers) == len(found)
    return answers


def files() -> list[tuple[str, bytes]]:
    return [(f"{number}.png", encode(pixels)) for number, pixels in enumerate(cells(4))]


def test_both_protocols_give_the_probabilities_of_the_classifier(bundle, expected):
    parts = [("file", (name, data, "image/png")) for name, data in files()]
    tensor = [base64.b64encode(data).decode() for _, data in files()]
    with client_of(bundle) as client:
        answer = client.post("/v1/predict", files=parts, data={"subject": "S 1"}).json()
        body = PredictOut(**answer)
        request = {"name": "image", "shape": [4], "datatype": "BYTES", "data": tensor}
        v2 = client.post("/v2/models/eight/infer", json={"inputs": [request]}).json()
        described = client.get("/v2/models/eight").json()
        (listed,) = ModelsOut(**client.get("/v1/models").json()).models
    assert described["parameters"] == {"classes": list(NAMES)}
    assert (listed.classes, listed.positive, listed.min_confidence) == (
        NAMES,
        ("blast cell",),
        0.12,
    )
    outputs = {output["name"]: output for output in v2["outputs"]}
    assert outputs["probabilities"]["shape"] == [4, 8]
    tensor = np.reshape(outputs["probabilities"]["data"], (4, 8))
    for number, theirs in enumerate(expected):
        ours = body.predictions[number].model_dump(exclude={"explanation"})
        assert ours["probabilities"] == pytest.approx(theirs.probabilities, abs=1e-5)
        assert list(ours["probabilities"]) == list(NAMES)
        assert sum(ours["probabilities"].values()) == pytest.approx(1)
        assert ours["probability"] == pytest.approx(theirs.probabilities["blast cell"], abs=1e-5)
        assert (ours["label"], ours["threshold"]) == (theirs.label, None)
        assert tensor[number] == pytest.approx([*theirs.probabilities.values()], abs=1e-5)
        assert outputs["label"]["data"][number] == theirs.label
    assert body.subject is not None
    counts = {row.name: row.cells for row in body.subject.differential}
    labels = [theirs.label for theirs in expected]
    assert counts == {name: labels.count(name) for name in NAMES}
    assert body.subject.called_positive == labels.count("blast cell")


def test_the_page_shows_the_likeliest_classes_and_the_differential(
    bundle, expected, tmp_path_factory
):
    command = find_chromium()
    if command is None:
        pytest.skip("no chromium on this machine: install Debian's package to test the page")
    folder = tmp_path_factory.mktemp("chromium")
    for name, data in files():
        (folder / name).write_bytes(data)
    with listening(bundle) as url, open_page(command, url, folder / "profile") as page:
        page.choose_files("#files", [folder / name for name, _ in files()])
        page.wait_for("document.querySelectorAll('#cells article').length === 4", 60)
        cards = page.evaluate(
            "[...document.querySelectorAll('#cells article')].map(c => c.innerText)"
        )
        facts = page.evaluate("document.querySelector('#facts').innerText")
        heading = page.evaluate("document.querySelector('#heading').innerText")
        head, *rows = page.evaluate("csv()").splitlines()
    assert heading == "Which of 8 kinds of cell?"
    assert len(rows) == len(expected)
    for name in NAMES:
        place = head.split(",").index(f'"probability:{name}"')
        shown = [float(row.split(",")[place].strip('"')) for row in rows]
        wanted = [answer.probabilities[name] for answer in expected]
        assert shown == pytest.approx(wanted, abs=1e-5)
    answered = sum(answer.label in NAMES for answer in expected)
    for name in NAMES:
        count = sum(answer.label == name for answer in expected)
        assert f"Called {name}\n{count} of {answered} answered cells" in facts
    for card, answer in zip(cards, expected, strict=True):
        first, second, third, *_ = sorted(answer.probabilities.items(), key=lambda item: -item[1])
        for name, probability in (first, second, third):
            assert f"{name} {probability:.3f}" in card
        assert (answer.label if answer.label in NAMES else "No answer") in card
