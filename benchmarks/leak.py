"""How much better a network looks on a split that lets subjects cross, and when it does not.

    python benchmarks/leak.py --out leak

Rendered cells carry a known signal (best AUC 0.70). Where most of the variance of stain and size
lies between subjects, a network that has seen a subject knows its cells by their stain, and
`paper-literal`, which tests on copies of training cells, looks better than `subject-disjoint`.
Where stain is drawn for every cell alone, there is no subject to know, and the two should agree.
Each seed has subjects, re-splits and weights of its own; differences are paired. SYNTHETIC cells.
Ctrl-C is safe: the same command goes on.
"""

from __future__ import annotations

import json
from pathlib import Path

import click
import numpy as np

from leuk_ray.datasets.images import StorageSettings
from leuk_ray.datasets.prepared import PreparedDataset
from leuk_ray.datasets.synthetic import SyntheticSpec, write_c_nmc
from leuk_ray.experiments.tables import summary
from leuk_ray.io.storage import read_json, write_json
from leuk_ray.recipes.recipe import load_recipe
from leuk_ray.runs.placement import Resources
from leuk_ray.runs.spec import RunSpec, make_splits

SHARES = (0.9, 0.0)  # of stain's variance between subjects: planted, and none
LEAKY, HONEST = "paper-literal", "subject-disjoint"
METRICS = ("accuracy", "auc")
CELLS, SUBJECTS, SIZE, BEST_AUC = 240, 24, 48, 0.70
RESPLITS = 3
SETTINGS = [
    "filters=[16,32,32]", "reduction=4", f"input_size={SIZE}", "epochs=12", "batch_size=16",
    "lr=0.003", f"balance={CELLS // 2}", f"copies={CELLS}", "fill=black",
    "fractions=[0.5,0.2,0.3]",
]  # fmt: skip


def specs() -> list[RunSpec]:
    """The runs on one dataset: a narrow SE-CNN, two protocols, three re-splits."""
    base = load_recipe("bukhari2022-se", SETTINGS)
    return [
        RunSpec(
            f"{protocol}.{resplit}",
            base,
            {"split.protocol": protocol, "split.seed": resplit, "seed": resplit},
        )
        for resplit in range(RESPLITS)
        for protocol in (LEAKY, HONEST)
    ]


def make_dataset(folder: Path, share: float, seed: int) -> PreparedDataset:
    """Render and prepare a seed's own subjects, unless that has been done."""
    if not (folder / "dataset").exists():
        from leuk_ray.datasets.prepare import prepare

        if not (folder / "cells").exists():
            spec = SyntheticSpec(CELLS, SUBJECTS, seed, BEST_AUC, subject_share=share)
            write_c_nmc(folder / "cells", spec)
        prepare(folder / "cells", folder / "dataset", "c-nmc", StorageSettings(size=SIZE))
    return PreparedDataset.open(str(folder / "dataset"))


def train(folder: Path, dataset: PreparedDataset) -> None:
    """Train what the folder's table has not as done."""
    from leuk_ray.runs.executor import Executor

    wanted = specs()
    splits = make_splits(dataset, [spec.resolved for spec in wanted])
    executor = Executor(folder, dataset, Resources(), splits, evaluated=True)
    executor.run_all(wanted, folder.name)


def scores(folder: Path) -> dict[str, dict[str, float]]:
    """Mean over the re-splits: protocol -> metric -> value on test cells."""
    found = {}
    for protocol in (LEAKY, HONEST):
        reports = [
            read_json(str(folder / "runs" / f"{protocol}.{resplit}" / "report" / "report.json"))
            for resplit in range(RESPLITS)
        ]
        found[protocol] = {
            metric: float(np.mean([r["metrics"]["test"][metric]["value"] for r in reports]))
            for metric in METRICS
        }
    return found


def compare(out: Path, seeds: int) -> list[dict]:
    """Paired differences over the seeds, with their 95% t interval."""
    rows = []
    for share in SHARES:
        by_seed = {seed: scores(out / f"share{share}-seed{seed}") for seed in range(seeds)}
        for metric in METRICS:
            gaps = {s: found[LEAKY][metric] - found[HONEST][metric] for s, found in by_seed.items()}
            means = {
                protocol: float(np.mean([found[protocol][metric] for found in by_seed.values()]))
                for protocol in (LEAKY, HONEST)
            }
            rows.append({"subject_share": share, "metric": metric} | means | summary(gaps))
    return rows


def print_table(rows: list[dict], seeds: int) -> None:
    print(f"SYNTHETIC cells, best AUC {BEST_AUC}, {seeds} seeds of {RESPLITS} re-splits")
    print(f"subject share  metric    {LEAKY:>14}{HONEST:>18}{'difference':>12}  95% interval")
    for row in rows:
        line = f"{row['subject_share']:13}  {row['metric']:9}{row[LEAKY]:15.3f}{row[HONEST]:18.3f}"
        print(f"{line}{row['mean']:+12.3f}  {row['low']:+.3f} to {row['high']:+.3f}")


@click.command()
@click.option("--out", type=click.Path(path_type=Path), required=True)
@click.option("--seeds", default=5, show_default=True, type=click.IntRange(2))
def main(out: Path, seeds: int) -> None:
    """Measure the leak with and without subject effects."""
    from leuk_ray.cluster import ray_cluster

    ray_cluster.connect(num_workers=0)
    for seed in range(seeds):
        for share in SHARES:
            folder = out.absolute() / f"share{share}-seed{seed}"
            folder.mkdir(parents=True, exist_ok=True)
            train(folder, make_dataset(folder, share, seed))
    rows = compare(out.absolute(), seeds)
    write_json(out / "leak.json", {"seeds": seeds, "settings": SETTINGS, "rows": rows})
    print(json.dumps(rows))
    print_table(rows, seeds)


if __name__ == "__main__":
    main()
