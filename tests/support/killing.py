"""A process that is killed at its N-th write under a folder, and writers to try that on.

The writes are what Python announces (`sys.addaudithook`) before it opens a file for writing, makes,
renames or removes something, and the calls of libraries that write by themselves. A kill comes
before the write, or in the middle of it: then the file holds a few torn bytes.
"""

from __future__ import annotations

import multiprocessing
import os
import shutil
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow.parquet as pq
import torch
from tqdm import tqdm

from leuk_ray.bundles import bundle as bundle_module
from leuk_ray.bundles.bundle import derive_bundle, load_bundle, open_bundle, write_ensemble
from leuk_ray.bundles.registry import Registry
from leuk_ray.datasets import prepare as prepare_module
from leuk_ray.datasets.images import StorageSettings
from leuk_ray.datasets.layouts.catalogue import LayoutOptions
from leuk_ray.datasets.prepared import PreparedDataset
from leuk_ray.datasets.synthetic import SyntheticSpec, write_c_nmc
from leuk_ray.inference import scope as scope_module
from leuk_ray.inference.check import check_answers
from leuk_ray.inference.onnx_export import export_bundle
from leuk_ray.io.storage import read_json
from leuk_ray.runs import executor as executor_module
from leuk_ray.runs.spec import RunSpec, make_splits, split_key
from leuk_ray.runs.target import EvaluationTarget
from leuk_ray.runs.trial import TrialContext, train_in_process
from leuk_ray.tuning import sweep as sweep_module
from leuk_ray.tuning.settings import SweepSettings
from leuk_ray.workflows.calibrate import calibrate
from leuk_ray.workflows.crossval import crossval
from tests.support.serving_bundles import write_small_bundle

KILLED = 137
_TORN = b'{"torn": '
_NAMED = {"os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.truncate", "os.link", "os.symlink"}


@dataclass(frozen=True)
class Writer:
    """Something that writes under a folder.

    before: makes what lies there at the beginning. work: the command.
    state: what a reader finds, `old` or `new`; raises where it is neither.
    """

    before: Callable[[Path], None]
    work: Callable[[Path], None]
    state: Callable[[Path], str]


class _Kill:
    """Counts writes under a folder, and ends the process at one of them."""

    def __init__(self, folder: Path, at: int, torn: bool) -> None:
        self.prefix, self.at, self.torn = f"{folder}/", at, torn
        self.seen = 0
        self.names: list[str] = []

    def watch(self) -> None:
        sys.addaudithook(self._heard)
        for module, name in (
            (bundle_module, "save_model"), (scope_module, "save_file"), (pq, "write_table"),
            (pq, "ParquetWriter"),
        ):  # fmt: skip
            setattr(module, name, self._announced(getattr(module, name)))

    def _announced(self, function: Callable) -> Callable:
        def call(*arguments: Any, **named: Any) -> Any:
            for argument in arguments:
                if isinstance(argument, str | Path):
                    self._write("library", str(argument), opens=True)
            return function(*arguments, **named)

        return call

    def _heard(self, event: str, arguments: tuple) -> None:
        if event == "open":
            path, _, flags = arguments
            writes = flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC)
            if isinstance(path, str | bytes) and (writes or flags & os.O_DIRECTORY):
                self._write(event, os.fsdecode(path), opens=bool(writes))
        elif event in _NAMED:
            within = isinstance(arguments[-1], int) and arguments[-1] >= 0  # relative to a folder
            path = arguments[0]
            if isinstance(path, str | bytes | os.PathLike):
                path = os.fsdecode(path)
                self._write(event, f"{self.prefix}{path}" if within else path, opens=False)

    def _write(self, event: str, path: str, *, opens: bool) -> None:
        if not path.startswith(self.prefix):
            return
        self.seen += 1
        self.names.append(f"{event} {path.removeprefix(self.prefix)}")
        if self.seen == self.at:
            self.at = -1
            if self.torn and opens and not Path(path).is_dir():
                descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
                os.write(descriptor, _TORN)
            os._exit(KILLED)


def _child(writer: str, folder: Path, at: int, torn: bool, counted: Path) -> None:
    torch.set_num_threads(1)
    tqdm.set_lock(threading.RLock())  # its own would be all children's: one is killed holding it
    quiet = os.open(os.devnull, os.O_WRONLY)
    os.dup2(quiet, 1)
    kill = _Kill(folder, at, torn)
    kill.watch()
    WRITERS[writer].work(folder)
    kill.at = -1
    counted.write_text("\n".join(kill.names))


_fresh = multiprocessing.get_context("forkserver")
_fresh.set_forkserver_preload([__name__])


def run(writer: str, folder: Path, at: int, torn: bool, counted: Path) -> int:
    """The exit code of a writer in a process of its own: 0, or KILLED at write `at` (from 1)."""
    process = _fresh.Process(target=_child, args=(writer, folder, at, torn, counted))
    process.start()
    process.join(120)
    assert process.exitcode is not None, "the writer hangs"
    return process.exitcode


def count_writes(writer: str, before: Path, scratch: Path) -> list[str]:
    """What a writer writes when nobody kills it."""
    folder, counted = scratch / "whole", scratch / "counted"
    shutil.copytree(before, folder, symlinks=True)
    assert run(writer, folder, 0, False, counted) == 0
    assert WRITERS[writer].state(folder) == "new"
    shutil.rmtree(folder)
    return counted.read_text().splitlines()


def kill_at(writer: str, before: Path, scratch: Path, at: int, torn: bool) -> str:
    """Kill a writer at a write, check what a reader finds, and let the next try finish.

    Returns:
        What the reader found: `old` or `new`.
    """
    folder, counted = scratch / "killed", scratch / "counted"
    shutil.copytree(before, folder, symlinks=True)
    assert run(writer, folder, at, torn, counted) == KILLED
    found = WRITERS[writer].state(folder)
    assert found in ("old", "new")
    again = run(writer, folder, 0, False, counted)
    assert again == 0, f"after a kill at write {at} the next try ends with {again}"
    assert WRITERS[writer].state(folder) == "new"
    left = [path for path in folder.rglob("*") if path.name.endswith(".partial") and path.is_dir()]
    assert not left, left
    shutil.rmtree(folder)
    return found


def _bundles(folder: Path) -> None:
    for seed, name in enumerate(("one", "two")):
        write_small_bundle(folder / name, seed=seed)


def _threshold(path: Path) -> float | None:
    return load_bundle(path).manifest.threshold if path.exists() else None


def _made(path: Path) -> str:
    return "old" if _threshold(path) is None else "new"


def _unless_made(path: Path, make: Callable[[], Any]) -> None:
    """A command that refuses to replace: nobody calls it again where its result lies."""
    if not path.exists():
        make()


def _change(folder: Path) -> None:
    derive_bundle(open_bundle(folder / "one"), folder / "one", changes={"threshold": 0.7})


def _changed(folder: Path) -> str:
    return {0.5: "old", 0.7: "new"}[_threshold(folder / "one") or 0]


def _registry(folder: Path) -> None:
    _bundles(folder)
    registry = Registry(folder / "models", check_answers)
    for name in ("one", "two"):
        registry.add(folder / name, "cells")
    registry.promote("cells", 1)


def _answering(folder: Path) -> tuple[int, int]:
    """Version of the champion, and how many there are, all of which load."""
    registry = Registry(folder / "models", check_answers)
    model = registry.show("cells")
    for version in model.versions:
        load_bundle(registry.resolve(f"cells@{version.number}"))
    return int(registry.resolve("cells").name), len(model.versions)


def _images(folder: Path) -> None:
    write_c_nmc(folder / "images", SyntheticSpec(cells=48, subjects=12, seed=1))


class _Here:
    """Ray Data's part in `prepare`: the same tasks in this process."""

    def from_arrow(self, parts: list) -> Any:
        def map_batches(function: Callable, fn_kwargs: dict, **_: Any) -> Any:
            answers = (function(part, **fn_kwargs) for part in parts)
            return SimpleNamespace(context=SimpleNamespace(), iter_batches=lambda **_: answers)

        return SimpleNamespace(map_batches=map_batches)


def _prepare(folder: Path) -> None:
    prepare_module.ray = SimpleNamespace(data=_Here())  # pyright: ignore[reportAttributeAccessIssue]
    target = folder / "cells.dataset"
    storage = StorageSettings(size=32)
    _unless_made(
        target,
        lambda: prepare_module.prepare(
            folder / "images", target, "c-nmc", storage, options=LayoutOptions()
        ),
    )


def _prepared(folder: Path) -> str:
    if not (folder / "cells.dataset").exists():
        return "old"
    dataset = PreparedDataset.open(folder / "cells.dataset")
    assert len(dataset.cells) == 48
    assert dataset.identity.fingerprint == dataset.manifest["fingerprint"]
    assert not dataset.near_duplicates.num_rows + dataset.slides.num_rows
    return "new"


def _with_dataset(folder: Path) -> None:
    _images(folder)
    _prepare(folder)
    shutil.rmtree(folder / "images")
    write_small_bundle(folder / "one", storage=StorageSettings(size=32))


def _calibrate(folder: Path) -> None:
    dataset, target = PreparedDataset.open(folder / "cells.dataset"), folder / "calibrated"
    _unless_made(target, lambda: calibrate(EvaluationTarget(folder / "one", None), dataset, target))


SWEEP = SweepSettings(
    name="small", recipe="bukhari2022-se", seeds=(0,), finalists=1, top=1, searcher="grid",
    search={"training.lr": {"choice": [1e-3]}},  # pyright: ignore[reportArgumentType]
    overrides={
        "split.protocol": "subject-disjoint", "model.filters": (2, 3, 4), "model.input_size": 32,
        "training.balance": "none", "training.epochs": 1, "training.batch_size": 8,
        "augment.policy": "none",
    },
)  # fmt: skip


def _fit_here(_: Any, shared: TrialContext, names: Any, recorder: Any, scheduler: Any) -> None:
    """Tune's part: each run in this process."""
    while (config := names.suggest("")) != names.FINISHED:
        trial = SimpleNamespace(trial_id=config["spec"]["run"], config=config, last_result=None)
        recorder.on_trial_start(0, [], trial)
        spec = RunSpec(trial.trial_id, SWEEP.base(), config["spec"]["overrides"])
        train_in_process(spec, shared, lambda metrics, _, trial=trial: vars(trial).update(
            last_result=metrics
        ))  # fmt: skip
        recorder.on_trial_complete(0, [], trial)


def _add(at: Path) -> None:
    Registry(at / "models", check_answers).add(at / "two", "cells")


def _run_here() -> None:
    """Have executors place their runs in this process."""
    nodes = [{"Alive": True, "Resources": {"CPU": 2.0}}]
    executor_module.ray = SimpleNamespace(nodes=lambda: nodes)  # pyright: ignore[reportAttributeAccessIssue]
    executor_module._check_shared = lambda root: None
    executor_module.Executor._fit = _fit_here  # pyright: ignore[reportAttributeAccessIssue]


def _tune(folder: Path) -> None:
    _run_here()
    dataset = PreparedDataset.open(folder / "cells.dataset")
    sweep_module.run_sweep(SWEEP, dataset, folder / "sweep", resume=True)


def _crossval(folder: Path) -> None:
    _run_here()
    dataset = PreparedDataset.open(folder / "cells.dataset")
    at, bundle = folder / "crossval", folder / "voted"
    made = bundle.exists()  # nobody names it again: `crossval` refuses to replace it
    crossval(
        SWEEP.base(), dataset, at, folds=2, connect=lambda: None, resources=SWEEP.resources,
        resume=at.exists(), show_images=False, bundle=None if made else bundle,
    )  # fmt: skip


def _crossvalidated(folder: Path) -> str:
    """Whatever parts are there are whole; the ensemble comes last."""
    for place in folder.glob("crossval/runs/*/bundle"):
        load_bundle(place)
    report = folder / "crossval" / "report"
    if report.exists():
        assert read_json(report / "report.json")
        assert pq.read_table(report / "predictions.parquet").num_rows >= 48
    return _made(folder / "voted")


def _tuned(folder: Path) -> str:
    """Whatever parts of a sweep are there are whole; all of them are the new state."""
    sweep = folder / "sweep"
    for place in [*sweep.glob("runs/*/bundle"), *sweep.glob("top/*")]:
        if not place.name.endswith(".partial"):
            load_bundle(place)
    for name in ("winner", "report"):
        if (sweep / name).exists():
            assert read_json(sweep / name / "report.json")
            assert (sweep / name / "report.html").stat().st_size > 1000
    if (sweep / "winner").exists():
        assert (sweep / "winner" / "run.txt").read_text() == "000"
        assert pq.read_table(sweep / "winner" / "predictions.parquet").num_rows
    return "new" if (sweep / "report").exists() else "old"


def _run(folder: Path) -> None:
    """A run with its report, as experiments and sweeps repeat it."""
    dataset = PreparedDataset.open(folder / "cells.dataset")
    recipe = SWEEP.base()
    splits = make_splits(dataset, [recipe])
    shared = TrialContext(folder / "runs", dataset, splits, SWEEP.resources, 1, True, False)
    assert split_key(recipe) in splits
    train_in_process(RunSpec("000", recipe, {}), shared, lambda metrics, save: None)


def _ran(folder: Path) -> str:
    run = folder / "runs" / "000"
    if (run / "bundle").exists():
        load_bundle(run / "bundle")
    if not (run / "report").exists():
        return "old"
    assert pq.read_table(run / "report" / "predictions.parquet").num_rows
    assert read_json(run / "report" / "report.json")
    return "new" if load_bundle(run / "bundle").manifest.test else "old"


WRITERS = {
    "export": Writer(
        _bundles,
        lambda at: _unless_made(
            at / "copy", lambda: export_bundle(at / "one", at / "copy", onnx=False)
        ),
        lambda at: _made(at / "copy"),
    ),
    "a bundle changed in place": Writer(_bundles, _change, _changed),
    "ensemble": Writer(
        _bundles,
        lambda at: _unless_made(
            at / "voted", lambda: write_ensemble(at / "voted", [at / "one", at / "two"], "soft")
        ),
        lambda at: _made(at / "voted"),
    ),
    "models add": Writer(
        _registry,
        _add,
        lambda at: "old" if _answering(at) == (1, 2) else "new",
    ),
    "models promote": Writer(
        _registry,
        lambda at: Registry(at / "models", check_answers).promote("cells", 2),
        lambda at: {(1, 2): "old", (2, 2): "new"}[_answering(at)],
    ),
    "prepare": Writer(_images, _prepare, _prepared),
    "calibrate": Writer(_with_dataset, _calibrate, lambda at: _made(at / "calibrated")),
    "a judged run": Writer(_with_dataset, _run, _ran),
    "tune": Writer(_with_dataset, _tune, _tuned),
    "crossval": Writer(_with_dataset, _crossval, _crossvalidated),
}
