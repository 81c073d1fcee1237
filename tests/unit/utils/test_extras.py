"""Packages that only some need: declared once, and one line where they are missing."""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from leuk_ray.bundles.bundle import load_bundle
from leuk_ray.cli.main import cli
from leuk_ray.inference.engines import PyTorchEngine, make_engine
from leuk_ray.inference.onnx_export import export_bundle
from leuk_ray.utils.errors import UserError
from leuk_ray.utils.extras import MODULES, installed
from tests.support.serving_bundles import write_small_bundle


@pytest.mark.parametrize(
    ("extra", "words"),
    [
        ("serve", ["serve", "bundle"]),
        ("tune", ["tune", "quick", "--data", "x", "--out", "y"]),
        ("onnx", ["export", "{bundle}", "{out}", "--onnx"]),
        ("imaging", ["imaging-server", "http://127.0.0.1:8000"]),
    ],
)
def test_a_missing_extra_is_named_before_any_work(
    extra: str, words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setitem(sys.modules, MODULES[extra][0], None)
    bundle = write_small_bundle(tmp_path / "bundle")
    words = [word.format(bundle=bundle, out=tmp_path / "out") for word in words]
    error = CliRunner().invoke(cli, words).exception
    assert isinstance(error, UserError)
    assert str(error).endswith(f"not installed; pip install 'leuk_ray[{extra}]'")
    assert not (tmp_path / "out").exists()


def test_extras_are_those_of_pyproject():
    """Every extra but `dev` is one whose absence is explained; `make test-imaging` has its own."""
    path = Path(__file__).parents[3] / "pyproject.toml"
    declared = tomllib.loads(path.read_text())["project"]["optional-dependencies"]
    assert declared.keys() - {"dev"} == MODULES.keys()
    tested = [extra for extra in MODULES if extra != "imaging"]
    assert f"leuk_ray[{','.join(tested)}]" in declared["dev"]
    assert all(map(installed, tested))


def test_a_bundle_with_a_graph_answers_with_pytorch_where_onnx_is_not_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    export_bundle(write_small_bundle(tmp_path / "plain"), tmp_path / "graph", onnx=True)
    bundle, cpu = load_bundle(tmp_path / "graph"), torch.device("cpu")
    pixels = np.zeros((2, *2 * (bundle.manifest.storage.size,), 3), np.uint8)
    with_onnx, _ = make_engine(bundle, cpu)(pixels)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    engine = make_engine(bundle, cpu)
    assert isinstance(engine, PyTorchEngine)
    np.testing.assert_allclose(engine(pixels)[0], with_onnx, atol=1e-3)
    with pytest.raises(UserError, match=r"engine onnx: .* pip install 'leuk_ray\[onnx\]'"):
        make_engine(bundle, cpu, "onnx")
