"""What early stopping costs and saves: ASHA against running every configuration to its end.

Five searches with different seeds on SYNTHETIC cells (asha_regret.yaml), each once with ASHA on Ray
Tune, and every one of its configurations once to its end, one after the other in this process; a
run is a function of its seed, so the two train alike as long as both train. Regret is how much
worse the best run is that ASHA found than the best there was. It should lie within the SD of the
best over the searches, for at most half of the epochs.

    .venv/bin/python benchmarks/asha_regret.py --out asha_regret

Killed, it goes on where it was: runs that have ended stay in the folder.
"""

import argparse
import statistics
from pathlib import Path

import ray

from leuk_ray import cluster
from leuk_ray.datasets.prepare import prepare
from leuk_ray.datasets.prepared import PreparedDataset
from leuk_ray.datasets.splits import split_cells
from leuk_ray.datasets.synthetic import SyntheticSpec, write_c_nmc
from leuk_ray.images import StorageSettings
from leuk_ray.progress import bar
from leuk_ray.runs.executor import Executor
from leuk_ray.runs.folder import read_history
from leuk_ray.runs.spec import RunSpec, split_key
from leuk_ray.runs.table import RunTable
from leuk_ray.runs.trial import Shared, train_in_process
from leuk_ray.storage import write_json
from leuk_ray.tuning.schedulers import make_scheduler
from leuk_ray.tuning.searchers import listed
from leuk_ray.tuning.settings import SweepSettings, load_sweep

SWEEP = Path(__file__).with_suffix(".yaml")
Curves = dict[str, list[float]]  # of each run by name: the score after each epoch


def specs_of(sweep: SweepSettings) -> list[RunSpec]:
    return listed(sweep) or []


def recorded(out: Path) -> Curves:
    return {name: record.curve for name, record in RunTable(out / "runs.jsonl").records().items()}


def search(out: Path, sweep: SweepSettings, data: Path) -> None:
    """One search as `leuk-ray tune` does it; what it has recorded already is not repeated."""
    cluster.connect(num_workers=0)
    if not data.exists():
        write_c_nmc(data.parent / "cells", SyntheticSpec())
        prepare(data.parent / "cells", data, "c-nmc", StorageSettings(size=64))
    out.mkdir(parents=True, exist_ok=True)
    dataset = PreparedDataset.open(str(data))
    executor = Executor(out, dataset, sweep.resources, [sweep.base()], judged=False)
    told = executor.table.records().values()
    executor.run_all(specs_of(sweep), out.name, make_scheduler(sweep, told))


def train_to_end(out: Path, sweep: SweepSettings, data: Path) -> Curves:
    """Every configuration of a search to its end."""
    dataset, base, curves = PreparedDataset.open(str(data)), sweep.base(), {}
    splits = {split_key(base): split_cells(dataset.cells, base.split)}
    shared = Shared(out, dataset, splits, sweep.resources, 1, judged=False, checkpoints=False)
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
    """A search's line of the table; `apart`: how far curves of one run differ, at most."""
    best, found = (max(map(max, curves.values())) for curves in (to_end, asha))
    apart = [
        abs(a - b)
        for name, curve in asha.items()
        for a, b in zip(curve, to_end[name], strict=False)
    ]
    return {
        "seed": seed,
        "to_end": best,
        "asha": found,
        "regret": best - found,
        "epochs": sum(map(len, to_end.values())),
        "asha_epochs": sum(map(len, asha.values())),
        "apart": max(apart),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder of the runs and the JSON")
    parser.add_argument("--searches", type=int, default=5)
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="as `leuk-ray tune`")
    arguments = parser.parse_args()
    out, data = arguments.out, arguments.out / "dataset"
    sweeps = [
        load_sweep(str(SWEEP), [*arguments.overrides, f"seeds=[{seed}]"])
        for seed in range(arguments.searches)
    ]
    for seed, sweep in enumerate(sweeps):
        if len(recorded(out / f"asha-{seed}")) < len(specs_of(sweep)):
            search(out / f"asha-{seed}", sweep, data)
    ray.shutdown()
    rows = []
    for seed, sweep in enumerate(sweeps):
        to_end = train_to_end(out / f"to-end-{seed}", sweep, data)
        rows.append(compare(seed, recorded(out / f"asha-{seed}"), to_end))
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
        f"epochs; curves of one run lie {max(row['apart'] for row in rows):.1e} apart at most"
    )
    figures = {"rows": rows, "regret": regret, "spread": spread, "share": share}
    write_json(out / "asha_regret.json", {"synthetic": True} | figures)


if __name__ == "__main__":
    main()
