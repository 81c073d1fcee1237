"""How close a split comes to 8:1:1 where patients differ in size, and how often a class is missing.

Groups of two classes are drawn in several regimes; each is split with several seeds. The error is
the largest difference of any role's share of any class from what was asked for. Groups stay whole
and validation and test need 3 of each class where there are 9, so it cannot always be 0.

    python benchmarks/split_shares.py [--splits 40]
"""

from __future__ import annotations

import argparse
import time

import numpy as np

from leuk_ray.datasets.holdout import ROLES, holdout_roles

SHARES = (0.8, 0.1, 0.1)
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


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--splits", type=int, default=40)
    given = parser.parse_args()
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
