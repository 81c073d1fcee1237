"""Bundles from strangers: what their files cannot do, and what a registry takes of them."""

import hashlib
import json
import os
import resource
import shutil
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from click.testing import CliRunner
from onnx import TensorProto, helper
from safetensors.numpy import load_file, save_file
from safetensors.torch import load_file as load_tensors
from safetensors.torch import save_file as save_tensors

from leuk_ray.bundles.bundle import load_bundle, write_bundle, write_ensemble
from leuk_ray.bundles.manifest import (
    FEATURES,
    MANIFEST,
    ONNX_FILE,
    WEIGHTS,
    ModelManifest,
    Range,
    ScopeSettings,
    read_manifest,
)
from leuk_ray.bundles.registry import Registry
from leuk_ray.cli.main import cli
from leuk_ray.inference import onnx_graph
from leuk_ray.inference.check import check_answers
from leuk_ray.inference.classifier import Classifier
from leuk_ray.inference.onnx_export import export_bundle
from leuk_ray.inference.scope import Neighbourhood
from leuk_ray.utils.errors import UserError
from tests.support.serving_bundles import write_small_bundle


@pytest.fixture(scope="module")
def plain(tmp_path_factory) -> Path:
    return write_small_bundle(tmp_path_factory.mktemp("plain") / "small")


@pytest.fixture(scope="module")
def exported(plain: Path) -> Path:
    export_bundle(plain, plain.parent / "exported", onnx=True)
    return plain.parent / "exported"


def changed(bundle: Path, copy: Path, **changes: object) -> Path:
    """A copy with other fields of bundle.json, by path, and right hashes of its files."""
    if not copy.exists():
        shutil.copytree(bundle, copy)
    manifest = json.loads((copy / MANIFEST).read_text())
    for name in manifest["files"]:
        manifest["files"][name] = hashlib.sha256((copy / name).read_bytes()).hexdigest()
    for path, value in changes.items():
        *sections, key = path.split("__")
        target = manifest
        for section in sections:
            target = target[section]
        target[key] = value
    (copy / MANIFEST).write_text(json.dumps(manifest))
    return copy


def refused(path: Path, message: str) -> None:
    """By everything that opens a bundle, in one short line."""
    with pytest.raises(UserError, match=message) as caught:
        Classifier.load(path)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 700


SCOPE = {"ranges": {"covered": [0.1, 0.9]}, "distance": 1.0, "typical": {"covered": [0.5, 0.1]}}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"schema_version": 99}, r"schema_version '99' is not known here, only 1 and 2; update"),
        ({"schema_version": True}, "schema_version 'True' is not known"),
        ({"classes": ["ALL", "healthy"]}, "classes"),
        ({"temperature": float("inf")}, "temperature"),
        ({"temperature": float("nan")}, "temperature"),
        ({"temperature": 0.0}, "temperature"),
        ({"temperature": -1.0}, "temperature"),
        ({"temperature": 1e300}, "temperature"),
        ({"threshold": 1.5}, "threshold"),
        ({"threshold": float("nan")}, "threshold"),
        ({"abstain_band": [0.6, 0.9]}, "must hold the threshold"),
        ({"storage__size": 0}, "storage.size"),
        ({"storage__size": 10**9}, "storage.size"),
        ({"model__input_size": 10**6}, "input_size"),
        ({"model__filters": [10**9, 2, 2]}, "filters"),
        ({"model__filters": [4096, 4096, 4096]}, "holds another network"),  # 600 MB
        ({"seed": 10**30}, "seed"),
        ({"recipe": "small\x1b[2J"}, "recipe"),
        ({"recipe": "a" * 10**5}, "recipe"),
        ({"scope": SCOPE | {"ranges": {"hue": [0, 1]}}}, "scope feature 'hue' is not known"),
        ({"scope": SCOPE | {"typical": {"hue": [0, 1]}}}, "scope feature 'hue' is not known"),
        ({"scope": SCOPE | {"ranges": {"covered": [1, 0]}}}, "ends before it begins"),
        ({"scope": SCOPE | {"distance": float("nan")}}, "distance"),
        ({"test": {"metrics": {}}}, "test"),
        ({"test": {"leaky": "<b>"}}, "test"),
        ({"files": {"model.safetensors": "yes"}}, "files"),
    ],
)
def test_a_field_out_of_its_bounds_is_refused(changes: dict, message: str, plain, tmp_path):
    started = time.monotonic()
    refused(changed(plain, tmp_path / "copy", **changes), message)
    assert time.monotonic() - started < 5


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[" * 100_000 + "]" * 100_000, "nested deeper than 64"),
        ('{"a":' * 1000 + "1" + "}" * 1000, "nested deeper than 64"),
        ('{"metrics":' + '{"a":' * 70 + "1" + "}" * 71, "nested deeper than 64"),
        ("[]", "not understood"),
        ('"' + "a" * 5_000_000 + '"', "larger than 4,194,304 bytes"),
    ],
)
def test_json_that_is_deep_or_large_is_refused(text: str, message: str, plain, tmp_path):
    copy = changed(plain, tmp_path / "copy")
    (copy / MANIFEST).write_text(text)
    refused(copy, message)


def scope_files(copy: Path) -> dict[str, np.ndarray]:
    width = Classifier.load(copy).score(np.zeros((1, 96, 96, 3), np.uint8)).embedding.shape[1]
    embedding = np.random.default_rng(0).normal(size=(30, width))
    Neighbourhood.fit(embedding).save(copy / "scope.safetensors")
    return load_file(copy / "scope.safetensors")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"variances": np.zeros(3)}, "contradicts itself"),
        ({"mean": np.full(4, np.nan)}, "contradicts itself"),
        ({"rest": np.array([0.0])}, "contradicts itself"),
        ({"rest": np.array([1.0, 2.0])}, "is not understood"),
        ({"mean": np.zeros(3), "directions": np.zeros((3, 3)), "variances": np.ones(3)},
         "embeddings of 3 numbers"),
    ],
)  # fmt: skip
def test_a_scope_that_is_another_networks_is_refused(change, message, plain, tmp_path):
    copy = changed(plain, tmp_path / "copy")
    save_file(scope_files(copy) | change, copy / "scope.safetensors")
    ranges: dict[str, Range] = dict.fromkeys(FEATURES, (None, None))
    scope = ScopeSettings(ranges=ranges, distance=2.0).model_dump(mode="json")
    changed(plain, copy, scope=scope, files__scope_safetensors="")
    manifest = json.loads((copy / MANIFEST).read_text())
    del manifest["files"]["scope_safetensors"]
    digest = hashlib.sha256((copy / "scope.safetensors").read_bytes()).hexdigest()
    manifest["files"]["scope.safetensors"] = digest
    (copy / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(UserError, match=message):
        Registry(tmp_path / "models", check_answers).add(copy, "cells")
    assert not (tmp_path / "models").exists()


def outside(model: onnx.ModelProto, copy: Path) -> None:
    onnx.save_model(
        model, str(copy / ONNX_FILE), save_as_external_data=True, location="weights.bin",
        size_threshold=0,
    )  # fmt: skip


def loop(model: onnx.ModelProto, copy: Path) -> None:
    """A loop of 2**62 rounds before the answer."""
    graph = model.graph
    body = helper.make_graph(
        [helper.make_node("Identity", ["again"], ["more"]),
         helper.make_node("Identity", ["value"], ["same"])],
        "body",
        [helper.make_tensor_value_info("round", TensorProto.INT64, []),
         helper.make_tensor_value_info("again", TensorProto.BOOL, []),
         helper.make_tensor_value_info("value", TensorProto.INT64, [])],
        [helper.make_tensor_value_info("more", TensorProto.BOOL, []),
         helper.make_tensor_value_info("same", TensorProto.INT64, [])],
    )  # fmt: skip
    graph.initializer.append(helper.make_tensor("rounds", TensorProto.INT64, [], [2**62]))
    graph.initializer.append(helper.make_tensor("zero", TensorProto.INT64, [], [0]))
    graph.node.insert(0, helper.make_node("Loop", ["rounds", "", "zero"], ["end"], body=body))
    graph.output.append(helper.make_tensor_value_info("end", TensorProto.INT64, []))
    onnx.save_model(model, str(copy / ONNX_FILE))


def another(model: onnx.ModelProto, copy: Path) -> None:
    """The same graph with its last weights turned round."""
    last = next(t for t in reversed(model.graph.initializer) if "classifier.weight" in t.name)
    turned = -onnx.numpy_helper.to_array(last)
    last.CopyFrom(onnx.numpy_helper.from_array(turned, last.name))
    onnx.save_model(model, str(copy / ONNX_FILE))


def huge(model: onnx.ModelProto, copy: Path) -> None:
    """Zeros of 4 TB, made from 16 bytes."""
    graph = model.graph
    graph.initializer.append(helper.make_tensor("shape", TensorProto.INT64, [2], [2**20, 2**20]))
    graph.node.insert(0, helper.make_node("ConstantOfShape", ["shape"], ["zeros"]))
    graph.node.insert(1, helper.make_node("ReduceSum", ["zeros"], ["sum"], keepdims=0))
    graph.output.append(helper.make_tensor_value_info("sum", TensorProto.FLOAT, []))
    onnx.save_model(model, str(copy / ONNX_FILE))


def nonsense(_: onnx.ModelProto, copy: Path) -> None:
    (copy / ONNX_FILE).write_bytes(b"no graph" * 1000)


def foreign(model: onnx.ModelProto, copy: Path) -> None:
    model.graph.node[0].domain = "ai.onnx.contrib"
    onnx.save_model(model, str(copy / ONNX_FILE))


@pytest.mark.parametrize(
    ("change", "message", "also_by_loading"),
    [
        (outside, "keeps weights in another file", True),
        (loop, "holds the operator 'Loop'", True),
        (foreign, "holds the operator", True),
        (nonsense, "is no ONNX graph", True),
        (another, r"differ by .* from PyTorch's", False),
        (huge, "does not run", False),
    ],
)
def test_a_graph_that_is_not_the_network_is_refused(
    change: Callable, message: str, also_by_loading: bool, exported, tmp_path
):
    copy = tmp_path / "copy"
    shutil.copytree(exported, copy)
    change(onnx.load(str(copy / ONNX_FILE)), copy)
    changed(exported, copy)
    with pytest.raises(UserError, match=message) as caught:
        Registry(tmp_path / "models", check_answers).add(copy, "cells")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "models").exists()
    if also_by_loading:
        refused(copy, message)


def test_a_graph_that_takes_too_long_is_ended(exported: Path, tmp_path: Path, monkeypatch):
    monkeypatch.setattr(onnx_graph, "TRIAL_SECONDS", 0.01)
    with pytest.raises(UserError, match=r"takes more than 0\.01 s for a few images"):
        Registry(tmp_path / "models", check_answers).add(exported, "cells")


def test_weights_without_a_number_are_not_added(plain: Path, tmp_path: Path):
    copy = tmp_path / "copy"
    shutil.copytree(plain, copy)
    tensors = {name: torch.full_like(each, torch.nan) if each.is_floating_point() else each
               for name, each in load_tensors(copy / WEIGHTS).items()}  # fmt: skip
    save_tensors(tensors, copy / WEIGHTS)
    changed(plain, copy)
    with pytest.raises(UserError, match="the model output is not finite"):
        Registry(tmp_path / "models", check_answers).add(copy, "cells")


def test_a_registry_takes_the_named_regular_files_and_nothing_else(exported: Path, tmp_path: Path):
    registry, copy = Registry(tmp_path / "models", check_answers), tmp_path / "copy"
    shutil.copytree(exported, copy)
    (copy / "notes").mkdir()
    (copy / "notes" / "patients.txt").write_text("not asked for")
    (copy / "hostname").symlink_to("/etc/hostname")
    os.mkfifo(copy / "pipe")
    registry.add(copy, "cells")
    version = registry.resolve("cells@1")
    assert {path.name for path in version.rglob("*")} == {*read_manifest(exported).files, MANIFEST}
    for name in (ONNX_FILE, WEIGHTS, "MODEL_CARD.md", MANIFEST):
        linked = tmp_path / f"linked-{name}"
        shutil.copytree(exported, linked)
        (linked / name).unlink()
        (linked / name).symlink_to(exported / name)
        with pytest.raises(UserError, match=rf"{name}: is a link; put the file itself there"):
            registry.add(linked, "cells")
    assert len(registry.show("cells").versions) == 1


def test_members_are_no_links_and_no_ensembles(plain: Path, tmp_path: Path):
    for name in ("a", "b"):
        shutil.copytree(plain, tmp_path / name)
    voted = tmp_path / "voted"
    write_ensemble(voted, [tmp_path / "a", tmp_path / "b"], "soft")
    (voted / "members" / "a" / "extra").write_text("not asked for")
    registry = Registry(tmp_path / "models", check_answers)
    registry.add(voted, "voted")
    load_bundle(registry.resolve("voted@1"))
    assert not list(registry.path.rglob("extra"))
    shutil.rmtree(voted / "members" / "a")
    (voted / "members" / "a").symlink_to(tmp_path / "a")
    with pytest.raises(UserError, match="is a link; a bundle holds its members themselves"):
        registry.add(voted, "voted")
    (voted / "members" / "a").unlink()
    write_ensemble(tmp_path / "inner", [tmp_path / "a", tmp_path / "b"], "soft")
    shutil.copytree(tmp_path / "inner", voted / "members" / "a")
    changed(voted, voted)
    refused(voted, "is an ensemble itself")


@pytest.mark.parametrize(
    "change",
    [
        {"schema_version": 2},
        {"history": [{"time": "", "action": "rollback", "version": 1, "alias": "champion"}]},
        {"history": [{"time": "", "action": "promote", "version": 9, "alias": "champion"}]},
        {"versions": []},
    ],
)
def test_a_registry_that_contradicts_itself_is_one_line(change: dict, plain, tmp_path):
    registry = Registry(tmp_path / "models", check_answers)
    registry.add(plain, "cells")
    file = registry.path / "cells" / "registry.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    done = CliRunner().invoke(cli, ["models", "show", "cells", "--registry", str(registry.path)])
    assert isinstance(done.exception, UserError)
    assert "registry.json: not understood" in str(done.exception)


@contextmanager
def full_disk(bytes_left: int) -> Generator[None]:
    """As if no file could grow beyond so many bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (bytes_left, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("bytes_left", [0, 500, 20_000])
def test_a_full_disk_is_one_line_and_the_next_try_works(bytes_left: int, plain, tmp_path: Path):
    registry = Registry(tmp_path / "models", check_answers)
    opened = load_bundle(plain)
    assert isinstance(opened.manifest, ModelManifest)
    tries: list[Callable[[], object]] = [
        lambda: registry.add(plain, "cells"),
        lambda: export_bundle(plain, tmp_path / "copy", onnx=False),
        lambda: write_bundle(tmp_path / "new", opened.manifest, opened.model),  # pyright: ignore
        lambda: write_ensemble(tmp_path / "voted", [plain, tmp_path / "other" / "b"], "soft"),
    ]
    shutil.copytree(plain, tmp_path / "other" / "b")
    for attempt in tries:
        with full_disk(bytes_left), pytest.raises(UserError, match="no room is left") as caught:
            attempt()
        assert "\n" not in str(caught.value)
    left = [path for path in tmp_path.rglob("*") if path.is_file() and path.name != ".lock"]
    assert [path for path in left if "other" not in path.parts] == []
    for attempt in tries:
        attempt()
