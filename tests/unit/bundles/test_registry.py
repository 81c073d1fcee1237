"""The registry of bundles: versions, aliases, and writers that meet."""

import json
import multiprocessing
import os
import shutil
import threading
from multiprocessing.context import SpawnProcess
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from leuk_ray.bundles import registry as module
from leuk_ray.bundles.bundle import load_bundle, write_bundle
from leuk_ray.bundles.manifest import ModelManifest
from leuk_ray.bundles.registry import Registry
from leuk_ray.bundles.registry_model import Lineage
from leuk_ray.cli.main import cli
from leuk_ray.datasets.images import StorageSettings
from leuk_ray.inference.check import check_answers
from leuk_ray.io.storage import write_json
from leuk_ray.models.settings import ModelSettings
from leuk_ray.models.zoo import build
from leuk_ray.utils.errors import StorageError, UnknownModelError, UserError


@pytest.fixture(scope="module")
def bundle(tmp_path_factory) -> Path:
    settings = ModelSettings(
        architecture="se_cnn", attention="none", filters=(2, 3, 4), input_size=32, weights="scratch"
    )
    manifest = ModelManifest(
        model=settings, storage=StorageSettings(size=32), synthetic=True, seed=7,
        protocol="subject-disjoint", dataset_fingerprint="0" * 64, recipe="small",
    )  # fmt: skip
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("runs") / "small" / "bundle"
    write_bundle(path, manifest, build(settings, load_weights=True).eval())
    return path


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return Registry(tmp_path / "models", check_answers)


def flip(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[-3] ^= 1
    file.write_bytes(data)


def in_process(target, *arguments) -> SpawnProcess:
    # A fork of a process with threads, which PyTorch has, may hang.
    process = multiprocessing.get_context("spawn").Process(target=target, args=arguments)
    process.start()
    return process


def test_versions_count_up_and_say_where_they_came_from(registry: Registry, bundle: Path):
    lineage = Lineage(run="runs/small", data="cells.dataset", sweep="sweeps/a")
    assert registry.add(bundle, "cells", lineage=lineage) == 1
    assert registry.add(bundle, "cells") == 2
    assert registry.add(bundle, "others") == 1
    cells, others = registry.list()
    assert (cells.name, others.name) == ("cells", "others")
    first = cells.versions[0]
    assert first.lineage == lineage
    assert (first.recipe, first.seed, first.synthetic) == ("small", 7, True)
    assert first.dataset_fingerprint == "0" * 64
    assert cells.aliases == {}  # adding promotes nothing
    assert load_bundle(registry.resolve("cells@2")).manifest.recipe == "small"


def test_the_champion_changes_and_goes_back_step_by_step(registry: Registry, bundle: Path):
    for _ in range(3):
        registry.add(bundle, "cells")
    with pytest.raises(UserError, match="no such version or alias, only 1 to 3"):
        registry.resolve("cells")
    for version in (1, 3, 2):
        registry.promote("cells", version)
        assert registry.resolve("cells").name == str(version)
    registry.promote("cells", 2)  # it is already: nothing happens
    registry.promote("cells", 1, alias="shadow")
    assert registry.rollback("cells") == 3
    assert registry.resolve("cells@champion").name == "3"
    assert registry.rollback("cells") == 1
    with pytest.raises(UserError, match="no earlier version"):
        registry.rollback("cells")
    assert registry.show("cells").aliases == {"champion": 1, "shadow": 1}
    done = [(event.action, event.version) for event in registry.show("cells").history]
    assert done == [
        ("add", 1), ("add", 2), ("add", 3), ("promote", 1), ("promote", 3), ("promote", 2),
        ("promote", 1), ("rollback", 3), ("rollback", 1),
    ]  # fmt: skip


def test_a_bundle_that_fails_verification_is_neither_added_nor_promoted(
    registry: Registry, bundle: Path, tmp_path: Path
):
    broken = tmp_path / "broken"
    shutil.copytree(bundle, broken)
    flip(broken / "model.safetensors")
    with pytest.raises(UserError, match="changed since it was written"):
        registry.add(broken, "cells")
    assert not registry.path.exists()
    for _ in range(2):
        registry.add(bundle, "cells")
    registry.promote("cells", 1)
    flip(registry.resolve("cells@2") / "model.safetensors")
    with pytest.raises(UserError, match="changed since it was written"):
        registry.promote("cells", 2)
    assert registry.show("cells").aliases == {"champion": 1}
    # A threshold changed by hand: bundle.json names the weights' hash, the registry its own.
    manifest = registry.resolve("cells") / "bundle.json"
    manifest.write_text(manifest.read_text().replace('"threshold": 0.5', '"threshold": 0.9'))
    with pytest.raises(UserError, match="changed since it was added"):
        registry.resolve("cells")
    with pytest.raises(UserError, match="changed since it was added"):
        registry.promote("cells", 1, alias="shadow")


@pytest.mark.parametrize("name", ["", ".", "..", "../cells", "a/b", "/tmp/x", ".hidden", "a@1"])
def test_a_name_is_no_path(registry: Registry, bundle: Path, name: str):
    with pytest.raises(UserError, match="name"):
        registry.add(bundle, name)
    assert not registry.path.exists()


def test_what_is_not_there_is_said_in_one_line(registry: Registry, bundle: Path):
    with pytest.raises(UserError, match="there is no registry"):
        registry.list()
    with pytest.raises(StorageError, match="there is no registry"):
        registry.promote("cells", 1)
    assert not registry.path.exists()
    registry.add(bundle, "cells")
    for name in ("cell", "../cells"):
        with pytest.raises(UnknownModelError, match="it holds cells"):
            registry.resolve(name)
    with pytest.raises(UserError, match="no such version, only 1 to 1"):
        registry.promote("cells", 2)
    with pytest.raises(UserError, match="no such version"):
        registry.resolve("cells@0")
    with pytest.raises(UserError, match="alias '7'"):
        registry.promote("cells", 1, alias="7")  # would look like a version
    for wanted in ("../../etc", "01", "\u0661", "\u00b2", "1" * 5000, "1\n"):
        with pytest.raises(UserError, match="no such version or alias"):
            registry.resolve(f"cells@{wanted}")
    (registry.path / "cells" / "registry.json").write_text('{"versions": 1}')
    with pytest.raises(UserError, match="not understood"):
        registry.resolve("cells@1")


def test_a_copied_folder_is_a_model_by_its_own_name_or_none(registry: Registry, bundle: Path):
    registry.add(bundle, "cells")
    registry.promote("cells", 1)
    for name in ("cells (copy)", "second"):
        shutil.copytree(registry.path / "cells", registry.path / name)
    assert [model.name for model in registry.list()] == ["cells", "second"]
    registry.add(bundle, "second")
    assert len(registry.show("second").versions) == 2
    assert len(registry.show("cells").versions) == 1
    with pytest.raises(UserError, match="it holds cells, second"):
        registry.resolve("others")


def add_often(registry: Registry, bundle: Path, times: int) -> None:
    for _ in range(times):
        registry.promote("cells", registry.add(bundle, "cells"))


def test_two_processes_that_write_at_once_lose_nothing(registry: Registry, bundle: Path):
    registry.add(bundle, "cells")
    writers = [in_process(add_often, registry, bundle, 4) for _ in range(2)]
    for writer in writers:
        writer.join(60)
        assert writer.exitcode == 0
    model = registry.show("cells")
    assert [version.number for version in model.versions] == list(range(1, 10))
    assert sorted(e.version for e in model.history if e.action == "promote") == list(range(2, 10))
    for version in model.versions:
        load_bundle(registry.resolve(f"cells@{version.number}"))


def test_a_reader_always_finds_a_whole_champion(registry: Registry, bundle: Path):
    for _ in range(2):
        registry.add(bundle, "cells")
    registry.promote("cells", 1)
    stop = threading.Event()

    def switch() -> None:
        while not stop.is_set():
            registry.promote("cells", 2)
            registry.rollback("cells")

    writer = threading.Thread(target=switch)
    writer.start()
    try:
        seen = {registry.resolve("cells").name for _ in range(300)}
    finally:
        stop.set()
        writer.join()
    assert seen <= {"1", "2"}
    assert len(registry.show("cells").history) > 4


def die_before_writing(registry: Registry, bundle: Path) -> None:
    module.write_json = lambda *_: os._exit(9)
    registry.add(bundle, "cells")


def test_a_writer_that_dies_leaves_the_old_state_and_no_lock(registry: Registry, bundle: Path):
    registry.add(bundle, "cells")
    writer = in_process(die_before_writing, registry, bundle)
    writer.join(60)
    assert writer.exitcode == 9
    assert len(registry.show("cells").versions) == 1
    with pytest.raises(UserError, match="no such version"):
        registry.resolve("cells@2")
    assert registry.add(bundle, "cells") == 2
    load_bundle(registry.resolve("cells@2"))


def test_lineage_is_read_off_the_run_or_the_sweep(bundle: Path, tmp_path: Path):
    sweep = tmp_path / "sweep"
    run = sweep / "runs" / "004"
    shutil.copytree(bundle, run / "bundle")
    shutil.copytree(bundle, sweep / "top" / "2")
    (run / "config.yaml").touch()
    write_json(run / "environment.json", {"data": "s3://lab/cells.dataset"})
    alone = Lineage(run=str(run), data="s3://lab/cells.dataset")
    assert Lineage.of(run) == Lineage.of(run / "bundle") == alone
    (sweep / "sweep.yaml").touch()
    (sweep / "report").mkdir()
    ranked = {"schema_version": 2, "leaderboard": [{"run": "007"}, {"run": "004"}]}
    write_json(sweep / "report" / "report.json", ranked)
    found = Lineage(run=str(run), data="s3://lab/cells.dataset", sweep=str(sweep))
    assert Lineage.of(run) == Lineage.of(sweep / "top" / "2") == found
    assert Lineage.of(bundle) == Lineage(), "nothing is known of a folder that is no run"


def test_old_versions_are_deleted_but_nothing_that_answers_or_may_answer_again(
    bundle: Path, tmp_path: Path, monkeypatch
):
    registry = Registry(tmp_path / "models", lambda _: None)
    for _ in range(7):
        registry.add(bundle, "cells")
    for version, alias in ((2, "champion"), (3, "champion"), (1, "next"), (4, "champion")):
        registry.promote("cells", version, alias)
    assert registry.collect("cells", 2, dry_run=True) == (2, 5)
    assert load_bundle(registry.resolve("cells@2"))
    with monkeypatch.context() as killed:
        killed.setattr(module, "remove", lambda _: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            registry.collect("cells", 2)
    with pytest.raises(UnknownModelError, match="cells@2: was deleted by models gc"):
        registry.resolve("cells@2")
    assert registry.collect("cells", 2) == ()
    left = {folder.name for folder in (registry.path / "cells" / "versions").iterdir()}
    assert left == {"1", "3", "4", "6", "7"}, "and what the killed call left is gone"
    assert [v.removed is None for v in registry.show("cells").versions].count(False) == 2
    assert registry.rollback("cells") == 3
    assert registry.add(bundle, "cells") == 8, "numbers are never given again"
    with pytest.raises(UnknownModelError, match="was deleted"):
        registry.promote("cells", 5)


def test_a_copy_of_a_registry_answers_and_a_bad_copy_does_not(
    registry: Registry, bundle: Path, tmp_path: Path
):
    registry.add(bundle, "cells")
    registry.add(bundle, "cells")
    registry.promote("cells", 1)
    registry.promote("cells", 2)
    backup = tmp_path / "backup"
    shutil.copytree(registry.path, backup)
    shutil.rmtree(registry.path)
    shutil.copytree(backup, registry.path)
    assert registry.resolve("cells").name == "2"
    load_bundle(registry.resolve("cells"))
    assert registry.rollback("cells") == 1
    assert registry.add(bundle, "cells") == 3
    restored = Registry(backup, check_answers)
    flip(backup / "cells" / "versions" / "2" / "model.safetensors")
    with pytest.raises(UserError, match="changed since it was written"):
        load_bundle(restored.resolve("cells"))
    shutil.rmtree(backup / "cells" / "versions" / "1")
    with pytest.raises(UserError, match="missing or changed"):
        restored.rollback("cells")


def test_the_commands(bundle: Path, tmp_path: Path):
    def models(*arguments: object, code: int = 0) -> str:
        command = ["models", *map(str, arguments), "--registry", str(tmp_path / "models")]
        done = CliRunner().invoke(cli, command)
        assert done.exit_code == code, done.output
        return done.output if code == 0 else str(done.exception)

    run = tmp_path / "runs" / "one"
    run.mkdir(parents=True)
    (run / "config.yaml").touch()
    write_json(run / "environment.json", {"data": "cells.dataset"})
    assert "cells@1: added" in models("add", bundle, "cells", "--origin", run)
    assert json.loads(models("add", bundle, "cells", "--json")) == {"name": "cells", "version": 2}
    models("promote", "cells", 1)
    assert "cells@champion: is version 2" in models("promote", "cells", 2)
    assert "is version 1 again" in models("rollback", "cells")
    assert "versions 1, 2; champion is 1" in models("list")
    shown = json.loads(models("show", "cells", "--json"))
    assert shown["aliases"] == {"champion": 1}
    lineage = {"run": str(run), "data": "cells.dataset", "sweep": None}
    assert shown["versions"][0]["lineage"] == lineage
    text = models("show", "cells")
    assert f"run {run}" in text
    assert "SYNTHETIC" in text
    assert "rollback 1 as champion" in text
    assert "cells: no version to delete" in models("gc", "cells")
    models("add", bundle, "cells")
    models("promote", "cells", 3)
    assert "cells: would delete 2" in models("gc", "cells", "--keep", 1, "--dry-run")
    models("rollback", "cells")
    assert "no such version" in models("promote", "cells", 5, code=1)
    flip(tmp_path / "models" / "cells" / "versions" / "2" / "model.safetensors")
    assert "missing or changed" in models("promote", "cells", 2, code=1)
    assert "champion is 1" in models("list")
