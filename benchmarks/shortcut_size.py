"""How often the audit warns of a property that says nothing of the class, and of one that does.

Properties of cells differ between subjects (SD 1 or 0.3 beside an SD of 1 within), in three
columns like a mean colour or in one like an area, and by class not at all or by 1.5 SD in the
first column. Beside the permutation over subjects stands the fixed bound of 0.70 that it replaced.

    python benchmarks/shortcut_size.py [--trials 200]
"""

from __future__ import annotations

import argparse

import numpy as np

from leuk_ray.datasets.shortcuts import CHANCE, measure_shortcut

GROUPS = ((5, 5), (13, 15), (22, 44))
BETWEEN = (0.3, 1.0)
CELLS = 20


def draw(
    generator: np.random.Generator,
    groups: tuple[int, int],
    between: float,
    columns: int,
    gap: float,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Features, label and group of the cells of uneven subjects."""
    num = sum(groups)
    size = np.ceil(generator.lognormal(np.log(CELLS) - 0.4, 0.9, num)).astype(int)
    group = np.repeat(np.arange(num), size)
    label = (group >= groups[0]).astype(np.int64)
    effect = between * generator.standard_normal((num, columns))
    feature = effect[group] + generator.standard_normal((len(group), columns))
    feature[:, 0] += gap * label
    return feature, label, group.astype(str).astype(object)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=200)
    trials = parser.parse_args().trials
    print("| groups | SD between | columns | null: warned | AUC >= 0.70 | planted: warned |")
    print("|---|---|---|---|---|---|")
    for groups in GROUPS:
        for between in BETWEEN:
            for columns in (1, 3):
                generator = np.random.default_rng(0)
                null, planted = (
                    [
                        measure_shortcut(*draw(generator, groups, between, columns, gap))
                        for _ in range(number)
                    ]
                    for gap, number in ((0.0, trials), (1.5, trials // 4))
                )
                p = np.asarray([found["p"] for found in null])
                area = np.asarray([found["auc"] for found in null])
                seen = np.mean([found["p"] <= CHANCE for found in planted])
                warned = (p <= CHANCE).mean()
                print(
                    f"| {groups[0]} + {groups[1]} | {between} | {columns} | {warned:.3f}"
                    f" | {(area >= 0.7).mean():.3f} | {seen:.2f} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
