"""What early stopping costs and saves: ASHA against running every configuration to its end.

Five searches with different seeds on SYNTHETIC cells (asha_regret.yaml), each once with ASHA and
once without: the same configurations in both. Regret is how much worse the best run is that ASHA
found than the best there was. It should lie within the SD of the best over the searches, for at
most half of the epochs.

    .venv/bin/python benchmarks/asha_regret.py --out asha_regret

Killed, it goes on where it was: runs that have ended stay in the folder.
"""

import argparse
import statistics
from pathlib import Path

from leuk_ray import cluster
from leuk_ray.datasets.prepare import prepare
from leuk_ray.datasets.prepared import PreparedDataset
from leuk_ray.datasets.synthetic import SyntheticSpec, write_c_nmc
from leuk_ray.images import StorageSettings
from leuk_ray.runs.executor import Executor
from leuk_ray.runs.spec import RunSpec
from leuk_ray.runs.table import RunRecord
from leuk_ray.storage import write_json
from leuk_ray.tuning.schedulers import make_scheduler
from leuk_ray.tuning.searchers import listed
from leuk_ray.tuning.settings import SweepSettings, load_sweep

SWEEP = Path(__file__).with_suffix(".yaml")


def make_dataset(root: Path) -> PreparedDataset:
    """600 SYNTHETIC cells of 24 subjects."""
    if not (root / "dataset").exists():
        write_c_nmc(root / "cells", SyntheticSpec())
        prepare(root / "cells", root / "dataset", "c-nmc", StorageSettings(size=64))
    return PreparedDataset.open(str(root / "dataset"))


def executor(out: Path, sweep: SweepSettings, dataset: PreparedDataset) -> Executor:
    """An executor in the folder `out`."""
    out.mkdir(parents=True, exist_ok=True)
    return Executor(out, dataset, sweep.resources, [sweep.base()], judged=False)


def run_to_end(
    out: Path, sweeps: list[SweepSettings], dataset: PreparedDataset
) -> list[list[RunRecord]]:
    """Every configuration of every search to its end; the records of each search."""
    runs = [
        [
            RunSpec(f"{seed}-{spec.name}", spec.recipe, spec.overrides)
            for spec in listed(sweep) or []
        ]
        for seed, sweep in enumerate(sweeps)
    ]
    together = executor(out, sweeps[0], dataset)
    together.run_all([spec for search in runs for spec in search], "to the end")
    records = together.table.records()
    return [[records[spec.name] for spec in search] for search in runs]


def run_asha(out: Path, sweep: SweepSettings, dataset: PreparedDataset) -> list[RunRecord]:
    """One search as `leuk-ray tune` does it."""
    alone = executor(out, sweep, dataset)
    told = alone.table.records().values()
    alone.run_all(listed(sweep) or [], out.name, make_scheduler(sweep, told))
    return list(alone.table.records().values())


def best(records: list[RunRecord]) -> float:
    return max(record.score for record in records if record.score is not None)


def epochs(records: list[RunRecord]) -> int:
    return sum(len(record.curve) for record in records)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder of the runs and the JSON")
    parser.add_argument("--searches", type=int, default=5)
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="as `leuk-ray tune`")
    arguments = parser.parse_args()
    cluster.connect(num_workers=0)
    dataset = make_dataset(arguments.out)
    sweeps = [
        load_sweep(str(SWEEP), [*arguments.overrides, f"seeds=[{seed}]"])
        for seed in range(arguments.searches)
    ]
    all_to_end = run_to_end(arguments.out / "to-end", sweeps, dataset)
    rows = []
    print(f"{'seed':>4} {'to the end':>10} {'ASHA':>7} {'regret':>7} {'epochs':>7} {'share':>6}")
    for seed, (sweep, to_end) in enumerate(zip(sweeps, all_to_end, strict=True)):
        asha = run_asha(arguments.out / f"asha-{seed}", sweep, dataset)
        row = {
            "seed": seed,
            "to_end": best(to_end),
            "asha": best(asha),
            "regret": best(to_end) - best(asha),
            "epochs": epochs(to_end),
            "asha_epochs": epochs(asha),
        }
        rows.append(row)
        print(
            f"{seed:4} {row['to_end']:10.4f} {row['asha']:7.4f} {row['regret']:7.4f} "
            f"{row['asha_epochs']:3}/{row['epochs']:3} {row['asha_epochs'] / row['epochs']:6.0%}",
            flush=True,
        )
    spread = statistics.stdev(row["to_end"] for row in rows)
    regret = statistics.mean(row["regret"] for row in rows)
    share = sum(row["asha_epochs"] for row in rows) / sum(row["epochs"] for row in rows)
    print(
        f"mean regret {regret:.4f}, SD of the best over searches {spread:.4f}, {share:.0%} epochs"
    )
    write_json(
        arguments.out / "asha_regret.json",
        {"synthetic": True, "rows": rows, "regret": regret, "spread": spread, "share": share},
    )


if __name__ == "__main__":
    main()
