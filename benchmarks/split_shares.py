"""How close a split comes to 8:1:1 where patients differ in size, and how often a class is missing.

Groups of two classes are drawn in several regimes; each is split with several seeds. The error is
the largest difference of any role's share of any class from what was asked for. Groups stay whole
and validation and test need 3 of each class where there are 9, so it cannot always be 0.

With an index of C-NMC 2019 (CSV with the columns path and sha256), of its training cells instead:
how many groups of each class are tested at several shares, and how often too few for an interval.

    python benchmarks/split_shares.py [--splits 40] [--index full_index.csv]
"""

from __future__ import annotations

import argparse
import csv
import time
from pathlib import Path

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from leuk_ray.datasets.holdout import ROLES, holdout_roles

SHARES = (0.8, 0.1, 0.1)
OF_C_NMC = (SHARES, (0.7, 0.15, 0.15), (0.6, 0.2, 0.2), (0.5, 0.25, 0.25))
Sizes = list[int]


def regimes(generator: np.random.Generator) -> dict[str, tuple[Sizes, Sizes]]:
    """Cells of each group of the two classes, by regime."""

    def uneven(number: int, spread: float) -> Sizes:
        return np.ceil(generator.lognormal(3.5, spread, number)).astype(int).tolist()

    return {
        "22 + 44 even": ([60] * 22, [60] * 44),
        "22 + 44, log SD 1": (uneven(22, 1), uneven(44, 1)),
        "13 + 15, log SD 1": (uneven(13, 1), uneven(15, 1)),
        "13 + 15, log SD 2": (uneven(13, 2), uneven(15, 2)),
        "6 + 6, log SD 1": (uneven(6, 1), uneven(6, 1)),
        "13 + 13, one of 97% of its class": ([30] * 13, [2000, *[5] * 12]),
        "13 + 13, two of 45% of their class": ([30] * 13, [900, 900, *[18] * 11]),
    }


def c_nmc(index: Path) -> tuple[np.ndarray, np.ndarray]:
    """Label and group of the training cells; identical files join their subjects."""
    cells: list[tuple[int, str, str]] = []
    with index.open(newline="") as lines:
        for row in csv.DictReader(lines):
            stem = Path(row["path"]).stem
            if "training_data/" in row["path"]:
                cells.append((int(stem.endswith("all")), stem.split("_")[1].upper(), row["sha256"]))
    unique = {sha256: (label, subject) for label, subject, sha256 in cells}
    labels, subjects = zip(*unique.values(), strict=True)
    names = {name: number for number, name in enumerate(sorted({cell[1] for cell in cells}))}
    by_hash: dict[str, int] = {}
    pairs = [
        (names[subject], by_hash.setdefault(sha256, names[subject])) for _, subject, sha256 in cells
    ]
    rows, columns = zip(*pairs, strict=True)
    graph = coo_array((np.ones(len(rows)), (rows, columns)), shape=(len(names), len(names)))
    _, group = connected_components(graph, directed=False)
    own = group[[names[subject] for subject in subjects]]
    return np.asarray(labels), np.asarray([str(number) for number in own], object)


def tested_groups(index: Path, splits: int) -> None:
    """Print how many groups of each class C-NMC's test sets hold."""
    labels, groups = c_nmc(index)
    held = [len(set(groups[labels == label])) for label in (0, 1)]
    print(f"{len(labels)} cells of {held[0]} healthy and {held[1]} ALL groups")
    print(
        "| shares | healthy groups tested: least, median, most | below 5 | below 10 | ALL groups |"
    )
    print("|---|---|---|---|---|")
    for shares in OF_C_NMC:
        tested = []
        for seed in range(splits):
            test = holdout_roles(labels, groups, shares, seed) == "test"
            tested.append([len(set(groups[test & (labels == label)])) for label in (0, 1)])
        healthy, leukemic = np.asarray(tested).T
        print(
            f"| {':'.join(f'{10 * share:g}' for share in shares)} "
            f"| {healthy.min()}, {np.median(healthy):g}, {healthy.max()} "
            f"| {(healthy < 5).mean():.0%} | {(healthy < 10).mean():.0%} "
            f"| {leukemic.min()}, {np.median(leukemic):g}, {leukemic.max()} |",
            flush=True,
        )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--splits", type=int, default=40)
    parser.add_argument("--index", type=Path)
    given = parser.parse_args()
    if given.index:
        tested_groups(given.index, given.splits)
        return
    print("| groups | a role lacks a class | largest error: median | 95% | ms a split |")
    print("|---|---|---|---|---|")
    generator = np.random.default_rng(0)
    found: dict[str, list[tuple[bool, float, float]]] = {}
    for seed in range(given.splits):
        for name, sizes in regimes(generator).items():
            groups = [(label, n, size) for label in (0, 1) for n, size in enumerate(sizes[label])]
            repeats = [size for _, _, size in groups]
            labels = np.repeat([label for label, _, _ in groups], repeats)
            names = np.asarray([f"{'H' * (1 - label)}{n}" for label, n, _ in groups], object)
            start = time.process_time()
            roles = holdout_roles(labels, np.repeat(names, repeats), SHARES, seed)
            taken = time.process_time() - start
            share = np.stack([[(roles[labels == c] == r).mean() for c in (0, 1)] for r in ROLES])
            error = np.abs(share - np.asarray(SHARES)[:, None]).max()
            found.setdefault(name, []).append((bool((share == 0).any()), float(error), taken))
    for name, rows in found.items():
        lacking, error, taken = (np.asarray(column, float) for column in zip(*rows, strict=True))
        print(
            f"| {name} | {lacking.mean():.0%} | {np.median(error):.3f} "
            f"| {np.quantile(error, 0.95):.3f} | {1000 * taken.mean():.0f} |"
        )


if __name__ == "__main__":
    main()
