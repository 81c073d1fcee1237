"""What early stopping costs and saves: ASHA against running every configuration to its end.

Five searches with different seeds on SYNTHETIC cells, each once with ASHA and once without; the
same configurations in both. Regret is how much worse the best run that ASHA found is than the
best there was. It should lie within the SD of the best score over the five searches.

    .venv/bin/python benchmarks/asha_regret.py --out benchmarks/results/asha_regret.json
"""

import argparse
import statistics
import tempfile
from pathlib import Path

from leuk_ray import cluster
from leuk_ray.datasets.prepare import prepare
from leuk_ray.datasets.prepared import PreparedDataset
from leuk_ray.datasets.synthetic import SyntheticSpec, write_c_nmc
from leuk_ray.images import StorageSettings
from leuk_ray.runs.executor import Executor
from leuk_ray.storage import write_json
from leuk_ray.tuning.schedulers import make_scheduler
from leuk_ray.tuning.searchers import listed
from leuk_ray.tuning.settings import SweepSettings, load_sweep

QUICK = Path(__file__).parents[1] / "tune_configs" / "quick.yaml"


def search(sweep: SweepSettings, dataset: PreparedDataset, out: Path) -> tuple[float, int]:
    """The best score of a search, and how many epochs it took."""
    executor = Executor(out, dataset, sweep.resources, [sweep.base()], judged=False)
    out.mkdir(parents=True)
    executor.run_all(listed(sweep) or [], out.name, make_scheduler(sweep))
    records = executor.table.records().values()
    best = max(record.score for record in records if record.score is not None)
    return best, sum(len(record.curve) for record in records)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--searches", type=int, default=5)
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="as `leuk-ray tune`")
    arguments = parser.parse_args()
    cluster.connect(num_workers=0)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        write_c_nmc(root / "cells", SyntheticSpec())
        prepare(root / "cells", root / "dataset", "c-nmc", StorageSettings(size=64))
        dataset = PreparedDataset.open(str(root / "dataset"))
        print(
            f"{'seed':>4} {'to the end':>10} {'ASHA':>7} {'regret':>7} {'epochs':>7} {'share':>6}"
        )
        for seed in range(arguments.searches):
            common = [*arguments.overrides, f"seeds=[{seed}]"]
            to_end = load_sweep(str(QUICK), [*common, "scheduler.kind=none"])
            best, epochs = search(to_end, dataset, root / f"to-end-{seed}")
            found, taken = search(load_sweep(str(QUICK), common), dataset, root / f"asha-{seed}")
            row = {"seed": seed, "to_end": best, "asha": found, "regret": best - found}
            rows.append(row | {"epochs": epochs, "asha_epochs": taken})
            print(
                f"{seed:4} {best:10.4f} {found:7.4f} {best - found:7.4f} {taken:3}/{epochs:3} "
                f"{taken / epochs:6.0%}",
                flush=True,
            )
    spread = statistics.stdev(row["to_end"] for row in rows)
    regret = statistics.mean(row["regret"] for row in rows)
    share = sum(row["asha_epochs"] for row in rows) / sum(row["epochs"] for row in rows)
    print(
        f"mean regret {regret:.4f}, SD of the best over searches {spread:.4f}, {share:.0%} epochs"
    )
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    write_json(
        arguments.out,
        {"synthetic": True, "rows": rows, "regret": regret, "spread": spread, "share": share},
    )


if __name__ == "__main__":
    main()
