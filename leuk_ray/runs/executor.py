"""The executor: runs side by side on the free resources, each recorded when it ends.

Ray Tune places the runs and keeps their processes for the next ones. What is to be run comes
from a `Proposer`: a fixed list for an experiment, a searcher for a sweep. What has been run is
our own table and nothing of Tune's, so a killed driver goes on from there.
"""

from __future__ import annotations

import os
import shutil
import statistics
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa
import ray
from ray import tune
from ray.tune.schedulers import TrialScheduler
from ray.tune.search.searcher import Searcher
from typing_extensions import override

from leuk_ray.bundle import read_facts
from leuk_ray.config import Recipe
from leuk_ray.datasets.prepared import PreparedDataset, fingerprint
from leuk_ray.datasets.splits import split_cells
from leuk_ray.progress import bar, note
from leuk_ray.runs.folder import read_history, read_steps
from leuk_ray.runs.placement import Resources, place
from leuk_ray.runs.spec import RunSpec, split_key
from leuk_ray.runs.table import RunRecord, RunTable
from leuk_ray.runs.trial import Shared, run_trial

_QUIET_TUNE = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # the table and the run's folder say it all
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # Ctrl-C ends the command and not this search alone
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",  # a failed run reports no metric
}


class Proposer(Protocol):
    """Says which run comes next."""

    def propose(self) -> RunSpec | None:
        """The next run; None when there is no more."""
        ...

    def tell(self, record: RunRecord) -> None:
        """Hear what became of a run."""
        ...


class FixedList:
    """Runs known beforehand, in order."""

    def __init__(self, specs: Iterable[RunSpec]) -> None:
        self.specs = iter(specs)

    def propose(self) -> RunSpec | None:
        """See Proposer."""
        return next(self.specs, None)

    def tell(self, record: RunRecord) -> None:
        """See Proposer."""


class Executor:
    """Runs on one dataset in one folder: `root/runs.jsonl`, `root/runs/NAME/`."""

    def __init__(
        self,
        root: Path,
        dataset: PreparedDataset,
        resources: Resources,
        recipes: Iterable[Recipe],
        *,
        judged: bool,
        on_record: Callable[[RunRecord], None] = lambda record: None,
    ) -> None:
        """Work out what fits; Ray must be initialised.

        Args:
            root: folder of the table and the runs; on a cluster, on storage that all nodes see.
            dataset: what all runs train on.
            resources: what one run takes.
            recipes: of all runs; every split they ask for is computed here, once.
            judged: also score each run's validation and test cells, and report on them.
            on_record: called when a run is in the table.

        Raises:
            UserError: not even one run can ever be placed, or a split cannot be made.
        """
        self.root = root.absolute()
        self.table = RunTable(self.root / "runs.jsonl")
        self.dataset = dataset
        self.resources = resources
        self.judged = judged
        self.on_record = on_record
        self.splits: dict[str, pa.Table] = {}
        for recipe in recipes:
            if split_key(recipe) not in self.splits:
                self.splits[split_key(recipe)] = split_cells(dataset.cells, recipe.split)
        self.placement = place(
            resources, [node["Resources"] for node in ray.nodes() if node["Alive"]]
        )

    def run(
        self,
        proposer: Proposer,
        title: str,
        total: int,
        scheduler: TrialScheduler | None = None,
        checkpoints: bool = False,
    ) -> None:
        """Do what is proposed; a run that fails is recorded with its reason and stops no other.

        Args:
            proposer: what to run; it never proposes what the table has as done.
            title: of the progress bar.
            total: how many runs will be proposed, for the bar.
            scheduler: ends or changes runs early; None lets all run to their end.
            checkpoints: the scheduler hands weights from run to run.
        """
        note(f"{title}: {self.placement.text}")
        names = _Names(proposer)
        with bar(title, "run") as progress:
            recorder = _Recorder(self, names, lambda done: progress(done, total))
            self._fit(names, recorder, scheduler, checkpoints)

    def run_all(
        self,
        specs: Iterable[RunSpec],
        title: str,
        scheduler: TrialScheduler | None = None,
        checkpoints: bool = False,
    ) -> None:
        """Do the runs of a list that the table has not as done; see `run`."""
        records = self.table.records()
        done = {name for name, record in records.items() if record.done}
        pending = [spec for spec in specs if spec.name not in done]
        if pending:
            self.run(FixedList(pending), title, len(pending), scheduler, checkpoints)

    def _fit(
        self,
        names: _Names,
        recorder: _Recorder,
        scheduler: TrialScheduler | None,
        checkpoints: bool,
    ) -> None:
        for name, value in _QUIET_TUNE.items():
            os.environ.setdefault(name, value)
        shared = Shared(
            root=self.root / "runs",
            dataset=self.dataset,
            splits=self.splits,
            resources=self.resources,
            side_by_side=self.placement.side_by_side,
            judged=self.judged,
            checkpoints=checkpoints,
        )
        one_process = self.resources.workers == 1
        scratch = self.root / "tune"  # Tune's own records and a population's checkpoints
        shutil.rmtree(scratch, ignore_errors=True)
        trainable = tune.with_resources(
            tune.with_parameters(run_trial, shared=shared),
            tune.PlacementGroupFactory(
                [{"CPU": self.resources.cpus, "GPU": self.resources.gpus}]
                if one_process
                else [{"CPU": 0.01}]  # Ray Train holds what its workers need
            ),
        )
        tune.Tuner(
            trainable,
            tune_config=tune.TuneConfig(
                metric="selection",
                mode="max",
                search_alg=names,
                scheduler=scheduler,
                num_samples=-1,
                max_concurrent_trials=self.placement.side_by_side,
                reuse_actors=one_process,
                trial_dirname_creator=lambda trial: trial.config["run"],
            ),
            run_config=tune.RunConfig(
                storage_path=str(scratch),
                name="trials",
                verbose=0,
                callbacks=[recorder],
                checkpoint_config=tune.CheckpointConfig(num_to_keep=2),
            ),
        ).fit()
        shutil.rmtree(scratch, ignore_errors=True)


class _Names(Searcher):
    """Hands a proposer's runs to Tune, and remembers which trial is which run."""

    def __init__(self, proposer: Proposer) -> None:
        super().__init__(metric="selection", mode="max")
        self.proposer = proposer
        self.specs: dict[str, RunSpec] = {}

    @override
    def suggest(self, trial_id: str) -> Any:
        """See Searcher."""
        spec = self.proposer.propose()
        if spec is None:
            return Searcher.FINISHED
        self.specs[trial_id] = spec
        return {
            "run": spec.name,
            "recipe": spec.recipe.model_dump(mode="json"),
            "overrides": spec.overrides,
        }

    @override
    def on_trial_complete(
        self, trial_id: str, result: dict | None = None, error: bool = False
    ) -> None:
        """The recorder tells the proposer, who wants the record."""

    @override
    def save(self, checkpoint_path: str) -> None:
        """Nothing to save: our table is what a sweep goes on from."""

    @override
    def restore(self, checkpoint_path: str) -> None:
        """See save."""


class _Recorder(tune.Callback):
    """Makes a record of every trial that ends."""

    def __init__(self, executor: Executor, names: _Names, progress: Callable[[int], None]) -> None:
        self.executor = executor
        self.names = names
        self.progress = progress
        self.started: dict[str, float] = {}
        self.num_done = 0

    @override
    def on_trial_start(self, iteration: int, trials: list, trial: Any, **info: Any) -> None:
        """Start the clock; a trial that was paused goes on with its own."""
        self.started.setdefault(trial.trial_id, time.monotonic())

    @override
    def on_trial_complete(self, iteration: int, trials: list, trial: Any, **info: Any) -> None:
        """Record a trial that ended by itself or was stopped."""
        result = trial.last_result or {}
        if "failure" in result:
            self._record(trial, "failed", result["failure"])
        elif result.get("ended"):
            self._record(trial, "finished", result["ended"])
        else:
            reason = f"stopped after epoch {result.get('epoch', 0)}: others did better"
            self._record(trial, "stopped", reason)

    @override
    def on_trial_error(self, iteration: int, trials: list, trial: Any, **info: Any) -> None:
        """Record a trial whose process died."""
        lines = str(trial.get_error() or "the process died").strip().splitlines()
        self._record(trial, "failed", f"the process died: {lines[-1]}")

    def _record(self, trial: Any, status: Any, reason: str) -> None:
        executor, spec = self.executor, self.names.specs[trial.trial_id]
        spec = RunSpec(spec.name, spec.recipe, trial.config["overrides"])  # a population's change
        recipe = spec.resolved
        path = executor.root / "runs" / spec.name
        history = read_history(path)
        record = RunRecord(
            name=spec.name,
            status=status,
            recipe=recipe.name,
            overrides=spec.overrides,
            seed=recipe.seed,
            reason=reason,
            metrics=_best(path, history),
            curve=[line["selection"] for line in history],
            seconds=round(time.monotonic() - self.started.get(trial.trial_id, time.monotonic()), 1),
            bundle=(path / "bundle" / "bundle.json").exists(),
            lineage={
                "dataset": executor.dataset.facts["fingerprint"],
                "split": split_fingerprint(executor.splits[split_key(recipe)]),
                "steps": read_steps(path),
            },
        )
        executor.table.append(record)
        self.num_done += 1
        score = "" if record.score is None else f", {record.score:.4f}"
        epochs = f"{len(record.curve)} epochs, {record.seconds:.0f} s{score}"
        note(f"  {record.name}: {status}, {epochs}; {reason}")
        self.progress(self.num_done)
        self.names.proposer.tell(record)
        executor.on_record(record)


def _best(path: Path, history: list[dict[str, Any]]) -> dict[str, Any]:
    """Metrics of the epoch in the bundle; without one, of the best epoch."""
    if (path / "bundle" / "bundle.json").exists():
        best = read_facts(path / "bundle").metrics
        rates = [line["images_per_second"] for line in history]
        return best | {"images_per_second": statistics.median(rates)}
    return max(history, key=lambda line: line["selection"], default={})


def split_fingerprint(split: pa.Table) -> str:
    """sha256 over who has which role: the same for the same split."""
    uids, roles = split["uid"].to_pylist(), split["role"].to_pylist()
    return fingerprint([f"{uid} {role}" for uid, role in zip(uids, roles, strict=True)])
