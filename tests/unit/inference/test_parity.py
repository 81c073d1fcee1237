"""The same bytes, the same probability, by every way that needs no Ray: evaluate, predict, /v1,
/v2 and the page. Those through a real Ray Serve: tests/integration/test_serve.py."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import requests
import tritonclient.http as triton
from PIL import Image

from leuk_ray.bundles.bundle import load_bundle, write_bundle
from leuk_ray.bundles.manifest import ModelManifest
from leuk_ray.datasets.decoding import prepare_cell
from leuk_ray.inference.classifier import Classifier
from leuk_ray.inference.onnx_export import export_bundle
from tests.support.chromium import find_chromium, open_page
from tests.support.image_files import ADOBE, profile
from tests.support.serving_bundles import cells, encode, listening, predictions, write_small_bundle

FORMATS = ("BMP", "PNG", "JPEG", "TIFF")


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> list[Path]:
    folder = tmp_path_factory.mktemp("formats")
    written = []
    (cell,) = cells(1)
    for number, pixels in enumerate((cell, 255 - cell)):  # far apart for any network
        for kind in FORMATS:
            written.append(folder / f"{number}.{kind.lower()}")
            written[-1].write_bytes(encode(pixels, kind))
    other, wide = folder / "two.mpo", folder / "wide.png"
    image = Image.fromarray(cell)
    image.save(other, "MPO", save_all=True, append_images=[Image.fromarray(255 - cell)])
    image.save(wide, "PNG", icc_profile=profile(b"RGB ", 1.8, ADOBE))
    written += [other, wide]
    return written


@pytest.fixture(scope="module")
def bundles(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("engines")
    untrained = load_bundle(write_small_bundle(folder / "untrained"))
    for name, weights in untrained.model.named_parameters():  # one that tells pictures apart
        weights.data *= 0 if name.endswith("bias") else 8 if weights.ndim == 2 else 1
    plain = folder / "pytorch"
    assert isinstance(untrained.manifest, ModelManifest)
    write_bundle(plain, untrained.manifest, untrained.model)
    export_bundle(plain, folder / "onnx", onnx=True)
    return {"pytorch": plain, "onnx": folder / "onnx"}


@pytest.fixture(scope="module")
def expected(bundles: dict[str, Path], files: list[Path]) -> np.ndarray:
    """Probabilities of the PyTorch network, of files, (10,)."""
    answers = Classifier.load(bundles["pytorch"]).predict([(f.name, f.read_bytes()) for f in files])
    found = np.asarray([answer.probability for answer in predictions(answers)], float)
    assert np.ptp(found) > 0.003, "the cells differ"
    return found


def predicted(bundle: Path, files: list[Path]) -> np.ndarray:
    named = [(file.name, file) for file in files]
    answers = Classifier.load(bundle).predict(named)
    return np.asarray([answer.as_dict()["probability"] for answer in answers])


def evaluated(bundle: Path, files: list[Path], store_pixels, folder: Path) -> np.ndarray:
    """As `prepare` and `evaluate`: pixels of a dataset's rows; tasks are tested with Ray."""
    classifier = Classifier.load(bundle)
    storage = classifier.manifest.storage
    rows = [{"path": str(file), "side": None, "source": "folders"} for file in files]
    stored = b"".join(prepare_cell(row, storage)["image"] for row in rows)
    shape = (len(files), storage.size, storage.size, 3)
    dataset = store_pixels(folder / "dataset", np.frombuffer(stored, np.uint8).reshape(shape))
    return classifier.score(dataset.reader().read(np.arange(len(files)))).probability


def through_v1(url: str, files: list[Path]) -> np.ndarray:
    upload = [("file", (file.name, file.read_bytes())) for file in files]
    answer = requests.post(f"{url}/v1/predict", files=upload, timeout=30).json()
    return np.asarray([item["probability"] for item in answer["predictions"]])


def through_v2(url: str, files: list[Path], name: str) -> np.ndarray:
    client = triton.InferenceServerClient(url.removeprefix("http://"))
    tensor = triton.InferInput("image", [len(files)], "BYTES")
    tensor.set_data_from_numpy(np.asarray([file.read_bytes() for file in files], np.object_))
    return np.asarray(client.infer(name, [tensor]).as_numpy("probability"))


def through_page(url: str, files: list[Path], profile: Path) -> np.ndarray:
    command = find_chromium()
    if command is None:
        pytest.skip("no chromium on this machine: install Debian's package to test the page")
    with open_page(command, url, profile) as page:
        page.choose_files("#files", files)
        page.wait_for(f"document.querySelectorAll('#cells article').length === {len(files)}", 60)
        return np.asarray(page.evaluate("items.map((item) => item.probability)"))


@pytest.mark.parametrize(("engine", "tolerance"), [("pytorch", 1e-5), ("onnx", 1e-4)])
def test_every_way_gives_the_same_probability(
    engine: str, tolerance: float, bundles, files, expected, store_pixels, tmp_path: Path
):
    bundle = bundles[engine]
    ways = {
        "predict": predicted(bundle, files),
        "evaluate": evaluated(bundle, files, store_pixels, tmp_path),
    }
    with listening(bundle) as url:
        (model,) = requests.get(f"{url}/v1/models", timeout=30).json()["models"]
        ways["/v1/predict"] = through_v1(url, files)
        ways["/v2/infer"] = through_v2(url, files, model["name"])
        answered = requests.get(f"{url}/v1/models", timeout=30).json()["models"][0]["info"]
        assert answered["engine"] == engine
        ways["page"] = through_page(url, files, tmp_path / "profile")
    for way, found in ways.items():
        np.testing.assert_allclose(found, expected, atol=tolerance, rtol=0, err_msg=way)
