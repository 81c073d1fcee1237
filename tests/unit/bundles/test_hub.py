"""Bundles to and from a model hub: a double speaks its HTTP, the client is the real one."""

import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from huggingface_hub import constants, hf_api

from leuk_ray.bundles import hub
from leuk_ray.bundles.bundle import find_bundle, open_bundle
from leuk_ray.cli.main import cli
from leuk_ray.inference.classifier import Classifier
from leuk_ray.inference.onnx_export import export_bundle
from leuk_ray.utils.errors import UserError
from tests.support.hub_double import Hub, hub_double
from tests.support.serving_bundles import cells, encode, write_small_bundle


@pytest.fixture
def double(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with hub_double() as running:
        # As with HF_ENDPOINT and HF_HOME in the environment, which are read at import.
        monkeypatch.setattr(constants, "HF_HOME", str(tmp_path / "home"))
        monkeypatch.setattr(hub, "HfApi", lambda: hf_api.HfApi(endpoint=running.url, token="t"))
        yield running


def test_a_bundle_goes_to_the_hub_and_answers_from_there(double: Hub, tmp_path: Path):
    bundle = write_small_bundle(tmp_path / "bundle")
    address = str(export_bundle(bundle, "hf://lab/cells", onnx=False)["bundle"])
    assert address.startswith("hf://lab/cells@")
    (files,) = double.repositories["lab/cells"].values()
    assert files["README.md"].startswith(b"---\nlibrary_name: leuk_ray")
    image = encode(cells(1)[0])
    here = Classifier.load(bundle).predict(image)[0]
    for given in (address, "hf://lab/cells", "hf://lab/cells@main"):
        there = Classifier.load(given).predict(image)[0]
        assert there.as_dict() == here.as_dict()
    registry = tmp_path / "registry"
    added = CliRunner().invoke(
        cli, ["models", "add", address, "cells", "--registry", str(registry)]
    )
    assert added.exit_code == 0, added.output
    asked = len(double.asked)
    folder = Path(find_bundle(address))
    assert len(double.asked) == asked, "a commit that is here is not asked for"
    assert folder.name == "cells", "the name it answers by"
    assert not (folder / "README.md").exists()
    (folder / "model.safetensors").write_bytes(b"cut")
    assert Classifier.load(address).predict(image)[0].as_dict() == here.as_dict(), "fetched anew"


def test_what_a_stranger_put_there_is_verified_and_never_unpickled(double: Hub, tmp_path: Path):
    bundle = write_small_bundle(tmp_path / "bundle")
    files = {file.name: file.read_bytes() for file in bundle.iterdir()}
    double.commit("lab/bad", files | {"model.safetensors": b"other", "x.pkl": pickle.dumps(1)})
    with pytest.raises(UserError, match=r"model\.safetensors"):
        open_bundle(find_bundle("hf://lab/bad"))
    assert not list(Path(find_bundle("hf://lab/bad")).glob("*.pkl"))
    double.commit("lab/none", {"config.json": b"{}"})
    with pytest.raises(UserError, match="holds no bundle"):
        find_bundle("hf://lab/none")


def test_refusals_are_one_line(double: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    bundle = write_small_bundle(tmp_path / "bundle")
    for address, words in (
        ("hf://lab", "write hf://OWNER/NAME"),
        ("hf://lab/cells/more", "write hf://OWNER/NAME"),
        ("hf://lab/..@" + 40 * "0", "write hf://OWNER/NAME"),
        ("hf://lab/cells@../x", "write hf://OWNER/NAME"),
        ("hf://lab/nothing", "no such repository"),
    ):
        with pytest.raises(UserError, match=words) as caught:
            find_bundle(address)
        assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match="leave out @v1"):
        export_bundle(bundle, "hf://lab/cells@v1", onnx=False)
    double.token = "another"
    with pytest.raises(UserError, match="set HF_TOKEN"):
        export_bundle(bundle, "hf://lab/cells", onnx=False)
    monkeypatch.setattr(hub, "HfApi", lambda: hf_api.HfApi(endpoint="http://127.0.0.1:9"))
    with pytest.raises(UserError, match="cannot be reached"):
        find_bundle("hf://lab/cells")


def test_the_command_line_takes_the_address(tmp_path: Path):
    bundle = write_small_bundle(tmp_path / "bundle")
    (tmp_path / "cell.png").write_bytes(encode(cells(1)[0]))
    with hub_double() as running:
        running.commit("lab/cells", {file.name: file.read_bytes() for file in bundle.iterdir()})
        done = subprocess.run(
            [sys.executable, "-m", "leuk_ray", "predict", "hf://lab/cells", "cell.png", "--json"],
            cwd=tmp_path,
            env=os.environ | {"HF_ENDPOINT": running.url, "HF_HOME": str(tmp_path / "home")},
            capture_output=True,
            text=True,
            timeout=100,
        )
    assert done.returncode == 0, done.stderr
    assert '"probability"' in done.stdout
