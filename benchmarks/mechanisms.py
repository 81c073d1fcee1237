"""What each mechanism against fitting to subjects gains, on SYNTHETIC cells of uneven subjects.

90% of the variance of stain and size is between subjects, who have 3 to 20 cells each. `lite` is
cross-validated with and without each mechanism, all over the same folds and seeds, and compared
by a paired bootstrap over groups. What is done is not done again.

    python benchmarks/mechanisms.py OUT [NAME ...]
"""

from __future__ import annotations

import argparse
from collections import Counter
from pathlib import Path

import leuk_ray as lr
from leuk_ray.datasets.prepared import PreparedDataset
from leuk_ray.datasets.synthetic import SyntheticSpec, write_c_nmc
from leuk_ray.workflows.compare import compare

BASE = {"model.input_size": 96, "training.epochs": 4, "augment.policy": "modern"}
MECHANISMS: dict[str, dict[str, object]] = {
    "base": {},
    "sampling": {"training.sampling": "groups"},
    "views": {"model.views": "dihedral"},
    "drop_path": {"model.drop_path": 0.2},
    "mixing": {"augment.mixup": 0.2, "augment.cutmix": 1.0},
    "ema": {"training.ema_decay": 0.95},
}
SIZES = (20, 14, 8, 3)  # cells of a subject, in turn
FOLDS, SEEDS = 4, 2


def make_dataset(out: Path) -> PreparedDataset:
    """Render cells of 32 subjects and leave each a number of them."""
    if not (out / "dataset").exists():
        write_c_nmc(out / "cells", SyntheticSpec(cells=640, subjects=32, subject_share=0.9))
        seen: Counter[str] = Counter()
        numbers: dict[str, int] = {}
        for path in sorted((out / "cells").rglob("UID_*.bmp")):
            subject = path.stem.split("_")[1]
            number = numbers.setdefault(subject, len(numbers))
            seen[subject] += 1
            if seen[subject] > SIZES[number % len(SIZES)]:
                path.unlink()
        lr.prepare(out / "cells", out / "dataset", layout="c-nmc", size=128)
    return PreparedDataset.open(out / "dataset")


def main() -> None:
    """Cross-validate the mechanisms that are named, and compare those that are done."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("names", nargs="*", choices=[[], *MECHANISMS], metavar="NAME")
    asked = parser.parse_args()
    dataset = make_dataset(asked.out)
    for name in asked.names or MECHANISMS:
        place = asked.out / name
        if not (place / "report").exists():
            settings = BASE | MECHANISMS[name]
            lr.crossval(
                "lite", dataset, place, folds=FOLDS, seeds=SEEDS, settings=settings,
                resume=(place / "crossval.yaml").exists(), show_images=False,
            )  # fmt: skip
    for name in MECHANISMS:
        if name == "base" or not all((asked.out / n / "report").exists() for n in (name, "base")):
            continue
        found = compare((asked.out / "base", asked.out / name), dataset)
        right = [found["both_correct"] + found[side] for side in ("only_first", "only_second")]
        print(f"{name}: {right[1]} of {found['cells']} correct, base {right[0]}; {found['groups']}")
        for metric in ("auc", "nll"):
            one = found["metrics"][metric]
            print(
                f"  {metric} {one['first']:.3f} -> {one['second']:.3f}: {one['difference']:+.3f} "
                f"({one['low']:+.3f} to {one['high']:+.3f}), p {one['p']:.2f}"
            )


if __name__ == "__main__":
    main()
