"""The executor: runs side by side on the free resources, each recorded when it ends.

Ray Tune places the runs and keeps their processes for the next ones. What is to be run comes
from a `Proposer`: a fixed list for an experiment, a searcher for a sweep. What has been run is
our own table and nothing of Tune's, so a killed driver goes on from there.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa
import ray
from ray import tune
from ray.tune.schedulers import TrialScheduler
from ray.tune.search.searcher import Searcher
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
from typing_extensions import override

from leuk_ray.datasets.prepared import PreparedDataset
from leuk_ray.runs.placement import DRIVER_CPUS, Resources, place
from leuk_ray.runs.recorder import Recorder
from leuk_ray.runs.spec import RunSpec
from leuk_ray.runs.table import RunRecord, RunTable
from leuk_ray.runs.trial import TrialContext, run_trial
from leuk_ray.utils.errors import StorageError
from leuk_ray.utils.progress import bar, note
from leuk_ray.utils.wording import counted

_QUIET_TUNE = {
    "RAY_AIR_NEW_OUTPUT": "0",  # which prints on stdout, whatever verbosity is asked for
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # the table and the run's folder say it all
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # Ctrl-C ends the command and not this search alone
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",  # a failed run reports no metric
}


class Proposer(Protocol):
    """Says which run comes next."""

    def propose(self) -> RunSpec | None:
        """Return the next run; None when there is no more."""
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
        splits: Mapping[str, pa.Table],
        *,
        evaluated: bool,
        on_record: Callable[[RunRecord], None] = lambda record: None,
    ) -> None:
        """Work out what fits; Ray must be initialised.

        Args:
            root: folder of the table and the runs; on a cluster, on storage that all nodes see.
            dataset: what all runs train on.
            resources: what one run takes.
            splits: of all runs, see `spec.make_splits`.
            evaluated: also score each run's validation and test cells, and report on them.
            on_record: called when a run is in the table.

        Raises:
            UserError: not even one run can ever be placed.
        """
        self.root = root.absolute()
        self.table = RunTable(self.root / "runs.jsonl")
        self.dataset = dataset
        self.resources = resources
        self.evaluated = evaluated
        self.on_record = on_record
        self.splits = dict(splits)
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
        _check_shared(self.root)
        note(f"{title}: {self.placement.text}")
        shared = TrialContext(
            root=self.root / "runs",
            dataset=self.dataset,
            splits=self.splits,
            resources=self.resources,
            side_by_side=self.placement.side_by_side,
            evaluated=self.evaluated,
            checkpoints=checkpoints,
        )
        names = _Names(proposer)
        num_done = 0

        def ended(record: RunRecord) -> None:
            nonlocal num_done
            num_done += 1
            self.table.append(record)
            note(f"  {_line(record, names.specs[record.name].recipe.training.select)}")
            progress(num_done, total)
            proposer.tell(record)
            self.on_record(record)

        with bar(title, "run") as progress:
            progress(0, total)
            self._fit(shared, names, Recorder(shared, names.specs, ended), scheduler)

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
        shared: TrialContext,
        names: _Names,
        recorder: Recorder,
        scheduler: TrialScheduler | None,
    ) -> None:
        for name, value in _QUIET_TUNE.items():
            os.environ.setdefault(name, value)
        one_process = self.resources.workers == 1
        # A population is known from the start and time-shares what there is.
        population = {"spec": tune.grid_search(names.all())} if shared.checkpoints else None
        scratch = self.root / "tune"  # Tune's own records and a population's checkpoints
        shutil.rmtree(scratch, ignore_errors=True)
        trainable = tune.with_resources(
            tune.with_parameters(run_trial, shared=shared),
            tune.PlacementGroupFactory(
                [{"CPU": self.resources.cpus, "GPU": self.resources.gpus}]
                if one_process
                else [{"CPU": DRIVER_CPUS}]  # Ray Train holds what its workers need
            ),
        )
        tune.Tuner(
            trainable,
            param_space=population,
            tune_config=tune.TuneConfig(
                search_alg=None if population else names,
                scheduler=scheduler,
                num_samples=1 if population else -1,
                max_concurrent_trials=None if population else self.placement.side_by_side,
                reuse_actors=one_process,
                trial_dirname_creator=lambda trial: trial.config["spec"]["run"],
            ),
            run_config=tune.RunConfig(
                storage_path=str(scratch),
                name="trials",
                verbose=0,
                callbacks=[recorder],
                # All: the loser of a population may come late for a winner's checkpoint.
                checkpoint_config=tune.CheckpointConfig(num_to_keep=None),
            ),
        ).fit()
        shutil.rmtree(scratch, ignore_errors=True)


class _Names(Searcher):
    """Hands a proposer's runs to Tune, and remembers them by name."""

    def __init__(self, proposer: Proposer) -> None:
        super().__init__(metric="selection", mode="max")
        self.proposer = proposer
        self.specs: dict[str, RunSpec] = {}

    def __getstate__(self) -> dict[str, Any]:
        """Nothing: Tune pickles its searcher to restore from, and we never do."""
        return {}

    @override
    def suggest(self, trial_id: str) -> Any:
        """See Searcher."""
        return self._next() or Searcher.FINISHED

    def all(self) -> list[dict[str, Any]]:
        """Return every run that is proposed, at once, for a grid."""
        return [config["spec"] for config in iter(self._next, None)]

    def _next(self) -> dict[str, Any] | None:
        spec = self.proposer.propose()
        if spec is None:
            return None
        self.specs[spec.name] = spec
        config = {
            "run": spec.name,
            "recipe": spec.recipe.model_dump(mode="json"),
            "overrides": spec.overrides,
        }
        return {"spec": config}

    @override
    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Pass the record on to the searcher."""

    @override
    def save(self, checkpoint_path: str) -> None:
        """Nothing to save: our table is what a sweep goes on from."""

    @override
    def restore(self, checkpoint_path: str) -> None:
        """See save."""


def _line(record: RunRecord, metric: str) -> str:
    value = record.metrics.get(metric)
    score = "" if value is None else f", {metric} {value:.4f}"
    did = f"{counted(len(record.curve), 'epoch')} in {record.seconds:.0f} s{score}"
    return f"{record.name}: {record.status}, {did}; {record.reason}"


def _check_shared(root: Path) -> None:
    """Refuse a folder that some node does not see, before a run is lost there."""
    here = ray.get_runtime_context().get_node_id()
    others = [node for node in ray.nodes() if node["Alive"] and node["NodeID"] != here]
    exists = ray.remote(num_cpus=0)(Path.exists)
    asked = {
        node["NodeManagerHostname"]: exists.options(
            scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        ).remote(root)
        for node in others
    }
    blind = [name for name, answer in asked.items() if not ray.get(answer)]
    if blind:
        raise StorageError(
            f"{root}: is not seen by {', '.join(blind)}; name a folder on storage that all nodes "
            "share"
        )
