"""What early stopping costs and saves: ASHA against running every configuration to its end.

Five searches with different seeds on SYNTHETIC cells (asha_regret.yaml). Every configuration is
trained once to its end, and its curve kept. ASHA, set up as `leuk-ray tune` does it, then decides
on these curves, two runs going side by side: what it stops ends there, since a run is a function
of its seed. Regret is how much worse the best run is that ASHA found than the best there was. It
should lie within the SD of the best over the searches, for at most half of the epochs.

    .venv/bin/python benchmarks/asha_regret.py --data demo/dataset --out asha_regret

`--on-ray` makes the searches on Ray Tune instead, where chance decides which run reports first.
Killed, it goes on where it was: runs that have ended stay in the folder.
"""

import argparse
import statistics
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from ray.tune.schedulers import TrialScheduler

from leuk_ray.cluster import ray_cluster
from leuk_ray.datasets.prepared import PreparedDataset
from leuk_ray.io.storage import write_json
from leuk_ray.runs.executor import Executor
from leuk_ray.runs.folder import read_history
from leuk_ray.runs.spec import RunSpec, make_splits
from leuk_ray.runs.table import RunTable
from leuk_ray.runs.trial import Shared, train_in_process
from leuk_ray.tuning.schedulers import make_scheduler
from leuk_ray.tuning.searchers import listed
from leuk_ray.tuning.settings import SweepSettings, load_sweep
from leuk_ray.utils.progress import bar

SWEEP = Path(__file__).with_suffix(".yaml")
SIDE_BY_SIDE = 2
Curves = dict[str, list[float]]  # of each run by name: the score after each epoch


def specs_of(sweep: SweepSettings) -> list[RunSpec]:
    return listed(sweep) or []


def recorded(out: Path) -> Curves:
    return {name: record.curve for name, record in RunTable(out / "runs.jsonl").records().items()}


def search_on_ray(out: Path, sweep: SweepSettings, dataset: PreparedDataset) -> Curves:
    """One search by Ray Tune; what it has recorded already is not repeated."""
    if len(recorded(out)) < len(specs_of(sweep)):
        ray_cluster.connect(num_workers=0)
        out.mkdir(parents=True, exist_ok=True)
        splits = make_splits(dataset, [sweep.base()])
        executor = Executor(out, dataset, sweep.resources, splits, evaluated=False)
        told = executor.table.records().values()
        executor.run_all(specs_of(sweep), out.name, make_scheduler(sweep, told))
    return recorded(out)


def search(sweep: SweepSettings, to_end: Curves) -> Curves:
    """One search on curves that are known: how far ASHA lets each of them go."""
    scheduler, controller = cast("Any", make_scheduler(sweep)), None
    waiting, active, seen = list(to_end), [], {}
    while waiting or active:
        while waiting and len(active) < SIDE_BY_SIDE:
            active.append(SimpleNamespace(trial_id=waiting.pop(0)))
            scheduler.on_trial_add(controller, active[-1])
            seen[active[-1].trial_id] = []
        for trial in list(active):
            curve, known = seen[trial.trial_id], to_end[trial.trial_id]
            curve.append(known[len(curve)])
            ended = len(curve) == len(known)
            result = {"epoch": len(curve), "selection": curve[-1], "ended": ended}
            decision = scheduler.on_trial_result(controller, trial, result)
            if ended or decision == TrialScheduler.STOP:
                scheduler.on_trial_complete(controller, trial, result)
                active.remove(trial)
    return seen


def train_to_end(out: Path, sweep: SweepSettings, dataset: PreparedDataset) -> Curves:
    """Every configuration of a search to its end."""
    base, curves = sweep.base(), {}
    splits = make_splits(dataset, [base])
    shared = Shared(out, dataset, splits, sweep.resources, 1, evaluated=False, checkpoints=False)
    out.mkdir(parents=True, exist_ok=True)
    specs = specs_of(sweep)
    with bar(out.name, "run") as progress:
        for number, spec in enumerate(specs, 1):
            history = read_history(out / spec.name)
            if not history or not history[-1]["ended"]:
                train_in_process(spec, shared, lambda metrics, save: None)
                history = read_history(out / spec.name)
            curves[spec.name] = [line["selection"] for line in history]
            progress(number, len(specs))
    return curves


def compare(seed: int, asha: Curves, to_end: Curves) -> dict[str, float]:
    """A search's line of the table."""
    best, found = (max(map(max, curves.values())) for curves in (to_end, asha))
    return {
        "seed": seed,
        "to_end": best,
        "asha": found,
        "regret": best - found,
        "epochs": sum(map(len, to_end.values())),
        "asha_epochs": sum(map(len, asha.values())),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, help="a prepared dataset of SYNTHETIC cells")
    parser.add_argument("--out", type=Path, required=True, help="folder of the runs and the JSON")
    parser.add_argument("--searches", type=int, default=5)
    parser.add_argument("--on-ray", action="store_true", help="search on Ray Tune")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="as `leuk-ray tune`")
    arguments = parser.parse_args()
    out, dataset = arguments.out, PreparedDataset.open(arguments.data)
    rows = []
    for seed in range(arguments.searches):
        sweep = load_sweep(str(SWEEP), [*arguments.overrides, f"seeds=[{seed}]"])
        to_end = train_to_end(out / f"to-end-{seed}", sweep, dataset)
        on_ray, folder = arguments.on_ray, out / f"asha-{seed}"
        asha = search_on_ray(folder, sweep, dataset) if on_ray else search(sweep, to_end)
        rows.append(compare(seed, asha, to_end))
    print(f"{'seed':>4} {'to the end':>10} {'ASHA':>7} {'regret':>7} {'epochs':>7} {'share':>6}")
    for row in rows:
        print(
            f"{row['seed']:4} {row['to_end']:10.4f} {row['asha']:7.4f} {row['regret']:7.4f} "
            f"{row['asha_epochs']:3}/{row['epochs']:3} {row['asha_epochs'] / row['epochs']:6.0%}"
        )
    spread = statistics.stdev(row["to_end"] for row in rows)
    regret = statistics.mean(row["regret"] for row in rows)
    share = sum(row["asha_epochs"] for row in rows) / sum(row["epochs"] for row in rows)
    print(
        f"mean regret {regret:.4f}, SD of the best over searches {spread:.4f}, {share:.0%} of the "
        "epochs"
    )
    figures = {"rows": rows, "regret": regret, "spread": spread, "share": share}
    write_json(
        out / "asha_regret.json",
        {"synthetic": dataset.synthetic, "on_ray": arguments.on_ray} | figures,
    )


if __name__ == "__main__":
    main()
