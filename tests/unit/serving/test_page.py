"""The page at /, in a headless Chromium, on the application without Ray."""

from __future__ import annotations

from dataclasses import astuple
from pathlib import Path

import numpy as np
import pytest

from leuk_ray.evaluation.error_rates import ErrorRates, PatientCounts
from leuk_ray.fields.field import FieldSettings
from leuk_ray.inference.classifier import Classifier
from leuk_ray.inference.explain import explain_files
from leuk_ray.inference.patients import PatientCell, summarise_patient
from leuk_ray.inference.predictions import Prediction
from leuk_ray.workflows.predict_fields import answer_field
from tests.support.chromium import Page, find_chromium, open_page
from tests.support.serving_bundles import cells, encode, listening, write_small_bundle
from tests.support.small_fields import rendered


@pytest.fixture(scope="module")
def bundle(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("page") / "small"
    rates = ErrorRates(
        positive=(PatientCounts(cells=40, answered=40, called=36),) * 10,
        other=(PatientCounts(cells=40, answered=40, called=4),) * 10,
    )
    return write_small_bundle(path, abstain_band=(0.498, 0.5), error_rates=rates)


@pytest.fixture(scope="module")
def url(bundle: Path):
    with listening(bundle) as url:
        yield url


@pytest.fixture(scope="module")
def page(url: str, tmp_path_factory):
    command = find_chromium()
    if command is None:
        pytest.skip("no chromium on this machine: install Debian's package to test the page")
    with open_page(command, url, tmp_path_factory.mktemp("chromium") / "profile") as page:
        yield page


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> list[Path]:
    folder = tmp_path_factory.mktemp("files")
    written = []
    for number, pixels in enumerate(cells(3)):
        written.append(folder / f"cell{number}.png")
        written[-1].write_bytes(encode(pixels))
    (folder / "=formula.png").write_text("no image")
    return [*written, folder / "=formula.png"]


@pytest.fixture(scope="module")
def answered(page: Page, files: list[Path]) -> Page:
    page.evaluate("document.querySelector('#subject').value = 'S-17'")
    page.choose_files("#files", files)
    page.wait_for("document.querySelectorAll('#cells article').length === 4", 60)
    return page


def test_dropped_cells_are_shown_with_label_heat_and_probability(
    answered: Page, files: list[Path], bundle: Path, tmp_path: Path
):
    classifier = Classifier.load(bundle)
    expected = classifier.predict([(f.name, f.read_bytes()) for f in files[:3]])
    explained = explain_files(classifier, [(f.name, f.read_bytes()) for f in files[:3]], tmp_path)
    cards = answered.evaluate(
        "[...document.querySelectorAll('#cells article')].map((card) => ({text: card.innerText,"
        " pictures: [...card.querySelectorAll('img')].map((img) => img.naturalWidth)}))"
    )
    words = {"ALL": "Leukemic blast", "healthy": "Healthy cell", "abstain": "No answer"}
    for card, answer, explanation in zip(cards[:3], expected, explained, strict=True):
        assert isinstance(answer, Prediction)
        assert words[answer.label] in card["text"]
        assert f"{answer.probability:.3f}" in card["text"]
        told = explanation["explanation"]
        assert "HiResCAM" in card["text"]
        share = f"{100 * told['evidence_share']:.0f}% of the map's evidence is for {told['toward']}"
        assert share in card["text"]
        assert f"{100 * told['heat_inside_cell']:.0f}% of the heat is in the cell" in card["text"]
        assert len(card["pictures"]) == 2
        assert all(width > 0 for width in card["pictures"]), "cell and heat are drawn"
    assert "Not an image that can be classified" in cards[3]["text"]
    assert "4 images done, 1 could not be read" in answered.evaluate("$('status').textContent")
    assert answered.errors == []


def test_the_page_says_what_it_is_not(answered: Page):
    text = answered.evaluate("document.body.innerText")
    assert "Not a medical device" in text
    assert "synthetic" in text
    assert "says nothing about whether a person has leukemia" in text.replace("\n", " ")


def test_the_table_can_be_saved_and_no_cell_of_it_is_a_formula(answered: Page):
    lines = answered.evaluate("csv()").strip().split("\r\n")
    assert len(lines) == 5
    assert lines[0].startswith('"name","label","probability"')
    assert '"cell0.png"' in lines[1]
    assert '"S-17"' in lines[1]
    assert lines[4].startswith('"\'=formula.png"')


def test_the_report_prints_the_subject_and_leaves_the_controls_out(answered: Page):
    assert answered.evaluate("$('title').textContent") == "Answers for subject S-17"
    answered.call("Emulation.setEmulatedMedia", media="print")
    assert answered.evaluate("$('drop').offsetParent === null")
    assert answered.evaluate("$('cells').offsetParent !== null")
    answered.call("Emulation.setEmulatedMedia", media="")
    assert answered.pdf().startswith(b"%PDF")


def test_it_fits_a_phone(answered: Page):
    answered.resize(360, 740)
    assert answered.evaluate("document.documentElement.scrollWidth") <= 360
    answered.resize(1100, 900)


def test_the_keyboard_reaches_every_control(answered: Page):
    answered.evaluate("document.activeElement.blur()")
    reached = []
    for _ in range(9):
        answered.press("Tab")
        reached.append(answered.evaluate("document.activeElement.id"))
    assert {"files", "subject", "explain", "clear", "csv", "print"} <= set(reached)


def test_nothing_comes_from_elsewhere(answered: Page, url: str):
    names = answered.evaluate("performance.getEntriesByType('resource').map((entry) => entry.name)")
    assert names
    assert all(name.startswith((url, "data:", "blob:")) for name in names), names


def test_the_docs_are_drawn_without_another_host(page: Page, url: str):
    page.call("Page.navigate", url=f"{url}/docs")
    page.wait_for("document.querySelectorAll('.opblock').length >= 5", 30)
    assert "/v1/predict" in page.evaluate("document.body.innerText")
    names = page.evaluate("performance.getEntriesByType('resource').map((entry) => entry.name)")
    assert any(name.endswith("swagger-ui-bundle.js") for name in names)
    assert all(name.startswith((url, "data:")) for name in names), names
    assert page.errors == []


def test_a_dropped_field_shows_boxes_differential_and_where_the_network_looks(
    page: Page, url: str, bundle: Path, tmp_path: Path
):
    good, dark = tmp_path / "field.png", tmp_path / "dark.png"
    good.write_bytes(encode(rendered(0, 3)[0]))
    dark.write_bytes(encode(np.zeros((300, 400, 3), np.uint8)))
    page.call("Page.navigate", url=f"{url}/fields")
    page.wait_for("document.querySelector('#files') !== null && location.pathname === '/fields'")
    page.evaluate("document.querySelector('#subject').value = 'S-17'")
    page.choose_files("#files", [good, dark])
    page.wait_for("document.querySelectorAll('#fields section').length === 2", 60)
    expected = answer_field(
        Classifier.load(bundle), "field.png", good.read_bytes(), FieldSettings()
    )
    boxes = page.evaluate(
        "[...document.querySelectorAll('.box')].map((box) => [box.innerText,"
        " parseFloat(box.style.left), parseFloat(box.style.top)])"
    )
    words = {"abstain": "no answer"}
    assert len(boxes) == 3
    for (text, left, top), cell in zip(boxes, expected["cells"], strict=True):
        assert text == words.get(cell["label"], cell["label"])
        assert left == pytest.approx(100 * cell["x0"] / 1296, abs=0.01)
        assert top == pytest.approx(100 * cell["y0"] / 972, abs=0.01)
    shown = page.evaluate("document.querySelector('#summary').innerText")
    summary = expected["summary"]
    counts = f"3 cells found: {summary['answered']} answered, {summary['not_answered']} not"
    assert counts in shown
    assert "1 of 2 fields refused" in shown
    cells = [PatientCell.of(cell, "0") for cell in expected["cells"]]
    patient = summarise_patient(cells, Classifier.load(bundle).manifest)
    assert patient.blast_percentage is not None
    value, low, high = astuple(patient.blast_percentage)
    assert f"{value:.1f}% (95% interval {low:.1f}% to {high:.1f}%)" in shown
    assert patient.basis in shown
    assert "it is too dark" in page.evaluate("document.querySelector('#fields').innerText")
    page.evaluate("document.querySelector('.box').click()")
    page.wait_for("document.querySelectorAll('.detail img').length === 2", 30)
    detail = page.evaluate("document.querySelector('.detail').innerText")
    for name, value in expected["cells"][0]["probabilities"].items():
        assert f"{name} {value:.3f}" in detail
    assert "where the network looks" in detail
    assert page.errors == []
