"""What each mechanism against fitting to subjects gains, on SYNTHETIC cells of uneven subjects.

90% of the variance of stain and size is between subjects, who have 3 to 20 cells each. `lite` is
cross-validated with and without each mechanism, all over the same folds and seeds, and compared
by a paired bootstrap over groups. What is done is not done again. `folds`: the networks of the
four folds (seed 0) of `base`, alone and voting, on cells of 40 other subjects.

    python benchmarks/mechanisms.py OUT [NAME ...] [folds]
"""

from __future__ import annotations

import argparse
from collections import Counter
from pathlib import Path

import numpy as np
from sklearn.metrics import roc_auc_score

import leuk_ray as lr
from leuk_ray.bundles.bundle import write_ensemble
from leuk_ray.datasets.prepared import PreparedDataset
from leuk_ray.datasets.synthetic import SyntheticSpec, write_c_nmc
from leuk_ray.evaluation.intervals import GroupResamples
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


def measure_folds(out: Path) -> None:
    """Print the area under ROC of single folds and of their ensemble."""
    if not (out / "fresh").exists():
        write_c_nmc(out / "fresh", SyntheticSpec(cells=600, subjects=40, subject_share=0.9, seed=1))
    paths = sorted((out / "fresh").rglob("UID_*.bmp"))
    label = np.asarray([path.stem.endswith("all") for path in paths], np.int64)
    members = [out / "base" / "runs" / f"seed0.fold{fold}" / "bundle" for fold in range(FOLDS)]
    if not (out / "voting").exists():
        write_ensemble(out / "voting", members, "soft")
    scores = []
    for bundle in (*members, out / "voting"):
        answers = lr.Classifier.load(bundle).predict(paths)
        scores.append(np.asarray([answer.probability for answer in answers]))
    subjects = [path.stem.split("_")[1] for path in paths]
    resampled = GroupResamples.sample(label, subjects, seed=0)
    areas = np.stack([resampled.auc(label, score) for score in scores])
    gain = resampled.of_resamples(areas[-1] - areas[:-1].mean(axis=0))
    low, high = np.quantile(gain, [0.025, 0.975])
    alone = ", ".join(f"{roc_auc_score(label, score):.3f}" for score in scores[:-1])
    mean = np.mean([roc_auc_score(label, score) for score in scores[:-1]])
    voted = roc_auc_score(label, scores[-1])
    print(f"folds on {len(paths)} cells of {len(set(subjects))} new subjects: AUC {alone}")
    print(
        f"  ensemble {voted:.3f}: {voted - mean:+.3f} ({low:+.3f} to {high:+.3f}) over their mean"
    )


def main() -> None:
    """Cross-validate the mechanisms that are named, and compare those that are done."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("names", nargs="*", choices=[[], *MECHANISMS, "folds"], metavar="NAME")
    asked = parser.parse_args()
    dataset = make_dataset(asked.out)
    for name in [name for name in asked.names or MECHANISMS if name != "folds"]:
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
    if not asked.names or "folds" in asked.names:
        measure_folds(asked.out)


if __name__ == "__main__":
    main()
